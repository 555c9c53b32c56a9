// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package certificatepolicy judges every CertificatePolicy against what was observed, and reports the verdict: in the
// policy's status, as Events on the transitions, and to the metrics collector.
package certificatepolicy

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/policy"
)

const (
	// controllerName is in logs, in the controller's metrics and, as the reporting controller, in Events.
	controllerName = "certificatepolicy"
	reporterName   = "notafter"

	// settleTime is how long the first evaluation after a start waits for what is known of the control plane, which itself waits
	// for its sources.
	settleTime = optional.SettleTime
	// takeoverTime is how long the verdict of another process stands while this one looks at everything for the first time, and
	// takeoverRetry how often to ask whether it has.
	takeoverTime, takeoverRetry = 30 * time.Second, 250 * time.Millisecond
	// workers bounds how many policies are evaluated at once: one whose write hangs must not hold up the others.
	workers = 4
	// reconcileTimeout bounds one reconcile, whose only request is the status write.
	reconcileTimeout = 30 * time.Second
	// retryBase and retryMax bound the wait after a failed write.
	retryBase, retryMax = 10 * time.Millisecond, 30 * time.Second
)

// ControlPlane is what another controller finds out about the control plane and the trust bundles.
type ControlPlane interface {
	// Snapshot returns what is known now, and the permissions that are missing to know more. The first is nil until
	// every source has been read, or tried, once. Nobody changes what it returned.
	Snapshot() (*policy.ControlPlane, []policy.Denial)
	// Changed receives an event after every change of the snapshot. It has one receiver.
	Changed() <-chan event.GenericEvent
	// Settled is closed when everything was observed for the first time.
	Settled() <-chan struct{}
}

// Approvals is what another controller, the approver of signing requests, has to say about them.
type Approvals interface {
	// Snapshot returns that, and the permissions that are missing to decide. The first is nil while requests cannot be read.
	// Nobody changes what it returned.
	Snapshot() (*policy.Approvals, []policy.Denial)
	// Changed receives an event after every change of the snapshot. It has one receiver.
	Changed() <-chan event.GenericEvent
}

// Missing are the permissions that turned out to be missing, for what is taken for known.
type Missing interface {
	// Denials returns them.
	Denials() []policy.Denial
	// Changed receives an event after they changed. It has one receiver.
	Changed() <-chan event.GenericEvent
}

// Options are what the controller is made of.
type Options struct {
	// Clock is where the controller takes the time from.
	Clock clock.Clock
	// SigningRequests are the CertificateSigningRequests by signer name, each with the index csr.NodeNameIndex.
	SigningRequests map[string]*optional.Source[*certificatesv1.CertificateSigningRequest]
	// Trust is where the Cluster CA is read from.
	Trust trust.Source
	// TrustConfigMap is where Trust reads, to watch it for changes.
	TrustConfigMap *optional.Source[*corev1.ConfigMap]
	// ControlPlane is what is known of the control plane and the trust bundles.
	ControlPlane ControlPlane
	// Approvals is what the approver of signing requests has to say; nil: there is none.
	Approvals Approvals
	// NodesObserved is closed once every node has been looked at since this process began to do so; nil: they have been.
	NodesObserved <-chan struct{}
	// Missing are the permissions that are missing for what notafter cannot do without; nil: none ever is.
	Missing Missing
	// Verdicts gets the latest verdict on every policy, for the metrics.
	Verdicts *metrics.Verdicts
	// Registerer is where the controller's metrics are registered.
	Registerer prometheus.Registerer
	// Watching is the client that what only some policies ask for is watched with.
	Watching client.WithWatch
	// WatchTime is how long a watch of what only some policies ask for runs before it is begun anew; zero means
	// optional.DefaultWatchTime.
	WatchTime time.Duration
}

// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies/status,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,namespace=default,verbs=create
// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=notafter.dev,resources=nodecertificates,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=kube-root-ca.crt,verbs=list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=list;watch

// Add adds the controller to the manager.
func Add(mgr manager.Manager, o Options) error {
	evaluations, err := newEvaluationDuration(o.Registerer)
	if err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("naming the reporter of Events: %w", err)
	}
	events := &outbox{
		client: mgr.GetClient(), scheme: mgr.GetScheme(), clock: o.Clock, instance: reporterName + "-" + hostname,
	}
	r := &reconciler{
		client: mgr.GetClient(), stored: mgr.GetAPIReader(), objects: mgr.GetCache(),
		requests: newRequestReader(o.SigningRequests), trust: o.Trust,
		clock: o.Clock, recorder: events, deliver: events.deliver, verdicts: o.Verdicts, controlPlane: o.ControlPlane,
		approvals: o.Approvals, missing: o.Missing, nodesObserved: o.NodesObserved, evaluations: evaluations,
		memories: map[string]*memory{},
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
		// A node comes, goes, is selected or not by its labels, or is upgraded. Heartbeats of those that are ready wake nobody.
		WatchesRawSource(source.Kind(mgr.GetCache(), &corev1.Node{},
			wakeAll[*corev1.Node](mgr.GetClient()), nodeChanged())).
		// Without the Cluster CA nothing that a kubelet serves can be verified, which the policy has to say.
		WatchesRawSource(o.TrustConfigMap.Changed(wakeAll[*corev1.ConfigMap](mgr.GetClient()), o.Trust.Changed()))
	for _, requests := range o.SigningRequests {
		// A request for a node that is not there shows in no NodeCertificates: the machine that failed to become a node.
		b = b.WatchesRawSource(requests.Changed(
			wakeAll[*certificatesv1.CertificateSigningRequest](mgr.GetClient()), maybeOrphaned(mgr.GetClient())))
	}
	// What is known of the control plane or a trust bundle changed.
	b = b.WatchesRawSource(settling{
		Source:  source.Channel(o.ControlPlane.Changed(), wakeAll[client.Object](mgr.GetClient())),
		settled: o.ControlPlane.Settled(),
	})
	if o.Approvals != nil {
		// A request breaks a rule of approval or does not any more, or the approver stopped or went on.
		b = b.WatchesRawSource(source.Channel(o.Approvals.Changed(), wakeAll[client.Object](mgr.GetClient())))
	}
	if o.Missing != nil {
		// What is taken for known gets old.
		b = b.WatchesRawSource(source.Channel(o.Missing.Changed(), wakeAll[client.Object](mgr.GetClient())))
	}
	if err := addOptional(mgr, b, r, o); err != nil {
		return err
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("building the controller %s: %w", controllerName, err)
	}
	return nil
}

// +kubebuilder:rbac:groups=apps,resources=daemonsets;deployments;statefulsets,verbs=list;watch

// addOptional gives the reconciler what some policies ask for. The permission to read bootstrap tokens is no part of the
// manager's role: config/components/bootstrap-tokens grants it.
func addOptional(mgr manager.Manager, b *builder.Builder, r *reconciler, o Options) (err error) {
	if r.tokens, err = newTokens(o.Watching, o.WatchTime); err != nil {
		return err
	}
	if r.workloads, err = newWorkloads(o.Watching, o.WatchTime); err != nil {
		return err
	}
	policies := mgr.GetClient()
	// A token comes, goes, or gets another expiration.
	b.WatchesRawSource(r.tokens.secrets.Changed(wakeAll[*corev1.Secret](policies)))
	// A workload begins or ceases to mount the static serving certificate.
	b.WatchesRawSource(r.workloads.daemonSets.Changed(wakeAll[*appsv1.DaemonSet](policies), mountsChanged[*appsv1.DaemonSet]()))
	b.WatchesRawSource(r.workloads.deployments.Changed(wakeAll[*appsv1.Deployment](policies), mountsChanged[*appsv1.Deployment]()))
	b.WatchesRawSource(
		r.workloads.statefulSets.Changed(wakeAll[*appsv1.StatefulSet](policies), mountsChanged[*appsv1.StatefulSet]()))
	for _, watch := range []manager.Runnable{
		r.tokens.secrets, r.workloads.daemonSets, r.workloads.deployments, r.workloads.statefulSets,
	} {
		if err := mgr.Add(watch); err != nil {
			return fmt.Errorf("adding what some policies ask for: %w", err)
		}
	}
	return nil
}

// wakeAll enqueues every policy: any of them may select what changed, and an evaluation costs less than finding out which do.
// A policy that waits already is not enqueued again, and the wait lets a burst collapse into one evaluation.
func wakeAll[T client.Object](policies client.Reader) handler.TypedEventHandler[T, reconcile.Request] {
	return enqueue.OnAny[T](func(ctx context.Context, q enqueue.Queue) {
		var list v1alpha1.CertificatePolicyList
		if err := policies.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			logf.FromContext(ctx).Error(err, "cannot list the CertificatePolicies to evaluate")
			return
		}
		for i := range list.Items {
			q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}, enqueue.BatchWindow)
		}
	})
}

// settling is a source that the controller's start waits for: a process that takes over from another one must not report as
// unknown what it will know in a moment. It does not wait for long.
type settling struct {
	source.Source

	settled <-chan struct{}
}

// WaitForSync implements source.SyncingSource.
func (s settling) WaitForSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	select {
	case <-s.settled:
	case <-ctx.Done():
		logf.FromContext(ctx).Info("The control plane was not observed yet, going on without")
	}
	return nil
}
