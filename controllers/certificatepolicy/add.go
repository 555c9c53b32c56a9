// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package certificatepolicy judges every CertificatePolicy against what was observed, and reports the verdict: in the
// policy's status, as Events on the transitions, and to the metrics collector.
package certificatepolicy

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

const (
	// controllerName is in logs, in the controller's metrics and, as the reporting controller, in Events.
	controllerName = "certificatepolicy"
	reporterName   = "notafter"

	// batchWindow is how long an evaluation waits for what else changes in the same moment.
	batchWindow = 50 * time.Millisecond
	// workers bounds how many policies are evaluated at once: one whose write hangs must not hold up the others.
	workers = 4
	// reconcileTimeout bounds one reconcile, whose only request is the status write.
	reconcileTimeout = 30 * time.Second
	// retryBase and retryMax bound the wait after a failed write.
	retryBase, retryMax = 10 * time.Millisecond, 30 * time.Second
)

// Options are what the controller is made of.
type Options struct {
	// Clock is where the controller takes the time from.
	Clock clock.Clock
	// SigningRequests are the caches of CertificateSigningRequests, per signer name.
	SigningRequests map[string]cache.Cache
	// Trust is where the Cluster CA is read from.
	Trust trust.Source
	// Verdicts gets the latest verdict on every policy, for the metrics.
	Verdicts *metrics.Verdicts
}

// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies/status,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,namespace=default,verbs=create;patch
// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=notafter.dev,resources=nodecertificates,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=kube-root-ca.crt,verbs=get;list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=get;list;watch

// Add adds the controller to the manager.
func Add(mgr manager.Manager, o Options) error {
	// Events about Nodes and policies, which have no namespace, go to the namespace default.
	r := &reconciler{
		client: mgr.GetClient(), requests: newRequestReader(o.SigningRequests), trust: o.Trust, clock: o.Clock,
		recorder: mgr.GetEventRecorder(reporterName), verdicts: o.Verdicts, memories: map[string]*memory{},
	}
	b := builder.ControllerManagedBy(mgr).Named(controllerName).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryBase, retryMax),
			EnableWarmup:            new(true),
		}).
		// A policy's spec is what its evaluation compares with. Its status is our own.
		For(&v1alpha1.CertificatePolicy{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// What is known about a node's certificates changed.
		WatchesRawSource(source.Kind(mgr.GetCache(), &v1alpha1.NodeCertificates{},
			wakeAll[*v1alpha1.NodeCertificates](mgr.GetClient()), factsChanged())).
		// A node comes, goes, is selected or not by its labels, or is upgraded. Heartbeats wake nobody.
		WatchesRawSource(source.Kind(mgr.GetCache(), &corev1.Node{},
			wakeAll[*corev1.Node](mgr.GetClient()), nodeChanged())).
		// Without the Cluster CA nothing that a kubelet serves can be verified, which the policy has to say.
		WatchesRawSource(source.Kind(mgr.GetCache(), &corev1.ConfigMap{},
			wakeAll[*corev1.ConfigMap](mgr.GetClient()), trustBundleChanged(o.Trust)))
	for _, requests := range o.SigningRequests {
		// A request for a node that is not there shows in no NodeCertificates: the machine that failed to become a node.
		b = b.WatchesRawSource(source.Kind(requests, &certificatesv1.CertificateSigningRequest{},
			wakeAll[*certificatesv1.CertificateSigningRequest](mgr.GetClient()), maybeOrphaned(mgr.GetClient())))
	}
	err := b.Complete(forgetting{next: reconcile.AsReconciler(mgr.GetClient(), r), policies: mgr.GetClient(), forget: r.forget})
	if err != nil {
		return fmt.Errorf("building the controller %s: %w", controllerName, err)
	}
	return nil
}

// wakeAll enqueues every policy: any of them may select what changed, and an evaluation costs less than finding out which do.
// A policy that waits already is not enqueued again, and the wait lets a burst collapse into one evaluation.
func wakeAll[object client.Object](policies client.Reader) handler.TypedEventHandler[object, reconcile.Request] {
	wake := func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		var list v1alpha1.CertificatePolicyList
		if err := policies.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			log.FromContext(ctx).Error(err, "cannot list the CertificatePolicies to evaluate")
			return
		}
		for i := range list.Items {
			queue.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}, batchWindow)
		}
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.TypedFuncs[object, reconcile.Request]{
		CreateFunc: func(ctx context.Context, _ event.TypedCreateEvent[object], q queue) { wake(ctx, q) },
		UpdateFunc: func(ctx context.Context, _ event.TypedUpdateEvent[object], q queue) { wake(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.TypedDeleteEvent[object], q queue) { wake(ctx, q) },
	}
}

// forgetting drops what is remembered about a policy that was deleted. It does so as part of reconciling, because the queue
// never hands out a policy twice at once: in an event handler it would race with the evaluation of the same policy.
type forgetting struct {
	next     reconcile.Reconciler
	policies client.Reader
	forget   func(policyName string)
}

// Reconcile implements reconcile.Reconciler.
func (f forgetting) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	err := f.policies.Get(ctx, request.NamespacedName, &v1alpha1.CertificatePolicy{}, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		f.forget(request.Name)
		return reconcile.Result{}, nil
	}
	return f.next.Reconcile(ctx, request)
}
