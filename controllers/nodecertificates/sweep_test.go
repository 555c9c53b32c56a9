// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// Whoever waits for the first look at every node is not told so before, whichever comes first: the look, or the list of nodes.
func TestSweep(t *testing.T) {
	named := func(name string) client.Object { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	for name, test := range map[string]struct {
		nodes         []client.Object
		before, after []string
		done          bool
	}{
		"without nodes":          {done: true},
		"before any look":        {nodes: []client.Object{named("a")}},
		"a look at another node": {nodes: []client.Object{named("a")}, before: []string{"b"}, after: []string{"c"}},
		"all but one":            {nodes: []client.Object{named("a"), named("b"), named("c")}, before: []string{"a"}, after: []string{"b"}},
		"all":                    {nodes: []client.Object{named("a"), named("b")}, before: []string{"a"}, after: []string{"b", "b", "a"}, done: true},
		"all before":             {nodes: []client.Object{named("a"), named("b")}, before: []string{"a", "b"}, done: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSweep(fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(test.nodes...).Build())
			for _, node := range test.before {
				s.look(node)
			}
			if err := s.start(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			listed := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.listed }
			for deadline := time.Now().Add(time.Minute); !listed(); {
				if time.Now().After(deadline) {
					t.Fatal("the nodes are not listed")
				}
			}
			for _, node := range test.after {
				s.look(node)
			}
			select {
			case <-s.done:
				if !test.done {
					t.Error("done too soon")
				}
			default:
				if test.done {
					t.Error("not done")
				}
			}
		})
	}
}
