// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"fmt"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// reconciler observes the control plane and the trust bundles. There is one of each, so that it has one item of work, and one
// worker.
type reconciler struct {
	client  client.Reader
	clock   clock.PassiveClock
	random  func() float64
	trust   trust.Source
	sources *sources
	servers apiServers
	keys    signingKeys
	cas     clusterCAs
	store   *Store
}

// Reconcile observes everything that a policy asks for, and says when the API server is due to be looked at again. What is
// watched costs next to nothing to observe anew, so nothing is remembered of it.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	policies := &v1alpha1.CertificatePolicyList{}
	if err := r.client.List(ctx, policies, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing CertificatePolicies: %w", err)
	}
	d := demandOf(policies.Items)
	if len(d.purposes) == 0 {
		// Who begins to watch something is to wait for it, and not to see what was found long ago.
		r.servers.known, r.keys.look = nil, look{}
		r.store.set(nil, nil)
		return reconcile.Result{}, nil
	}
	r.sources.want(ctx, d)
	o := &observation{
		demand: d, cas: &r.cas, trustSource: r.trust.ConfigMap.String(), denied: map[string]policy.Denial{},
	}
	o.trusted, o.trustErr = r.trust.Bundle()
	r.servers.trust(o.trusted)
	next, err := r.lookAtAPIServers(ctx, o)
	if err != nil {
		return reconcile.Result{}, err
	}
	o.now = r.clock.Now()
	o.clusterCA()
	o.authentication(r.sources)
	o.clusterTrustBundles(r.sources)
	o.apiServices(r.sources)
	o.webhooks(r.sources)
	o.conversionWebhooks(r.sources)
	o.staleness()
	o.ignored()
	if snapshot, _ := r.store.Snapshot(); snapshot != nil || !o.waiting {
		r.store.set(o.result())
	}
	if next.IsZero() {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: max(next.Sub(r.clock.Now()), enqueue.NoDelay)}, nil
}

// lookAtAPIServers makes the looks that are due, observes what they showed and says when the next is due; zero when nobody
// wants any.
func (r *reconciler) lookAtAPIServers(ctx context.Context, o *observation) (time.Time, error) {
	const purpose = v1alpha1.PurposeAPIServer
	if !o.demand.purposes[purpose] {
		r.servers.known, r.keys.look = nil, look{}
		return time.Time{}, nil
	}
	var inUse []*discoveryv1.EndpointSlice
	found, err := r.sources.endpoints.List()
	if err != nil {
		o.failed(err, apiServerEndpoints, purpose)
	} else {
		inUse = found
	}
	targets, omitted := r.servers.targets(inUse)
	if omitted > 0 {
		o.unreadable(purpose, apiServerEndpoints,
			fmt.Errorf("%d of them are not looked at, which are more than %d", omitted, maxEndpoints))
	}
	next, err := r.servers.look(ctx, targets, o.demand.expiry)
	if err != nil {
		return time.Time{}, err
	}
	r.refreshKeys(ctx)
	if err := ctx.Err(); err != nil {
		return time.Time{}, fmt.Errorf("looking at the API server: %w", err)
	}
	o.now = r.clock.Now()
	o.apiServers(&r.servers)
	o.keys(&r.keys)
	if due := r.keys.look.next(); due.Before(next) {
		next = due
	}
	return next, nil
}

func (r *reconciler) refreshKeys(ctx context.Context) {
	log := logf.FromContext(ctx)
	before := r.keys.ids
	changed, err := r.keys.refresh(ctx, r.clock.Now(), 2*r.random()-1)
	switch {
	case err != nil:
		log.Info("The service account signing keys could not be read", "cause", err.Error())
	case changed:
		log.Info("The service account signing keys changed", "before", before, "now", r.keys.ids)
	}
}
