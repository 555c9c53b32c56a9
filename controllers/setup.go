// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllers wires the operator: caches, indexes, observers, controllers and metrics. It is the only way in from
// cmd/manager.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/certificatepolicy"
	"github.com/notafter/notafter/controllers/controlplane"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/intake"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/dns"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/nodecertificates"
	"github.com/notafter/notafter/controllers/signingrequest"
)

// Options are what the command line decides.
type Options struct {
	// Clock is where the controllers take the time from. Nil is the real one.
	Clock clock.WithTicker
	// TrustConfigMap and TrustKey name the ConfigMap, and the key in it, that hold the certificates of the Cluster CA, which
	// kubelet serving certificates are verified against.
	TrustConfigMap types.NamespacedName
	TrustKey       string
	// KubeletReader is the ServiceAccount whose tokens kubelets are asked with about themselves; without a name none is asked.
	KubeletReader types.NamespacedName
	// ProbeConcurrency is how many kubelets are probed at once.
	ProbeConcurrency int
	// ProbeLoopback says that kubelets are connected to whose Node names a loopback address: in clusters that run on one machine.
	ProbeLoopback bool
	// WatchTime is how long a watch runs before it is begun anew, which is when a permission that was withdrawn shows. Zero means
	// optional.DefaultWatchTime.
	WatchTime time.Duration
	// DNSServer is the address and port of the server that resolves the names in signing requests, for policies that want that.
	// Empty: as the machine is configured to.
	DNSServer string
	// Registerer is where the metrics are registered. Nil: where controller-runtime's are, which the manager serves.
	Registerer prometheus.Registerer

	// missing are the permissions that are missing for what notafter cannot do without.
	missing *access.Missing
}

// NewScheme returns a scheme that knows every kind the operator reads or writes.
func NewScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// CacheOptions are those of the manager's cache. What the cache finds that it may not read any more, Setup has the policies say,
// if it gets these same Options.
func (o *Options) CacheOptions() cache.Options {
	o.missing = access.NewMissing()
	return intake.CacheOptions(o.missing, o.WatchTime)
}

// Setup adds everything the operator does to the manager, whose cache must have been made with the CacheOptions of these options.
func Setup(mgr manager.Manager, o Options) error {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Registerer == nil {
		o.Registerer = ctrlmetrics.Registry
	}
	if o.missing == nil {
		return errors.New("setting up: these are not the Options whose CacheOptions made the manager's cache")
	}
	watching, err := client.NewWithWatch(mgr.GetConfig(), client.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
	})
	if err != nil {
		return fmt.Errorf("making the client of the optional sources: %w", err)
	}
	requests, err := intake.AddSigningRequests(mgr, watching, o.WatchTime)
	if err != nil {
		return err
	}
	configMap, err := intake.AddConfigMap(mgr, watching, o.TrustConfigMap, o.WatchTime)
	if err != nil {
		return err
	}
	bundle := trust.New(configMap, o.TrustConfigMap, o.TrustKey)

	nodesObserved, err := nodecertificates.Add(mgr, nodecertificates.Options{
		Clock: o.Clock, SigningRequests: requests, Trust: bundle, TrustConfigMap: configMap, ProbeConcurrency: o.ProbeConcurrency,
		ProbeLoopback: o.ProbeLoopback, KubeletReader: o.KubeletReader, Registerer: o.Registerer, Missing: o.missing,
	})
	if err != nil {
		return fmt.Errorf("adding the nodecertificates controllers: %w", err)
	}
	controlPlane, err := controlplane.Add(mgr, controlplane.Options{
		Clock: o.Clock, Trust: bundle, TrustConfigMap: configMap, WatchTime: o.WatchTime,
	})
	if err != nil {
		return fmt.Errorf("adding the controlplane controller: %w", err)
	}
	approvals, err := signingrequest.Add(mgr, signingrequest.Options{
		Clock: o.Clock, SigningRequests: requests[certificatesv1.KubeletServingSignerName], Lookup: dns.System(o.DNSServer),
		Registerer: o.Registerer,
	})
	if err != nil {
		return fmt.Errorf("adding the signingrequest controllers: %w", err)
	}
	verdicts := metrics.NewVerdicts()
	if err := certificatepolicy.Add(mgr, certificatepolicy.Options{
		Clock: o.Clock, SigningRequests: requests, Trust: bundle, TrustConfigMap: configMap, Verdicts: verdicts,
		ControlPlane: controlPlane, Watching: watching, WatchTime: o.WatchTime, Approvals: approvals, Missing: o.missing,
		Registerer: o.Registerer, NodesObserved: nodesObserved,
	}); err != nil {
		return fmt.Errorf("adding the certificatepolicy controller: %w", err)
	}
	readers := make(map[string]metrics.SigningRequests, len(requests))
	for signer, source := range requests {
		readers[signer] = source
	}
	if err := errors.Join(
		o.Registerer.Register(metrics.New(mgr.GetClient(), readers, verdicts)),
		o.Registerer.Register(metrics.NewControlPlane(controlPlane)),
		o.Registerer.Register(metrics.NewPools(mgr.GetClient(), o.Clock)),
	); err != nil {
		return fmt.Errorf("registering the metrics collectors: %w", err)
	}
	return addReadyChecks(mgr)
}

// addReadyChecks makes the readiness endpoint fail until the objects are known that nothing can be done without: Nodes,
// NodeCertificates and CertificatePolicies. What else may not be read, the policies' status says.
func addReadyChecks(mgr manager.Manager) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	r := &readiness{cache: mgr.GetCache(), synced: make(chan struct{})}
	if err := mgr.Add(r); err != nil {
		return fmt.Errorf("adding what waits for the cache: %w", err)
	}
	if err := mgr.AddReadyzCheck("cache-objects", r.check); err != nil {
		return fmt.Errorf("adding the readiness check of the cache: %w", err)
	}
	return nil
}

// readiness waits for the cache to hold what nothing can be done without. The cache itself can't be asked: it takes itself for
// synced as long as nobody wants anything of it.
type readiness struct {
	cache  cache.Cache
	synced chan struct{}
}

// Start implements manager.Runnable.
func (r *readiness) Start(ctx context.Context) error {
	for _, kind := range []client.Object{&corev1.Node{}, &v1alpha1.NodeCertificates{}, &v1alpha1.CertificatePolicy{}} {
		if _, err := r.cache.GetInformer(ctx, kind); err != nil && ctx.Err() == nil {
			return fmt.Errorf("waiting for the cache of %T: %w", kind, err)
		}
	}
	if ctx.Err() == nil {
		close(r.synced)
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: a replica that is to take over has to be ready for it.
func (*readiness) NeedLeaderElection() bool { return false }

func (r *readiness) check(*http.Request) error {
	select {
	case <-r.synced:
		return nil
	default:
		return errors.New("the cache of Nodes, NodeCertificates and CertificatePolicies is not synced: " +
			"see the log for what can't be listed")
	}
}
