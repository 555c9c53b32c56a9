// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package enqueue has what the controllers' watches share: how an event, or another goroutine, gets work into a queue, and how
// long that waits there.
package enqueue

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// NoDelay is the wait of what is due: no wait at all would mean that nothing is to come.
	NoDelay = time.Millisecond
	// BatchWindow is how long work waits for what else changes in the same moment.
	BatchWindow = 50 * time.Millisecond
	// StaleRetry is the wait for a cache that is behind what was just written.
	StaleRetry = 250 * time.Millisecond
)

// Queue is that of a controller.
type Queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// OnAny is a handler that does the same, whatever happened to an object.
func OnAny[T client.Object](do func(context.Context, Queue)) handler.TypedEventHandler[T, reconcile.Request] {
	return handler.TypedFuncs[T, reconcile.Request]{
		CreateFunc: func(ctx context.Context, _ event.TypedCreateEvent[T], q Queue) { do(ctx, q) },
		UpdateFunc: func(ctx context.Context, _ event.TypedUpdateEvent[T], q Queue) { do(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.TypedDeleteEvent[T], q Queue) { do(ctx, q) },
		// What is watched can be read after it could not, or the other way round.
		GenericFunc: func(ctx context.Context, _ event.TypedGenericEvent[T], q Queue) { do(ctx, q) },
	}
}

// Waker is a source for a controller that others wake when they have news for it. It may be used by several goroutines at once.
type Waker struct {
	mu    sync.RWMutex
	queue Queue
}

// Start implements source.Source.
func (w *Waker) Start(_ context.Context, q Queue) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = q
	return nil
}

// Wake has the controller's queue filled. A controller that has not started yet needs no waking: it begins with everything.
func (w *Waker) Wake(fill func(Queue)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.queue != nil {
		fill(w.queue)
	}
}

// Signal says to one receiver that something changed. One event that waits says as much as many.
type Signal chan event.GenericEvent

// NewSignal returns a signal that has not been sent.
func NewSignal() Signal { return make(Signal, 1) }

// Send waits for nobody.
func (s Signal) Send() {
	select {
	case s <- event.GenericEvent{}:
	default: // the receiver has not taken the last one yet, and looks after it does
	}
}
