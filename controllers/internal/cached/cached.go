// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cached reads all objects of a kind from the manager's cache without copying any. A client's List fills a list of
// structs, one by one and by reflection, which at 5,000 nodes takes longer than judging them.
package cached

import (
	"context"
	"fmt"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// List returns the objects in the cache of kind's type, in no order. They belong to the cache: nobody may change them. kind
// itself is not changed.
func List[object client.Object](ctx context.Context, objects cache.Cache, kind object) ([]object, error) {
	informer, err := objects.GetInformer(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("reading the cache of %T: %w", kind, err)
	}
	stored, ok := informer.(interface{ GetStore() toolscache.Store })
	if !ok {
		return nil, fmt.Errorf("reading the cache of %T: %T has no store: limit the kind to fewer namespaces, or to none",
			kind, informer)
	}
	all := stored.GetStore().List()
	list := make([]object, len(all))
	for i := range all {
		if list[i], ok = all[i].(object); !ok {
			return nil, fmt.Errorf("reading the cache of %T: it holds a %T", kind, all[i])
		}
	}
	return list, nil
}
