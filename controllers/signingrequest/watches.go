// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// requestChanged lets through everything but the cache's own repetitions.
func requestChanged() predicate.TypedPredicate[*certificatesv1.CertificateSigningRequest] {
	return predicate.TypedResourceVersionChangedPredicate[*certificatesv1.CertificateSigningRequest]{}
}

// nodeChanged lets through what a decision takes into account of a Node.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*corev1.Node)
			after, okAfter := e.ObjectNew.(*corev1.Node)
			return ok && okAfter && (before.UID != after.UID || !maps.Equal(before.Labels, after.Labels) ||
				!slices.Equal(before.Status.Addresses, after.Status.Addresses))
		},
	}
}

// certificatesChanged lets through that other certificates are known of a node, or another origin of the one in use.
func certificatesChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*v1alpha1.NodeCertificates)
			after, okAfter := e.ObjectNew.(*v1alpha1.NodeCertificates)
			return ok && okAfter && (mode(before) != mode(after) ||
				!equality.Semantic.DeepEqual(before.Status.Certificates, after.Status.Certificates))
		},
	}
}

// mode is where the certificate comes from that the node's kubelet serves.
func mode(known *v1alpha1.NodeCertificates) v1alpha1.ServingMode {
	if known.Status.Serving == nil {
		return ""
	}
	return known.Status.Serving.Mode
}

// waker enqueues nodes that wait for a decision, and no others. Those that wait longest are next.
type waker struct {
	requests requestSource
	store    *Store

	mu    sync.RWMutex
	queue queue
}

// start is a source.Func.
func (w *waker) start(_ context.Context, q queue) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = q
	return nil
}

// one enqueues a node. A controller that has not started yet needs no waking: it begins with all nodes that wait.
func (w *waker) one(node string) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.queue != nil {
		w.enqueue(w.queue, node)
	}
}

// all enqueues every node.
func (w *waker) all() {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.queue != nil {
		w.enqueueAll(w.queue)
	}
}

// after enqueues an item of work for later.
func (w *waker) after(item reconcile.Request, pause time.Duration) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.queue != nil {
		w.queue.AddAfter(item, pause)
	}
}

func (w *waker) enqueue(q queue, node string) {
	requests, err := w.requests.ByIndex(csr.NodeNameIndex, node)
	if err != nil {
		return // when they can be read, all nodes are enqueued
	}
	if since := oldest(requests); since != nil {
		add(q, node, since.Time)
	}
}

func (w *waker) enqueueAll(q queue) {
	requests, err := w.requests.List()
	if err != nil {
		return // likewise
	}
	for _, request := range requests {
		if node := csr.NodeName(request); node != "" && isUndecided(request) {
			add(q, node, request.CreationTimestamp.Time)
		}
	}
}

// add enqueues a node that waits since then. The queue keeps the highest priority, and hands out that first.
func add(q queue, node string, since time.Time) {
	item := reconcile.Request{NamespacedName: types.NamespacedName{Name: node}}
	if prioritized, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		prioritized.AddWithOpts(priorityqueue.AddOpts{Priority: new(-int(since.Unix()))}, item)
		return
	}
	q.Add(item)
}

// ofRequests enqueues the node that a request is of, and all nodes when the requests can be read after they could not.
func (w *waker) ofRequests() handler.TypedEventHandler[*certificatesv1.CertificateSigningRequest, reconcile.Request] {
	type object = *certificatesv1.CertificateSigningRequest
	one := func(q queue, request object) {
		if node := csr.NodeName(request); node != "" {
			add(q, node, request.CreationTimestamp.Time)
		}
	}
	return handler.TypedFuncs[object, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[object], q queue) {
			if isUndecided(e.Object) {
				one(q, e.Object)
			}
		},
		UpdateFunc:  func(_ context.Context, e event.TypedUpdateEvent[object], q queue) { one(q, e.ObjectNew) },
		DeleteFunc:  func(_ context.Context, e event.TypedDeleteEvent[object], q queue) { one(q, e.Object) },
		GenericFunc: func(_ context.Context, _ event.TypedGenericEvent[object], q queue) { w.enqueueAll(q) },
	}
}

// ofNodes enqueues the node that an object is named after, and those that wait because it has an address of theirs.
func (w *waker) ofNodes() handler.EventHandler {
	change := func(q queue, object client.Object) {
		w.enqueue(q, object.GetName())
		for _, node := range w.store.contestedBy(object.GetName()) {
			w.enqueue(q, node)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { change(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { change(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { change(q, e.Object) },
	}
}

// ofPolicies enqueues all nodes.
func (w *waker) ofPolicies() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { w.enqueueAll(q) },
		UpdateFunc: func(_ context.Context, _ event.UpdateEvent, q queue) { w.enqueueAll(q) },
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { w.enqueueAll(q) },
	}
}
