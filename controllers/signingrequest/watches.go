// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"maps"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/enqueue"
)

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
	enqueue.Waker

	requests requestSource
	store    *Store
}

// one enqueues a node.
func (w *waker) one(node string) {
	w.Wake(func(q enqueue.Queue) { w.enqueue(q, node) })
}

// all enqueues every node.
func (w *waker) all() { w.Wake(w.enqueueAll) }

// after enqueues an item of work for later.
func (w *waker) after(item reconcile.Request, pause time.Duration) {
	w.Wake(func(q enqueue.Queue) { q.AddAfter(item, pause) })
}

func (w *waker) enqueue(q enqueue.Queue, node string) {
	requests, err := w.requests.ByIndex(csr.NodeNameIndex, node)
	if err != nil {
		return // when they can be read, all nodes are enqueued
	}
	if since := oldest(requests); since != nil {
		add(q, node, since.Time)
	}
}

func (w *waker) enqueueAll(q enqueue.Queue) {
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
func add(q enqueue.Queue, node string, since time.Time) {
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
	one := func(q enqueue.Queue, request object) {
		if node := csr.NodeName(request); node != "" {
			add(q, node, request.CreationTimestamp.Time)
		}
	}
	return handler.TypedFuncs[object, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[object], q enqueue.Queue) {
			if isUndecided(e.Object) {
				one(q, e.Object)
			}
		},
		UpdateFunc:  func(_ context.Context, e event.TypedUpdateEvent[object], q enqueue.Queue) { one(q, e.ObjectNew) },
		DeleteFunc:  func(_ context.Context, e event.TypedDeleteEvent[object], q enqueue.Queue) { one(q, e.Object) },
		GenericFunc: func(_ context.Context, _ event.TypedGenericEvent[object], q enqueue.Queue) { w.enqueueAll(q) },
	}
}

// ofNodes enqueues the node that an object is named after, and those that wait because it has an address of theirs.
func (w *waker) ofNodes() handler.EventHandler {
	change := func(q enqueue.Queue, object client.Object) {
		w.enqueue(q, object.GetName())
		for _, node := range w.store.contestedBy(object.GetName()) {
			w.enqueue(q, node)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q enqueue.Queue) { change(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q enqueue.Queue) { change(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q enqueue.Queue) { change(q, e.Object) },
	}
}

// ofPolicies enqueues all nodes.
func (w *waker) ofPolicies() handler.EventHandler {
	return enqueue.OnAny[client.Object](func(_ context.Context, q enqueue.Queue) { w.enqueueAll(q) })
}
