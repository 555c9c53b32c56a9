// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package optional

import (
	"context"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// wantTime is how long the first who wants a source waits for its first answer.
const wantTime = 2 * time.Second

// OnDemand is a Source that asks the API server for nothing before somebody wants it. It is not stopped again: what was wanted
// once may be wanted again, and what it keeps is small.
type OnDemand[T client.Object] struct {
	*Source[T]

	wanted chan struct{}
	once   sync.Once
}

// NewOnDemand is New for a source that waits to be wanted.
func NewOnDemand[T client.Object](c client.WithWatch, kind T, o Options) (*OnDemand[T], error) {
	s, err := New(c, kind, o)
	if err != nil {
		return nil, err
	}
	return &OnDemand[T]{Source: s, wanted: make(chan struct{})}, nil
}

// Want begins to watch. The first call returns when the API server has answered, or after a moment, so that who reads the
// source next does not have to report that nothing was read yet. Calls at the same time wait for it, all others return at once.
func (o *OnDemand[T]) Want(ctx context.Context) {
	o.once.Do(func() {
		close(o.wanted)
		ctx, cancel := context.WithTimeout(ctx, wantTime)
		defer cancel()
		select {
		case <-o.settled:
		case <-ctx.Done():
		}
	})
}

// Start watches from the time that somebody wants it until the context ends. It implements manager.Runnable.
func (o *OnDemand[T]) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-o.wanted:
		return o.Source.Start(ctx)
	}
}

// Changed is that of the Source, except that the controller's start waits for nothing.
func (o *OnDemand[T]) Changed(
	h handler.TypedEventHandler[T, reconcile.Request], predicates ...predicate.TypedPredicate[T],
) source.Source {
	return source.Func(o.Source.Changed(h, predicates...).Start)
}
