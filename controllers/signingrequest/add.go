// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signingrequest decides on the kubelets' requests for serving certificates, for policies that want it. It is the only
// writer of CertificateSigningRequests, and writes nothing of them but a decision, once each.
//
// What a request may have is judged in controllers/internal/csr. Here is what that takes: the evidence, who is next, and that
// nothing waits for anybody else. A node is one item of work, so that it is never decided on twice at a time.
package signingrequest

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/observe/dns"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
)

const (
	// controllerName is the name of the controller that decides.
	controllerName = "signingrequest"
	// accessName is the name of the controller that finds out whether it may.
	accessName = "signingrequest-access"

	// writers is how many decisions are written at the same time. See newWriter.
	writers = 64
	// reconciliationTimeout bounds one decision, which waits for nothing but one write.
	reconciliationTimeout = 30 * time.Second
	// retryBase and retryMax bound the wait after a failed write.
	retryBase, retryMax = 200 * time.Millisecond, time.Minute
)

// Options is what the controllers need.
type Options struct {
	// Clock tells the time.
	Clock clock.PassiveClock
	// SigningRequests are the requests to the signer kubernetes.io/kubelet-serving, with the index csr.NodeNameIndex. Those
	// that are undecided have all their metadata, of which an approval would otherwise delete what is missing.
	SigningRequests *optional.Source[*certificatesv1.CertificateSigningRequest]
	// Registerer is where the metrics of decisions are registered.
	Registerer prometheus.Registerer
	// Lookup resolves names, for policies that want that. Nil: as the machine is configured to.
	Lookup dns.LookupFunc
}

// The permission to approve is no part of the manager's role: config/components/approval grants it, and nothing else does.
// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=list;watch
// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies;nodecertificates,verbs=list;watch

// Add adds the controllers to the manager. The store that it returns is what they will find.
func Add(mgr manager.Manager, o Options) (*Store, error) {
	err := mgr.GetFieldIndexer().IndexField(context.Background(), &corev1.Node{}, addressIndex, indexAddresses)
	if err != nil {
		return nil, fmt.Errorf("controller %s: indexing Nodes by address: %w", controllerName, err)
	}
	counts, err := newDecisionMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	writer, err := newWriter(mgr)
	if err != nil {
		return nil, err
	}
	rules := &rules{policies: mgr.GetClient()}
	store := newStore(o.SigningRequests, rules)
	wake := &waker{requests: o.SigningRequests, store: store}
	checks := &access{
		reviews: mgr.GetClient(), rules: rules, store: store, wakeAll: wake.all,
	}
	if o.Lookup == nil {
		o.Lookup = dns.System("")
	}
	r := &reconciler{
		client: mgr.GetClient(), approval: writer, requests: o.SigningRequests, clock: o.Clock, rules: rules, store: store,
		access: checks, metrics: counts,
		breaker:  &breaker{requests: o.SigningRequests, nodes: mgr.GetCache(), store: store, wake: wake, metrics: counts},
		resolver: dns.New(dns.Options{Clock: o.Clock, Lookup: o.Lookup, Wake: wake.one, Observe: counts.lookedUp}),
	}
	if err := addReconciler(mgr, o, r, wake); err != nil {
		return nil, fmt.Errorf("controller %s: %w", controllerName, err)
	}
	if err := addAccess(mgr, checks); err != nil {
		return nil, fmt.Errorf("controller %s: %w", accessName, err)
	}
	return store, nil
}

// newWriter returns what writes decisions. It has a client of its own, without the limit that the manager's has: after an
// outage thousands of nodes wait for their certificates, and how much the API server can take at a time it says itself, by its
// priority and fairness, which knows what else there is to do. There are never more than a few dozen writes under way.
func newWriter(mgr manager.Manager) (client.SubResourceWriter, error) {
	config := rest.CopyConfig(mgr.GetConfig())
	config.QPS, config.RateLimiter = -1, nil
	writer, err := client.New(config, client.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
	})
	if err != nil {
		return nil, fmt.Errorf("making the client of controller %s: %w", controllerName, err)
	}
	return writer.SubResource("approval"), nil
}

func addReconciler(mgr manager.Manager, o Options, r *reconciler, wake *waker) error {
	return builder.ControllerManagedBy(mgr).Named(controllerName).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: writers,
			ReconciliationTimeout:   reconciliationTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryBase, retryMax),
		}).
		// A node asks, or the answer to an earlier request is there.
		WatchesRawSource(o.SigningRequests.Changed(wake.ofRequests(), requestChanged())).
		// A request may come before its Node, and before the Node's addresses.
		Watches(&corev1.Node{}, wake.ofNodes(), builder.WithPredicates(nodeChanged())).
		// What a node is known to serve tells whose a contested address is.
		Watches(&v1alpha1.NodeCertificates{}, wake.ofNodes(), builder.WithPredicates(certificatesChanged())).
		// A policy decides what may be approved.
		Watches(&v1alpha1.CertificatePolicy{}, wake.ofPolicies(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// A name was resolved, or something changed that concerns all.
		WatchesRawSource(wake).
		Complete(r)
}

func addAccess(mgr manager.Manager, checks *access) error {
	return builder.ControllerManagedBy(mgr).Named(accessName).
		// Without a policy that approves, nothing has to be allowed.
		Watches(&v1alpha1.CertificatePolicy{}, enqueueAccess(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// A decision was refused.
		WatchesRawSource(&checks.wake).
		Complete(checks)
}

// addressIndex is the name of the cache index of Nodes by what they say that they can be reached at.
const addressIndex = ".addresses"

func indexAddresses(o client.Object) []string {
	node, ok := o.(*corev1.Node)
	if !ok {
		return nil
	}
	return csr.NodeAddresses(node)
}
