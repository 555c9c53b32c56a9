// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package enqueue_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/controllers/internal/enqueue"
)

func item(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: name}}
}

func newQueue(t *testing.T) enqueue.Queue {
	t.Helper()
	q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(q.ShutDown)
	return q
}

func TestOnAnyEvent(t *testing.T) {
	type object = *corev1.Node
	for name, happen := range map[string]func(q enqueue.Queue, do func(context.Context, enqueue.Queue)){
		"create": func(q enqueue.Queue, do func(context.Context, enqueue.Queue)) {
			enqueue.OnAny[object](do).Create(t.Context(), event.TypedCreateEvent[object]{}, q)
		},
		"update": func(q enqueue.Queue, do func(context.Context, enqueue.Queue)) {
			enqueue.OnAny[object](do).Update(t.Context(), event.TypedUpdateEvent[object]{}, q)
		},
		"delete": func(q enqueue.Queue, do func(context.Context, enqueue.Queue)) {
			enqueue.OnAny[object](do).Delete(t.Context(), event.TypedDeleteEvent[object]{}, q)
		},
		"generic": func(q enqueue.Queue, do func(context.Context, enqueue.Queue)) {
			enqueue.OnAny[object](do).Generic(t.Context(), event.TypedGenericEvent[object]{}, q)
		},
	} {
		q := newQueue(t)
		happen(q, func(_ context.Context, q enqueue.Queue) { q.Add(item("one")) })
		if q.Len() != 1 {
			t.Errorf("%s: %d items, want one", name, q.Len())
		}
	}
}

func TestWaker(t *testing.T) {
	var w enqueue.Waker
	// The controller to wake has not started: it will look at everything.
	w.Wake(func(enqueue.Queue) { t.Error("a controller is woken that has not started") })
	q := newQueue(t)
	if err := w.Start(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	w.Wake(func(q enqueue.Queue) { q.Add(item("two")) })
	if got, _ := q.Get(); q.Len() != 0 || got != item("two") {
		t.Errorf("enqueued %v, and %d more", got, q.Len())
	}
}

func TestSignalWaitsForNobody(t *testing.T) {
	s := enqueue.NewSignal()
	s.Send()
	s.Send()
	if len(s) != 1 {
		t.Errorf("%d events wait, want one", len(s))
	}
}
