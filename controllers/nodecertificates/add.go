// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodecertificates observes the nodes and keeps one NodeCertificates per Node that says what is true of it.
//
// Two controllers share the work. The first is fast: it makes the status from what caches and memory hold, and never waits
// for a node. The second makes the TLS handshakes with the kubelets, asks those that verified about themselves, remembers what
// it saw and wakes the first.
package nodecertificates

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/kubelet"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

const (
	// controllerName is the name of the controller that writes NodeCertificates.
	controllerName = "nodecertificates"
	// proberName is the name of the controller that probes the kubelets.
	proberName = "nodecertificates-probe"

	// writers is how many NodeCertificates are written at the same time.
	writers = 8
	// retryBase and retryMax bound the wait after a failed write.
	retryBase, retryMax = 10 * time.Millisecond, 30 * time.Second
	// probeReconciliationTimeout is above the longest timeout of a probe that the API allows, one minute.
	probeReconciliationTimeout = 90 * time.Second
)

// Options is what the controllers need.
type Options struct {
	// Clock tells the time.
	Clock clock.PassiveClock
	// SigningRequests are the CertificateSigningRequests by signer name, each with the index csr.NodeNameIndex.
	SigningRequests map[string]*optional.Source[*certificatesv1.CertificateSigningRequest]
	// Trust is the trust bundle that the kubelets' serving certificates are judged against.
	Trust trust.Source
	// TrustConfigMap is where Trust reads, to watch it for changes.
	TrustConfigMap *optional.Source[*corev1.ConfigMap]
	// KubeletReader is the ServiceAccount whose tokens kubelets are asked with about themselves. It should be allowed nothing
	// but that. Without a name, no kubelet is asked.
	KubeletReader types.NamespacedName
	// Registerer is where the prober's metrics are registered.
	Registerer prometheus.Registerer
	// Missing is told of writes that the API server refuses.
	Missing *access.Missing
	// ProbeConcurrency is how many nodes are probed at the same time, at least 1. Besides, four times as many are
	// waited for that did not answer within a second.
	ProbeConcurrency int
	// ProbeLoopback says that kubelets are connected to whose Node names a loopback address.
	ProbeLoopback bool
}

// Add adds both controllers to the manager. The channel that it returns is closed once every node has been looked at since they
// began to do so, as far as that can be done.
func Add(mgr manager.Manager, o Options) (<-chan struct{}, error) {
	for signer := range o.SigningRequests {
		if _, ok := purposes[signer]; !ok {
			return nil, fmt.Errorf("signing requests of %s: the purpose of this signer's certificates is not known; want one of %v",
				signer, slices.Sorted(maps.Keys(purposes)))
		}
	}
	if o.ProbeConcurrency < 1 {
		return nil, fmt.Errorf("probing %d nodes at the same time: want at least 1", o.ProbeConcurrency)
	}
	probed := newRecords()
	wake, looks := &enqueue.Waker{}, newSweep(mgr.GetClient())
	if err := addReconciler(mgr, o, probed, wake, looks); err != nil {
		return nil, fmt.Errorf("controller %s: %w", controllerName, err)
	}
	if err := addProber(mgr, o, probed, wake, looks); err != nil {
		return nil, fmt.Errorf("controller %s: %w", proberName, err)
	}
	return looks.done, nil
}

// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=list;watch
// +kubebuilder:rbac:groups=notafter.dev,resources=nodecertificates,verbs=list;watch;create;update
// +kubebuilder:rbac:groups=notafter.dev,resources=nodecertificates/status,verbs=update
// Where the admission plugin OwnerReferencesPermissionEnforcement is on, changing an owner reference needs delete.
// +kubebuilder:rbac:groups=notafter.dev,resources=nodecertificates,verbs=delete

func addReconciler(mgr manager.Manager, o Options, probed *records, wake *enqueue.Waker, looks *sweep) error {
	r := &reconciler{
		client: mgr.GetClient(), clock: o.Clock, records: probed, requests: o.SigningRequests, missing: o.Missing, sweep: looks,
	}
	all := everyNode{client: mgr.GetClient(), random: rand.Float64}
	b := builder.ControllerManagedBy(mgr).Named(controllerName).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: writers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryBase, retryMax),
		}).
		// A Node that comes needs a NodeCertificates, and one that changed may have to be described anew.
		Watches(&corev1.Node{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(nodeChanged())).
		// One that somebody deleted or changed is put right.
		Watches(&v1alpha1.NodeCertificates{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(objectChanged())).
		// The prober has news of a node.
		WatchesRawSource(wake)
	for _, requests := range o.SigningRequests {
		// The state of a node's signing requests is part of its facts, that one is gone included.
		b = b.WatchesRawSource(requests.Changed(signingRequestHandler(all), signingRequestChanged()))
	}
	return b.Complete(r)
}

// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=kube-root-ca.crt,verbs=list;watch

// The manager may make tokens of the account that kubelets are asked with, which may do nothing else
// (config/rbac/kubelet_reader.yaml), and of no other.
// +kubebuilder:rbac:groups="",resources=serviceaccounts/token,namespace=notafter-system,resourceNames=notafter-kubelet-reader,verbs=create

func addProber(mgr manager.Manager, o Options, probed *records, wake *enqueue.Waker, looks *sweep) error {
	counts, err := newProbeMetrics(o.Registerer, probed)
	if err != nil {
		return err
	}
	places, workers := newPlaces(o.ProbeConcurrency)
	p := &prober{
		client:   mgr.GetClient(),
		trust:    o.Trust,
		clock:    o.Clock,
		probe:    tlsprobe.New(o.Clock).Probe,
		records:  probed,
		sweep:    looks,
		loopback: o.ProbeLoopback,
		places:   places,
		wake:     func(node string) { wake.Wake(func(q enqueue.Queue) { q.Add(requestFor(node)) }) },
		random:   rand.Float64,
		metrics:  counts,
	}
	if o.KubeletReader.Name != "" {
		p.ask = kubelet.New(o.Clock, kubelet.NewTokenSource(mgr.GetClient(), o.KubeletReader, o.Clock)).Read
	}
	all := everyNode{client: mgr.GetClient(), random: p.random}
	return builder.ControllerManagedBy(mgr).Named(proberName).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			ReconciliationTimeout:   probeReconciliationTimeout,
		}).
		// A node that comes, or moves to another address, is probed at once; labels decide which policies select it.
		Watches(&corev1.Node{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(nodeChanged())).
		// A newly issued certificate should be in use soon. A node whose facts were deleted is looked at anew.
		Watches(&v1alpha1.NodeCertificates{}, forgetful(probed), builder.WithPredicates(certificateIssued())).
		// A policy decides which nodes are probed, and how often.
		Watches(&v1alpha1.CertificatePolicy{}, enqueue.OnAny[client.Object](all.add), builder.WithPredicates(policyChanged())).
		// Another trust bundle changes the verdict on every served certificate.
		WatchesRawSource(o.TrustConfigMap.Changed(enqueue.OnAny[*corev1.ConfigMap](all.add),
			trustBundleChanged(o.Trust))).
		WatchesRawSource(source.Func(looks.start)).
		Complete(p)
}
