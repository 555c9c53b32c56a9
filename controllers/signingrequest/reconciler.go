// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/dns"
)

const (
	// suspendedRetry is how long a request waits at most, while approvals are suspended, for another look at whether they are.
	suspendedRetry = 10 * time.Second
	// refusedRetry is how long a decision waits that the API server refused for another reason than a missing permission.
	refusedRetry = time.Minute
	// retryJitter is the share by which such a wait may be longer.
	retryJitter = 0.1
)

// requestSource is where the requests are read: an optional.Source.
type requestSource interface {
	List() ([]*certificatesv1.CertificateSigningRequest, error)
	ByIndex(index, value string) ([]*certificatesv1.CertificateSigningRequest, error)
}

// reconciler decides on one node's newest request at a time. It reads from caches and memory, and makes one write.
type reconciler struct {
	client   client.Reader
	approval client.SubResourceWriter
	requests requestSource
	resolver *dns.Resolver
	clock    clock.PassiveClock
	rules    *rules
	breaker  *breaker
	access   *access
	store    *Store
	metrics  *decisionMetrics
}

// Reconcile judges a node's newest undecided request.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if req == recount {
		return r.recount(ctx)
	}
	requests, err := r.requests.ByIndex(csr.NodeNameIndex, req.Name)
	if err != nil {
		return reconcile.Result{}, nil //nolint:nilerr // the policies report it, and once they can be read, all are judged
	}
	newest := csr.Newest(requests)
	if newest == nil {
		r.store.forget(req.Name)
		return reconcile.Result{}, nil
	}
	if r.store.isDecided(req.Name, newest) {
		// The cache is behind. It will show what became of the request, which is an event.
		return reconcile.Result{}, nil
	}
	set, err := r.rules.current(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(set.all()) == 0 {
		// No policy has a say, which is the default.
		r.store.forget(req.Name)
		return reconcile.Result{}, nil
	}
	in, err := r.gather(ctx, req.Name, set)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("gathering the evidence for CertificateSigningRequest %s: %w", newest.Name, err)
	}
	in.Request, in.Siblings = newest, requests
	decision, err := r.judge(ctx, req.Name, in)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("judging CertificateSigningRequest %s: %w", newest.Name, err)
	}
	if r.store.note(req.Name, set.version, newest, decision) {
		r.metrics.judged(decision)
	}
	switch {
	case decision.Verdict == csr.Approve || decision.Verdict == csr.Deny:
		return r.write(ctx, req.Name, newest, decision)
	case decision.Reason == csr.ReasonSuspended:
		return reconcile.Result{RequeueAfter: wait.Jitter(suspendedRetry, retryJitter)}, nil
	case decision.Until.IsZero():
		return reconcile.Result{}, nil
	default:
		return reconcile.Result{RequeueAfter: max(decision.Until.Sub(in.Now), enqueue.NoDelay)}, nil
	}
}

// recount has the breaker count those who wait. While it is open it does so again and again: when those who waited are gone,
// nobody else asks.
func (r *reconciler) recount(ctx context.Context) (reconcile.Result, error) {
	set, err := r.rules.current(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	open, err := r.breaker.open(ctx, set, r.clock.Now())
	if err != nil || !open {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: wait.Jitter(suspendedRetry, retryJitter)}, nil
}

// gather reads what a decision takes into account, but for the requests themselves.
func (r *reconciler) gather(ctx context.Context, nodeName string, set *ruleSet) (csr.DecisionInput, error) {
	in := csr.DecisionInput{Now: r.clock.Now()}
	node := &corev1.Node{}
	switch err := r.client.Get(ctx, client.ObjectKey{Name: nodeName}, node); {
	case err == nil:
		in.Node = node
	case !apierrors.IsNotFound(err):
		return in, fmt.Errorf("reading Node %s: %w", nodeName, err)
	}
	if in.Rules = set.matching(in.Node); len(in.Rules) == 0 {
		return in, nil
	}
	known := &v1alpha1.NodeCertificates{}
	switch err := r.client.Get(ctx, client.ObjectKey{Name: nodeName}, known); {
	case err == nil:
		if in.Node != nil && known.IsOf(in.Node.UID) {
			in.Certificates = known.Status.Certificates
			if known.Status.Serving != nil {
				in.ServingMode = known.Status.Serving.Mode
			}
		}
	case !apierrors.IsNotFound(err):
		return in, fmt.Errorf("reading NodeCertificates %s: %w", nodeName, err)
	}
	var err error
	in.Suspended, err = r.breaker.open(ctx, set, in.Now)
	return in, err
}

// judge decides. A decision that takes names to be resolved is made when all of them are: until then, nobody waits.
func (r *reconciler) judge(ctx context.Context, nodeName string, in csr.DecisionInput) (csr.Decision, error) {
	var failed error
	in.Owners = func(address string) []string {
		names, err := r.owners(ctx, address)
		failed = errors.Join(failed, err)
		return names
	}
	decision := csr.Decide(in)
	if failed != nil || decision.Verdict != csr.Resolve {
		return decision, failed
	}
	answers := r.resolver.Resolve(ctx, nodeName, decision.Resolve, decision.ResolveTimeout)
	in.Answers = make(map[string]csr.Answer, len(answers))
	for _, name := range decision.Resolve {
		answer, ok := answers[name]
		if !ok {
			return decision, nil
		}
		in.Answers[name] = answerOf(answer)
	}
	decision = csr.Decide(in)
	return decision, failed
}

func answerOf(answer dns.Answer) csr.Answer {
	switch {
	case answer.Err != nil:
		return csr.Answer{Failure: answer.Err.Error()}
	case answer.Outcome == dns.NotFound:
		return csr.Answer{Failure: "the name does not exist"}
	default:
		return csr.Answer{Addresses: answer.Addresses}
	}
}

// owners are the names of the Nodes that say that they can be reached at the address.
func (r *reconciler) owners(ctx context.Context, address string) ([]string, error) {
	var nodes corev1.NodeList
	err := r.client.List(ctx, &nodes, client.MatchingFields{addressIndex: address}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the Nodes with address %s: %w", address, err)
	}
	names := make([]string, len(nodes.Items))
	for i := range nodes.Items {
		names[i] = nodes.Items[i].Name
	}
	return names, nil
}

// conditionTypes are what decisions are called in a request's status.
var conditionTypes = map[csr.Verdict]certificatesv1.RequestConditionType{
	csr.Approve: certificatesv1.CertificateApproved,
	csr.Deny:    certificatesv1.CertificateDenied,
}

// write writes the decision, on the very version of the request that was judged. Whoever else decides, one of us is first, and
// the API server tells the other.
func (r *reconciler) write(
	ctx context.Context, nodeName string, request *certificatesv1.CertificateSigningRequest, decision csr.Decision,
) (reconcile.Result, error) {
	if r.access.isDenied() {
		// All are judged again once it is not.
		return reconcile.Result{}, nil
	}
	if request.ResourceVersion == "" {
		// The API server takes that for a wish to overwrite whatever there is.
		return reconcile.Result{}, fmt.Errorf("CertificateSigningRequest %s has no resourceVersion", request.Name)
	}
	decided := request.DeepCopy()
	decided.Status.Conditions = append(decided.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: conditionTypes[decision.Verdict], Status: corev1.ConditionTrue,
		Reason: string(decision.Reason), Message: decision.Message,
	})
	log := logf.FromContext(ctx).WithValues("request", request.Name, "decision", decision.Verdict, "reason", decision.Reason)
	err := r.approval.Update(ctx, decided)
	switch {
	case err == nil:
		log.Info("Decided")
		r.metrics.written(decision, r.clock.Since(request.CreationTimestamp.Time))
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		log.V(1).Info("Somebody else was first", "cause", err.Error())
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), isOfWebhook(err):
		log.Info("Refused", "cause", err.Error())
		r.store.refuse(nodeName, request)
		r.access.recheck()
		return reconcile.Result{RequeueAfter: wait.Jitter(refusedRetry, retryJitter)}, nil
	default:
		return reconcile.Result{}, fmt.Errorf("deciding on CertificateSigningRequest %s: %w", request.Name, err)
	}
	r.store.decide(nodeName, request)
	return reconcile.Result{}, nil
}

// isOfWebhook says that an admission webhook could not be asked, and that nothing is let through then. The API server has no
// reason of its own for that: see validating/dispatcher.go in
// https://github.com/kubernetes/kubernetes/tree/v1.37.2/staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook
func isOfWebhook(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook")
}

// isUndecided says that nobody approved, denied or failed the request.
func isUndecided(request *certificatesv1.CertificateSigningRequest) bool {
	return csr.Stage(request) == v1alpha1.StagePending
}

// oldest is when the node's oldest undecided request was created: since then it waits. It is nil if there is none.
func oldest(requests []*certificatesv1.CertificateSigningRequest) *metav1.Time {
	var first *metav1.Time
	for _, request := range requests {
		if isUndecided(request) && (first == nil || request.CreationTimestamp.Before(first)) {
			first = &request.CreationTimestamp
		}
	}
	return first
}
