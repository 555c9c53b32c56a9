// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cached_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/controllers/internal/cached"
)

// oneInformer is a cache that has one informer, or an error.
type oneInformer struct {
	cache.Cache
	informer cache.Informer
	err      error
}

func (c oneInformer) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return c.informer, c.err
}

func informerWith(t *testing.T, objects ...any) toolscache.SharedIndexInformer {
	t.Helper()
	informer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, &corev1.Node{}, 0, toolscache.Indexers{})
	for _, object := range objects {
		if err := informer.GetStore().Add(object); err != nil {
			t.Fatal(err)
		}
	}
	return informer
}

func TestListGivesTheObjectsThemselves(t *testing.T) {
	one, two := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "two"}}
	nodes, err := cached.List(t.Context(), oneInformer{informer: informerWith(t, one, two)}, &corev1.Node{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[0] == nodes[1] {
		t.Fatalf("got %v, want two Nodes", nodes)
	}
	for _, node := range nodes {
		if node != one && node != two {
			t.Errorf("%s is a copy", node.Name)
		}
	}
}

func TestListFails(t *testing.T) {
	for name, test := range map[string]struct {
		cache oneInformer
		want  string
	}{
		"no informer":    {oneInformer{err: errors.New("not synced")}, "not synced"},
		"no store":       {oneInformer{informer: struct{ cache.Informer }{}}, "has no store"},
		"another object": {oneInformer{informer: informerWith(t, &corev1.Pod{})}, "holds a *v1.Pod"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cached.List(t.Context(), test.cache, &corev1.Node{})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "*v1.Node") {
				t.Errorf("error %v, want one about *v1.Node that says %q", err, test.want)
			}
		})
	}
}
