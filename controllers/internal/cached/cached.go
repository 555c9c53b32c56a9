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

// Objects are those of one cluster-scoped kind in the manager's cache. They belong to the cache: nobody may change them.
type Objects[T client.Object] struct {
	store toolscache.Store
}

// Of returns the objects of kind's type, once the cache has them. kind itself is not changed.
func Of[T client.Object](ctx context.Context, objects cache.Cache, kind T) (Objects[T], error) {
	informer, err := objects.GetInformer(ctx, kind)
	if err != nil {
		return Objects[T]{}, fmt.Errorf("reading the cache of %T: %w", kind, err)
	}
	stored, ok := informer.(interface{ GetStore() toolscache.Store })
	if !ok {
		return Objects[T]{}, fmt.Errorf(
			"reading the cache of %T: %T has no store: limit the kind to fewer namespaces, or to none", kind, informer)
	}
	return Objects[T]{store: stored.GetStore()}, nil
}

// List returns all of them, in no order.
func (o Objects[T]) List() []T {
	all := o.store.List()
	list := make([]T, 0, len(all))
	for _, stored := range all {
		if one, ok := stored.(T); ok {
			list = append(list, one)
		}
	}
	return list
}

// Get returns the one of that name, and whether there is one.
func (o Objects[T]) Get(name string) (one T, ok bool) {
	stored, exists, err := o.store.GetByKey(name)
	if err != nil || !exists {
		return one, false
	}
	one, ok = stored.(T)
	return one, ok
}

// Has says whether there is one of that name.
func (o Objects[T]) Has(name string) bool {
	_, ok := o.Get(name)
	return ok
}
