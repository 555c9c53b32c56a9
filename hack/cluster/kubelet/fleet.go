// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/sets"
)

// starting is how many kubelets of a Fleet start, or stop, at the same time.
const starting = 16

// Fleet runs many kubelets in one process. They share what they can: the API server's CA pool, the bootstrap client
// with its connections, and the compiler of the authorizer. Each has its own client certificate, and so a connection of
// its own.
type Fleet struct {
	shared *shared
	dir    string

	mu       sync.Mutex
	names    sets.Set[string] // of those that start, too
	kubelets map[string]*Kubelet
}

// NewFleet returns an empty fleet, whose kubelets have their folders under dir.
func NewFleet(join Join, dir string) (*Fleet, error) {
	s, err := newShared(join)
	if err != nil {
		return nil, err
	}
	return &Fleet{shared: s, dir: dir, names: sets.New[string](), kubelets: map[string]*Kubelet{}}, nil
}

func (f *Fleet) reserve(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names.Has(name) {
		return false
	}
	f.names.Insert(name)
	return true
}

// Start starts one more kubelet; see the function Start. Options.Join is not used, and Dir defaults to the fleet's
// folder plus the name.
func (f *Fleet) Start(ctx context.Context, o Options) (*Kubelet, error) {
	if o.Dir == "" && o.Name != "" {
		o.Dir = filepath.Join(f.dir, o.Name)
	}
	if !f.reserve(o.Name) {
		return nil, fmt.Errorf("kubelet %q: the fleet has one of that name", o.Name)
	}
	k, err := start(ctx, f.shared, o)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.names.Delete(o.Name)
		return nil, err
	}
	f.kubelets[o.Name] = k
	return k, nil
}

// StartAll starts a kubelet for each of the options. When one fails, the others that started keep running.
func (f *Fleet) StartAll(ctx context.Context, options ...Options) error {
	var group errgroup.Group
	group.SetLimit(starting)
	for _, o := range options {
		group.Go(func() error {
			_, err := f.Start(ctx, o)
			return err
		})
	}
	return group.Wait()
}

// Kubelet returns the kubelet of a name, or nil.
func (f *Fleet) Kubelet(name string) *Kubelet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kubelets[name]
}

// Kubelets returns all of them in the order of their names.
func (f *Fleet) Kubelets() []*Kubelet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.kubelets), func(a, b *Kubelet) int { return cmp.Compare(a.name, b.name) })
}

// WaitRegistered waits until every kubelet has registered its Node.
func (f *Fleet) WaitRegistered(ctx context.Context) error {
	for _, k := range f.Kubelets() {
		if err := k.WaitRegistered(ctx); err != nil {
			return err
		}
	}
	return nil
}

// WaitServing waits until every kubelet has a serving certificate.
func (f *Fleet) WaitServing(ctx context.Context) error {
	for _, k := range f.Kubelets() {
		if err := k.WaitServing(ctx); err != nil {
			return err
		}
	}
	return nil
}

// OnHandshake has observe called at each TLS handshake with one of the kubelets, before it gets an answer; with nil, nothing
// any more. observe may be called from several goroutines at once.
func (f *Fleet) OnHandshake(observe func(node string)) {
	if observe == nil {
		f.shared.onHandshake.Store(nil)
		return
	}
	f.shared.onHandshake.Store(&observe)
}

// Stop stops every kubelet.
func (f *Fleet) Stop() {
	var group errgroup.Group
	group.SetLimit(starting)
	for _, k := range f.Kubelets() {
		group.Go(func() error {
			k.Stop()
			return nil
		})
	}
	_ = group.Wait() // Stop cannot fail
	f.shared.closeBootstrap()
}
