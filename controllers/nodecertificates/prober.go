// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/kubelet"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
)

const (
	// patience is how long a node may keep a worker waiting that is not known to be slow. One that takes longer is probed
	// again, with its full timeout, among the suspects.
	patience = time.Second
	// suspectFactor is how many suspects are waited for at once, for each node that is probed at once. Waiting for them costs
	// next to nothing, and when a network breaks, all nodes are suspects.
	suspectFactor = 4
)

// prober probes the nodes that policies select, each when it is due.
type prober struct {
	client client.Reader
	trust  trust.Source
	clock  clock.PassiveClock
	probe  func(ctx context.Context, target tlsprobe.Target, timeout time.Duration) tlsprobe.Result
	// ask asks a kubelet about itself; nil when there is no account to ask with.
	ask     func(ctx context.Context, target kubelet.Target, timeout time.Duration) kubelet.Result
	records *records
	// sweep is told of nodes that there will be no news of soon.
	sweep *sweep
	// loopback says that loopback addresses are connected to.
	loopback bool
	places   places
	// wake tells the first controller that there is news of a node.
	wake func(node string)
	// random is in [0, 1).
	random  func() float64
	metrics *probeMetrics
}

// Reconcile probes a node if it is due, and says when it is due next. It may be called at any time: what makes a node due is
// its record, not the call.
func (p *prober) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	node := &corev1.Node{}
	if err := p.client.Get(ctx, req.NamespacedName, node); err != nil {
		if client.IgnoreNotFound(err) == nil {
			p.records.forget(req.Name)
			p.sweep.look(req.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	policies := &v1alpha1.CertificatePolicyList{}
	if err := p.client.List(ctx, policies, client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing CertificatePolicies: %w", err)
	}
	wanted := demandOn(labels.Set(node.Labels), policies.Items)
	if wanted == nil {
		before, _ := p.records.get(node.Name, node.UID)
		p.remember(node, before, record{uid: node.UID, evidence: &evidence{unwanted: true}, answers: &answers{}})
		return reconcile.Result{}, nil
	}
	known := &v1alpha1.NodeCertificates{}
	if err := p.client.Get(ctx, req.NamespacedName, known); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("reading NodeCertificates %s: %w", req.Name, err)
	}
	return p.reconcile(ctx, node, *wanted, known)
}

func (p *prober) reconcile(
	ctx context.Context, node *corev1.Node, wanted demand, known *v1alpha1.NodeCertificates,
) (reconcile.Result, error) {
	current := p.recordOf(node, known)
	q := question{node: node, wanted: wanted, known: known}
	address, err := kubeletAddress(node, p.loopback)
	if err != nil {
		// Nothing to wait for but a change of the Node, which is watched.
		latest := record{uid: node.UID, evidence: noAddress(err)}
		p.settle(q, &latest)
		p.remember(node, current, latest)
		return reconcile.Result{}, nil
	}
	var trust trusted
	trust.bundle, trust.err = p.trust.Bundle()
	q.address, q.trust = address, trust.bundle

	issued := issuedServing(&known.Status)
	plan := schedule{
		history: current.history,
		demand:  wanted,
		served:  served(current.evidence, known),
		outdated: current.evidence != nil &&
			(current.evidence.serving.Address != address.String() || current.evidence.trust != trust.fingerprint()),
	}
	plan.awaited = awaitedCertificate(issued, plan.served, p.clock.Now())
	if wait := plan.next().Sub(p.clock.Now()); wait > 0 {
		current.due = plan.next()
		p.records.plan(node.Name, current.due)
		return p.askWhenDue(ctx, q, current, p.due(wait, plan))
	}

	result, done := attempt(ctx, p.places, wanted.timeout, &current.history, func(timeout time.Duration) (tlsprobe.Result, bool) {
		result := p.probe(ctx, tlsprobe.Target{Address: address}, timeout)
		return result, result.TimedOut
	})
	if ctx.Err() != nil {
		return cutShort(ctx, "probing node "+node.Name)
	}
	now := p.clock.Now()
	if !done {
		p.records.put(node.Name, current)
		p.sweep.look(node.Name)
		return p.suspectsTurn(wanted.timeout), nil
	}
	p.metrics.observe(result)
	found := newEvidence(result, address, trust, now)
	plan.served = served(found, known)
	plan.awaited = awaitedCertificate(issued, plan.served, now)
	failed := result.Outcome == v1alpha1.ProbeUnreachable || result.Outcome == v1alpha1.ProbeHandshakeFailed
	plan.history = current.history.after(failed, result.TimedOut, plan.awaited, now, 2*p.random()-1)
	plan.outdated = false
	latest := record{
		uid: node.UID, history: plan.history, evidence: found, asked: current.asked, answers: current.answers, due: plan.next(),
	}
	p.settle(q, &latest)
	p.remember(node, current, latest)
	return p.sooner(p.due(max(plan.next().Sub(now), enqueue.NoDelay), plan), q, latest), nil
}

// cutShort is the result of what was cut short, which says nothing about the node. This process being stopped is no failure that
// somebody would have to hear of. That the time for a reconciliation was over is one.
func cutShort(ctx context.Context, doing string) (reconcile.Result, error) {
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		return reconcile.Result{}, fmt.Errorf("%s: %w", doing, err)
	}
	return reconcile.Result{RequeueAfter: enqueue.NoDelay}, nil
}

// recordOf is what is known of the node. A node that could not be asked before this process started is suspect from the start.
func (p *prober) recordOf(node *corev1.Node, known *v1alpha1.NodeCertificates) record {
	current, ok := p.records.get(node.Name, node.UID)
	if !ok && known.Status.Serving != nil {
		outcome := known.Status.Serving.Outcome
		current.history.suspect = outcome == v1alpha1.ProbeUnreachable || outcome == v1alpha1.ProbeHandshakeFailed
	}
	return current
}

// served is the certificate in use, as far as it is known: that of a node that could not be asked is the one it had.
func served(latest *evidence, known *v1alpha1.NodeCertificates) *v1alpha1.CertificateStatus {
	if latest != nil && (latest.unwanted || latest.certificate != nil || latest.serving.Outcome == v1alpha1.ProbeNoCertificate) {
		return latest.certificate
	}
	return certificate(known.Status.Certificates, v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake)
}

// attempt asks a node something. A node that does not answer soon is suspect, and suspects have places of their own, so that they
// delay each other but nobody else. It returns false when there was no place for one, or the context ended. try says whether it
// ended because its time was over.
func attempt[R any](
	ctx context.Context, p places, timeout time.Duration, h *history, try func(timeout time.Duration) (R, bool),
) (result R, done bool) {
	if !h.suspect {
		if err := p.fast.Acquire(ctx, 1); err != nil {
			return result, false
		}
		result, timedOut := try(min(timeout, patience))
		p.fast.Release(1)
		if !timedOut || timeout <= patience {
			return result, true
		}
		h.suspect = true
	}
	if !p.slow.TryAcquire(1) {
		return result, false
	}
	defer p.slow.Release(1)
	result, _ = try(timeout)
	return result, true
}

// remember keeps what was found and wakes the first controller if that is news.
func (p *prober) remember(node *corev1.Node, before, now record) {
	p.records.put(node.Name, now)
	if !now.evidence.sameFacts(before.evidence) || !now.answers.sameFacts(before.answers) {
		p.wake(node.Name)
	}
}

// due is the result that comes back when the node is due. What is awaited goes first; the rest keeps the order it is due in.
func (p *prober) due(wait time.Duration, plan schedule) reconcile.Result {
	priority := handler.LowPriority
	if plan.awaited != "" {
		priority = 0
	}
	return reconcile.Result{RequeueAfter: wait, Priority: &priority}
}

// suspectsTurn is the result that comes back when a place for a suspect may be free.
func (p *prober) suspectsTurn(timeout time.Duration) reconcile.Result {
	priority := 2 * handler.LowPriority
	wait := time.Duration((0.5 + p.random()) * float64(timeout) / 2)
	return reconcile.Result{RequeueAfter: max(wait, enqueue.NoDelay), Priority: &priority}
}

// places are how many nodes are asked at the same time.
type places struct {
	// fast are for nodes that are expected to answer. None is kept for long, so a worker waits for one.
	fast *semaphore.Weighted
	// slow are for suspects, which take theirs for the whole timeout. Nobody waits for one.
	slow *semaphore.Weighted
}

// newPlaces returns the places, and how many workers it takes to have all of them taken.
func newPlaces(concurrency int) (p places, workers int) {
	suspects := suspectFactor * concurrency
	p = places{fast: semaphore.NewWeighted(int64(concurrency)), slow: semaphore.NewWeighted(int64(suspects))}
	return p, concurrency + suspects
}
