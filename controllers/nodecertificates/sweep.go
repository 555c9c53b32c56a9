// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/notafter/notafter/controllers/internal/enqueue"
)

// sweep tells when every node has been looked at, and what was found is written, for the first time since the process began to
// do so. What was written before may be of any age.
type sweep struct {
	nodes client.Reader

	mu sync.Mutex
	// looked are the nodes that were looked at before it was known which there are, and left those that were not, after.
	looked, left sets.Set[string]
	listed       bool
	done         chan struct{}
}

func newSweep(nodes client.Reader) *sweep {
	return &sweep{nodes: nodes, looked: sets.New[string](), done: make(chan struct{})}
}

// start is a source.Func: a controller starts when its process begins to lead.
func (s *sweep) start(ctx context.Context, _ enqueue.Queue) error {
	go func() {
		var nodes corev1.NodeList
		if err := s.nodes.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
			// Nothing is held up: who waits does not wait for long.
			logf.FromContext(ctx).Error(err, "Nodes could not be listed to tell when all have been looked at")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.left = sets.New[string]()
		for i := range nodes.Items {
			s.left.Insert(nodes.Items[i].Name)
		}
		s.left = s.left.Difference(s.looked)
		s.listed, s.looked = true, nil
		s.finish()
	}()
	return nil
}

// look notes that a node was looked at, or that this takes long.
func (s *sweep) look(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.listed:
		s.looked.Insert(node)
	case s.left.Has(node):
		s.left.Delete(node)
		s.finish()
	}
}

// finish closes done once no node is left. The caller holds the lock.
func (s *sweep) finish() {
	if s.left.Len() == 0 {
		close(s.done)
	}
}
