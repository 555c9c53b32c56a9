// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"maps"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

const (
	// spreadPerNode and maxSpread are the time over which probes are spread that are due because of one event.
	spreadPerNode = 2 * time.Millisecond
	maxSpread     = 5 * time.Second
)

// nodeChanged lets through what matters of a Node. Its heartbeats, conditions and images do not: they change all the time.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*corev1.Node)
			after, okAfter := e.ObjectNew.(*corev1.Node)
			if !ok || !okAfter {
				return false
			}
			return before.UID != after.UID ||
				!maps.Equal(before.Labels, after.Labels) ||
				!slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
				before.Status.DaemonEndpoints != after.Status.DaemonEndpoints ||
				before.Status.NodeInfo.KubeletVersion != after.Status.NodeInfo.KubeletVersion ||
				before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero()
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// objectChanged lets through everything but the cache's own repetitions.
func objectChanged() predicate.Predicate {
	return predicate.ResourceVersionChangedPredicate{}
}

// signingRequestChanged is objectChanged for CertificateSigningRequests.
func signingRequestChanged() predicate.TypedPredicate[*certificatesv1.CertificateSigningRequest] {
	return predicate.TypedResourceVersionChangedPredicate[*certificatesv1.CertificateSigningRequest]{}
}

// nodeOfSigningRequest is the node that a request belongs to; none when it cannot be attributed.
func nodeOfSigningRequest(_ context.Context, request *certificatesv1.CertificateSigningRequest) []reconcile.Request {
	name := csr.NodeName(request)
	if name == "" {
		return nil
	}
	return []reconcile.Request{requestFor(name)}
}

// signingRequestHandler enqueues the node that a request belongs to, and all nodes when the requests can be read after they
// could not, or the other way round.
func signingRequestHandler(
	all everyNode,
) handler.TypedEventHandler[*certificatesv1.CertificateSigningRequest, reconcile.Request] {
	type object = *certificatesv1.CertificateSigningRequest
	one := handler.TypedEnqueueRequestsFromMapFunc(nodeOfSigningRequest)
	return handler.TypedFuncs[object, reconcile.Request]{
		CreateFunc:  one.Create,
		UpdateFunc:  one.Update,
		DeleteFunc:  one.Delete,
		GenericFunc: func(ctx context.Context, _ event.TypedGenericEvent[object], q enqueue.Queue) { all.add(ctx, q) },
	}
}

// certificateIssued lets through that another certificate was issued to a node, and that somebody deleted its NodeCertificates.
// Those that were issued before this process started need no event: every node is probed then.
func certificateIssued() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*v1alpha1.NodeCertificates)
			after, okAfter := e.ObjectNew.(*v1alpha1.NodeCertificates)
			if !ok || !okAfter {
				return false
			}
			return another(issuedServing(&before.Status), issuedServing(&after.Status)) ||
				another(issuedClient(&before.Status), issuedClient(&after.Status))
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// forgetful enqueues the node of the same name. What is remembered of one whose NodeCertificates were deleted is forgotten first,
// so that it is looked at anew: that is how people ask for it.
func forgetful(probed *records) handler.EventHandler {
	of := func(object client.Object) reconcile.Request { return requestFor(object.GetName()) }
	return handler.Funcs{
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q enqueue.Queue) { q.Add(of(e.ObjectNew)) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q enqueue.Queue) {
			probed.forget(e.Object.GetName())
			q.Add(of(e.Object))
		},
	}
}

func another(was, is *v1alpha1.CertificateStatus) bool {
	return is != nil && (was == nil || was.SHA256 != is.SHA256)
}

func issuedServing(status *v1alpha1.NodeCertificatesStatus) *v1alpha1.CertificateStatus {
	return certificate(status.Certificates, v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest)
}

// policyChanged lets through changes of what a policy says. Policies that existed when this process started need no event:
// every node is looked at then.
func policyChanged() predicate.Predicate {
	return predicate.And[client.Object](predicate.GenerationChangedPredicate{}, afterStart[client.Object]())
}

// trustBundleChanged lets through changes of the trust bundle.
func trustBundleChanged(bundle trust.Source) predicate.TypedPredicate[*corev1.ConfigMap] {
	return predicate.And[*corev1.ConfigMap](bundle.Changed(), afterStart[*corev1.ConfigMap]())
}

// afterStart holds back the objects that existed when the watch began.
func afterStart[T client.Object]() predicate.TypedPredicate[T] {
	return predicate.TypedFuncs[T]{
		CreateFunc: func(e event.TypedCreateEvent[T]) bool { return !e.IsInInitialList },
	}
}

// everyNode adds all nodes to a queue, spread over a time that grows with their number, so that thousands of probes that one
// event makes due do not all start in one moment.
type everyNode struct {
	client client.Reader
	random func() float64
}

func (n everyNode) add(ctx context.Context, q enqueue.Queue) {
	nodes := &corev1.NodeList{}
	if err := n.client.List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		// The nodes are in a cache that is synced, so there is nothing to retry; each is looked at again in its interval.
		logf.FromContext(ctx).Error(err, "Nodes could not be listed to probe them anew")
		return
	}
	spread := min(time.Duration(len(nodes.Items))*spreadPerNode, maxSpread)
	for i := range nodes.Items {
		q.AddAfter(requestFor(nodes.Items[i].Name), time.Duration(n.random()*float64(spread)))
	}
}

func requestFor(node string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: node}}
}
