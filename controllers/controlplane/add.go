// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controlplane observes the certificates of the control plane, and the CA bundles that the API server verifies others
// with. What it finds it keeps in memory, for the policies' evaluation; it writes nothing. So every replica of the manager does
// it, and one that takes over knows what the one before it knew.
//
// It has one item of work: everything. Nothing of it is observed that no policy watches. A source that may not be read, or
// that the cluster does not have, holds up nothing else.
package controlplane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

// controllerName is in logs and in the controller's metrics.
const controllerName = "controlplane"

// Options is what the controller needs.
type Options struct {
	// Clock tells the time.
	Clock clock.PassiveClock
	// Trust is the Cluster CA, and TrustConfigMap the source that it reads it from, which is watched for changes.
	Trust          trust.Source
	TrustConfigMap *optional.Source[*corev1.ConfigMap]
	// WatchTime is how long a watch runs before it is begun anew; zero means optional.DefaultWatchTime.
	WatchTime time.Duration
}

// +kubebuilder:rbac:groups=notafter.dev,resources=certificatepolicies,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=kube-root-ca.crt,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=extension-apiserver-authentication,verbs=list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,namespace=default,verbs=list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=clustertrustbundles,verbs=list;watch
// +kubebuilder:rbac:groups=apiregistration.k8s.io,resources=apiservices,verbs=list;watch
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingwebhookconfigurations;mutatingwebhookconfigurations,verbs=list;watch
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=list;watch
// +kubebuilder:rbac:urls=/openid/v1/jwks,verbs=get

// Add adds the controller to the manager. The store that it returns is what it will find.
func Add(mgr manager.Manager, o Options) (*Store, error) {
	reader, err := client.NewWithWatch(mgr.GetConfig(), client.Options{
		Scheme: newScheme(), HTTPClient: mgr.GetHTTPClient(), Mapper: mgr.GetRESTMapper(),
	})
	if err != nil {
		return nil, fmt.Errorf("making the client of controller %s: %w", controllerName, err)
	}
	own, err := ownTarget(mgr.GetConfig())
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", controllerName, err)
	}
	raw, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("making the client of controller %s: %w", controllerName, err)
	}
	sources, watched, err := addSources(mgr, reader, o.WatchTime)
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", controllerName, err)
	}
	r := &reconciler{
		client: mgr.GetClient(), clock: o.Clock, random: rand.Float64, trust: o.Trust, sources: sources,
		servers: apiServers{probe: tlsprobe.New(o.Clock).Probe, clock: o.Clock, random: rand.Float64, own: own},
		keys:    signingKeys{get: getKeys(raw.RESTClient())},
		store:   newStore(),
	}
	b := builder.ControllerManagedBy(mgr).Named(controllerName).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, NeedLeaderElection: new(false)}).
		// A policy decides what is observed.
		Watches(&v1alpha1.CertificatePolicy{}, wake[client.Object](),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// Everything is compared with the Cluster CA.
		WatchesRawSource(o.TrustConfigMap.Changed(wake[*corev1.ConfigMap]()))
	for _, each := range watched {
		// Something came, changed or went, or may be read again, or no longer.
		b = b.WatchesRawSource(each)
	}
	if err := b.Complete(r); err != nil {
		return nil, fmt.Errorf("controller %s: %w", controllerName, err)
	}
	return r.store, nil
}

// everything is the one item of work.
var everything = reconcile.Request{NamespacedName: types.NamespacedName{Name: "everything"}}

// wake enqueues the one item of work, whatever happened. What else happens in the same moment is observed with it.
func wake[T client.Object]() handler.TypedEventHandler[T, reconcile.Request] {
	return enqueue.OnAny[T](func(_ context.Context, q enqueue.Queue) { q.AddAfter(everything, enqueue.BatchWindow) })
}
