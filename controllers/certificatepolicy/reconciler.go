// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

const (
	// longestSleep is how long to wait for an instant before looking again how far it is. A timer runs by a clock that
	// stands still while the machine is suspended and that nobody sets; certificates expire by the other one.
	longestSleep = 10 * time.Minute
	// writeInterval is the least time between two writes of one policy's status. It bounds what a burst costs the API
	// server and every watcher, and it is the longest that a finding can be held back.
	writeInterval = time.Second
	// evaluationInterval is the least time between two evaluations of one policy, of which the first wrote nothing.
	evaluationInterval = 100 * time.Millisecond
	// writeTimeout bounds the writes at the end of an evaluation. It is less than the manager has for shutting down.
	writeTimeout = 15 * time.Second
	// checkDelay is the least time that an evaluation comes after the instant that is due, so that it never comes early.
	// Jitter doubles it at most.
	checkDelay = 50 * time.Millisecond
)

// reconciler judges one policy at a time.
type reconciler struct {
	client client.Client
	// stored reads from the API server, and not from a cache.
	stored client.Reader
	// objects is the cache that client reads from.
	objects  cache.Cache
	requests *requestReader
	trust    trust.Source
	clock    clock.PassiveClock
	// recorder takes Events, and deliver writes those that it took.
	recorder events.EventRecorder
	deliver  func(context.Context) error
	verdicts *metrics.Verdicts
	// controlPlane is what another controller knows of the control plane and the trust bundles.
	controlPlane ControlPlane
	// approvals is what the approver of signing requests has to say; nil: there is none.
	approvals Approvals
	// nodesObserved is closed once every node has been looked at since this process began to do so; nil: they have been.
	nodesObserved <-chan struct{}
	// missing are the permissions that are missing for what is taken for known; nil: none ever is.
	missing Missing
	// tokens and workloads are watched from the time that a policy asks for them.
	tokens    *tokens
	workloads *workloads
	// evaluations is told how many seconds each evaluation took.
	evaluations prometheus.Observer

	mu       sync.Mutex
	memories map[string]*memory
}

// Reconcile judges a policy and reports the verdict. One that was deleted is forgotten here, and not in an event handler, which
// would race with the evaluation of the same policy: the queue never hands out a policy twice at once.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	p := &v1alpha1.CertificatePolicy{}
	if err := r.client.Get(ctx, req.NamespacedName, p); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return r.reconcile(ctx, p)
}

func (r *reconciler) reconcile(ctx context.Context, p *v1alpha1.CertificatePolicy) (reconcile.Result, error) {
	m, err := r.remember(ctx, p)
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	now := r.clock.Now()
	if pause := max(m.notBefore.Sub(now), r.untilKnown(p, m, now)); pause > 0 {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	if m.isBehind(p) {
		return reconcile.Result{RequeueAfter: enqueue.StaleRetry}, nil
	}
	e, err := r.gather(ctx, p, now)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("gathering the evidence for CertificatePolicy %s: %w", p.Name, err)
	}
	verdict := e.judge()
	r.evaluations.Observe(r.clock.Since(now).Seconds())
	status := newStatus(p, e, &verdict)
	// The metrics tell the verdict even while it cannot be written.
	r.verdicts.Set(p.Name, metrics.Report{
		Findings: verdict.Findings, Nodes: status.Nodes, Certificates: status.Certificates, Conditions: status.Conditions,
		Evaluated: now, Next: nextEvaluation(now, verdict.NextCheck),
	})
	// What has begun is finished even if the process is to end: who takes over goes on from this status, and knows nothing of
	// Events that were left unwritten.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	pause := evaluationInterval
	if !equality.Semantic.DeepEqual(p.Status, status) {
		p.Status = status
		err := r.client.Status().Update(ctx, p)
		if apierrors.IsConflict(err) {
			logf.FromContext(ctx).V(1).Info("The cache is behind, trying again", "cause", err.Error())
			return reconcile.Result{RequeueAfter: enqueue.StaleRetry}, nil
		}
		if err != nil {
			// Nothing is lost: what m holds is that of the last status written, so the retry finds the same transitions.
			return reconcile.Result{}, client.IgnoreNotFound(
				fmt.Errorf("updating the status of CertificatePolicy %s: %w", p.Name, err))
		}
		pause, m.written = writeInterval, p.ResourceVersion
	}
	m.notBefore = r.clock.Now().Add(pause)
	r.announce(p, m, e, verdict.Findings)
	if err := r.deliver(ctx); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: untilDue(now, verdict.NextCheck, m.suppressed.due())}, nil
}

// nextEvaluation is when an evaluation at now is followed by another at the latest; zero when none is due by itself.
func nextEvaluation(now, due time.Time) time.Time {
	if pause := untilDue(now, due); pause > 0 {
		return now.Add(pause)
	}
	return time.Time{}
}

// untilDue returns the time to the first of the instants, a little more rather than less; zero when there is none.
func untilDue(now time.Time, instants ...time.Time) time.Duration {
	var first time.Time
	for _, instant := range instants {
		if !instant.IsZero() && (first.IsZero() || instant.Before(first)) {
			first = instant
		}
	}
	if first.IsZero() {
		return 0
	}
	return min(max(0, first.Sub(now)), longestSleep) + wait.Jitter(checkDelay, 1)
}

// remember returns what is remembered about the policy. A policy that was deleted and made anew is another one. Of one that
// this process has not evaluated yet, the status is read anew: what another process wrote last may not be in the cache yet,
// and its Events would be repeated.
func (r *reconciler) remember(ctx context.Context, p *v1alpha1.CertificatePolicy) (*memory, error) {
	r.mu.Lock()
	m := r.memories[p.Name]
	r.mu.Unlock()
	if m != nil && m.uid == p.UID {
		return m, nil
	}
	stored := &v1alpha1.CertificatePolicy{}
	if err := r.stored.Get(ctx, client.ObjectKeyFromObject(p), stored); err != nil {
		return nil, fmt.Errorf("reading CertificatePolicy %s: %w", p.Name, err)
	}
	m = newMemory(stored)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memories[p.Name] = m
	return m, nil
}

// untilKnown returns how long a policy that another process evaluated before is left as that found it, because this one, which
// begins to look when it leads, has not looked at everything yet. What is written of the nodes may be of any age: after a weekend
// without notafter, certificates that live for a day would all pass for expired. And what the approver of signing requests has
// not judged yet would be taken for over.
func (r *reconciler) untilKnown(p *v1alpha1.CertificatePolicy, m *memory, now time.Time) time.Duration {
	if len(p.Status.Conditions) == 0 || m.known {
		return 0
	}
	if m.patience.IsZero() {
		m.patience = now.Add(takeoverTime)
	}
	m.known = r.areNodesObserved() && r.areRequestsJudged(p) || !now.Before(m.patience)
	if m.known {
		return 0
	}
	return takeoverRetry
}

func (r *reconciler) areNodesObserved() bool {
	if r.nodesObserved == nil {
		return true
	}
	select {
	case <-r.nodesObserved:
		return true
	default:
		return false
	}
}

func (r *reconciler) areRequestsJudged(p *v1alpha1.CertificatePolicy) bool {
	if r.approvals == nil || p.Spec.SigningRequestApproval == nil {
		return true
	}
	known, denied := r.approvals.Snapshot()
	return known != nil && !slices.Contains(known.Unjudged, p.Name) || len(denied) > 0
}

// forget drops everything known about a policy that is gone, its series among it.
func (r *reconciler) forget(policyName string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memories, policyName)
	r.verdicts.Delete(policyName)
}
