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

func TestObjectsAreNotCopied(t *testing.T) {
	one, two := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "two"}}
	nodes, err := cached.Of(t.Context(), oneInformer{informer: informerWith(t, one, two)}, &corev1.Node{})
	if err != nil {
		t.Fatal(err)
	}
	list := nodes.List()
	if len(list) != 2 || list[0] == list[1] {
		t.Fatalf("got %v, want two Nodes", list)
	}
	for _, node := range list {
		if node != one && node != two {
			t.Errorf("%s is a copy", node.Name)
		}
	}
	if got, ok := nodes.Get("two"); !ok || got != two || !nodes.Has("two") {
		t.Errorf("Get(two) = %v, %v, want the Node itself", got, ok)
	}
	if got, ok := nodes.Get("three"); ok || got != nil || nodes.Has("three") {
		t.Errorf("Get(three) = %v, %v, want none", got, ok)
	}
}

func TestOfFails(t *testing.T) {
	for name, test := range map[string]struct {
		cache oneInformer
		want  string
	}{
		"no informer": {oneInformer{err: errors.New("not synced")}, "not synced"},
		"no store":    {oneInformer{informer: struct{ cache.Informer }{}}, "has no store"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cached.Of(t.Context(), test.cache, &corev1.Node{})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "*v1.Node") {
				t.Errorf("error %v, want one about *v1.Node that says %q", err, test.want)
			}
		})
	}
}
