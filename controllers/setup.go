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
	"path"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
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
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/nodecertificates"
)

// readyTimeout is how long the readiness check waits for a cache that is just about to be synced.
const readyTimeout = 200 * time.Millisecond

// Options are what the command line decides.
type Options struct {
	// Clock is where the controllers take the time from. Nil is the real one.
	Clock clock.WithTicker
	// TrustConfigMap and TrustKey name the ConfigMap, and the key in it, that hold the certificates of the Cluster CA, which
	// kubelet serving certificates are verified against.
	TrustConfigMap types.NamespacedName
	TrustKey       string
	// ProbeConcurrency is how many kubelets are probed at once.
	ProbeConcurrency int
}

// NewScheme returns a scheme that knows every kind the operator reads or writes.
func NewScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// Setup adds everything the operator does to the manager, whose cache must have been made with CacheOptions.
func Setup(ctx context.Context, mgr manager.Manager, o Options) error {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	requests, err := addSigningRequestCaches(ctx, mgr)
	if err != nil {
		return err
	}
	source := trust.New(mgr.GetClient(), o.TrustConfigMap, o.TrustKey)

	if err := nodecertificates.Add(mgr, nodecertificates.Options{
		Clock: o.Clock, SigningRequests: requests, Trust: source, ProbeConcurrency: o.ProbeConcurrency,
	}); err != nil {
		return fmt.Errorf("adding the nodecertificates controllers: %w", err)
	}
	verdicts := metrics.NewVerdicts()
	if err := certificatepolicy.Add(mgr, certificatepolicy.Options{
		Clock: o.Clock, SigningRequests: requests, Trust: source, Verdicts: verdicts,
	}); err != nil {
		return fmt.Errorf("adding the certificatepolicy controller: %w", err)
	}
	readers := make(map[string]client.Reader, len(requests))
	for signer, requestCache := range requests {
		readers[signer] = requestCache
	}
	if err := ctrlmetrics.Registry.Register(metrics.New(mgr.GetClient(), readers, verdicts)); err != nil {
		return fmt.Errorf("registering the metrics collector: %w", err)
	}
	return addReadyChecks(mgr, requests)
}

// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=get;list;watch

func addSigningRequestCaches(ctx context.Context, mgr manager.Manager) (map[string]cache.Cache, error) {
	requests := make(map[string]cache.Cache, len(signers))
	for _, signer := range signers {
		options := cache.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()}
		requestCache, err := newSigningRequestCache(mgr.GetConfig(), options, signer)
		if err != nil {
			return nil, err
		}
		kind := &certificatesv1.CertificateSigningRequest{}
		if err := requestCache.IndexField(ctx, kind, csr.NodeNameIndex, indexNodeName); err != nil {
			return nil, fmt.Errorf("indexing signing requests to %s by node: %w", signer, err)
		}
		if err := mgr.Add(requestCache); err != nil {
			return nil, fmt.Errorf("adding the cache of signing requests to %s: %w", signer, err)
		}
		requests[signer] = requestCache.Cache
	}
	return requests, nil
}

func indexNodeName(o client.Object) []string {
	request, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	return []string{csr.NodeName(request)}
}

// addReadyChecks makes the readiness endpoint say which cache is not synced: that is how a missing permission shows at start.
// Each cache has a check of its own, because /readyz tells the names of failed checks and not their errors.
func addReadyChecks(mgr manager.Manager, requests map[string]cache.Cache) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	caches := map[string]cache.Cache{"objects": mgr.GetCache()}
	for signer, requestCache := range requests {
		caches["signing-requests-"+path.Base(signer)] = requestCache
	}
	for name, c := range caches {
		check := func(request *http.Request) error {
			synced, cancel := context.WithTimeout(request.Context(), readyTimeout)
			defer cancel()
			if !c.WaitForCacheSync(synced) {
				return errors.New("the cache is not synced: see the log for what can't be listed")
			}
			return nil
		}
		if err := mgr.AddReadyzCheck("cache-"+name, check); err != nil {
			return fmt.Errorf("adding the readiness check of %s: %w", name, err)
		}
	}
	return nil
}
