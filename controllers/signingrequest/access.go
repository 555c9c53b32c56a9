// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"fmt"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/policy"
)

const (
	// deniedInterval is how often a missing permission is asked for again, and allowedInterval one that is there: a write that
	// is refused says so, too.
	deniedInterval, allowedInterval = 15 * time.Second, 10 * time.Minute
	// otherwiseRefused is said where the permissions are there. What exactly was answered differs from request to request.
	otherwiseRefused = "it is granted, and decisions are refused all the same: an admission webhook or policy may be in the way, " +
		"and the log of the manager that leads has the answers"
	// purpose is what the permissions are for.
	purpose = "approving the kubelets' requests for serving certificates; config/components/approval grants it"
)

// permission is what a decision takes.
type permission struct {
	name string
	// anyOf are the ways to have it.
	anyOf []authorizationv1.ResourceAttributes
}

// permissions are all that a decision takes. Whoever may approve for all signers of a domain may approve for one:
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/registry/certificates/authorization/helpers.go
var permissions = []permission{
	{
		name: "update certificatesigningrequests.certificates.k8s.io/approval",
		anyOf: []authorizationv1.ResourceAttributes{{
			Verb: "update", Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Subresource: "approval",
		}},
	},
	{
		name: "approve signers.certificates.k8s.io/" + certificatesv1.KubeletServingSignerName,
		anyOf: []authorizationv1.ResourceAttributes{
			{Verb: "approve", Group: certificatesv1.GroupName, Resource: "signers", Name: certificatesv1.KubeletServingSignerName},
			{Verb: "approve", Group: certificatesv1.GroupName, Resource: "signers", Name: "kubernetes.io/*"},
		},
	},
}

// access finds out whether decisions may be written, before the first one has to be.
type access struct {
	reviews client.Writer
	rules   *rules
	store   *Store
	// wakeAll has every request judged again.
	wakeAll func()

	wake enqueue.Waker

	mu sync.Mutex
	// checked says that the API server was asked since there is something to be allowed.
	checked bool
	// denied are the permissions that are missing.
	denied []policy.Denial
}

// check is the one item of work.
var check = reconcile.Request{NamespacedName: types.NamespacedName{Name: "permissions"}}

func enqueueAccess() handler.EventHandler {
	return enqueue.OnAny[client.Object](func(_ context.Context, q enqueue.Queue) { q.Add(check) })
}

// Reconcile asks the API server what may be done, if a policy wants that done.
func (a *access) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	set, err := a.rules.current(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !set.approves() {
		a.reset()
		return reconcile.Result{}, nil
	}
	denied, err := a.missing(ctx)
	if err != nil {
		// Who may not even ask finds out when it writes.
		logf.FromContext(ctx).Info("Cannot tell whether requests may be approved", "cause", err.Error())
	}
	if a.set(denied) {
		a.wakeAll()
	}
	pause := allowedInterval
	if len(denied) > 0 || err != nil {
		pause = deniedInterval
	}
	return reconcile.Result{RequeueAfter: wait.Jitter(pause, retryJitter)}, nil
}

// missing are the permissions that the API server does not grant.
func (a *access) missing(ctx context.Context) ([]policy.Denial, error) {
	var denied []policy.Denial
	for _, wanted := range permissions {
		granted, err := a.isGranted(ctx, wanted)
		if err != nil {
			return nil, fmt.Errorf("permission %q: %w", wanted.name, err)
		}
		if !granted {
			denied = append(denied, denial(wanted.name, "the API server does not grant it"))
		}
	}
	return denied, nil
}

func (a *access) isGranted(ctx context.Context, wanted permission) (bool, error) {
	for i := range wanted.anyOf {
		review := &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &wanted.anyOf[i]},
		}
		if err := a.reviews.Create(ctx, review); err != nil {
			return false, fmt.Errorf("asking the API server: %w", err)
		}
		if review.Status.Allowed {
			return true, nil
		}
	}
	return false, nil
}

func denial(permission, message string) policy.Denial {
	return policy.Denial{
		Permission: permission, Reason: v1alpha1.ReasonAccessDenied, Source: purpose, Message: message,
		Concerns: []string{v1alpha1.ConditionApprovalHealthy},
	}
}

// set keeps what is missing, and says whether decisions may be written that could not before.
func (a *access) set(denied []policy.Denial) (opened bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	opened = a.isShut() && len(denied) == 0
	a.checked, a.denied = true, denied
	a.store.deny(denied)
	return opened
}

// reset forgets what was found out, when nothing is to be approved.
func (a *access) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checked, a.denied = false, nil
	a.store.deny(nil)
}

// isShut is isDenied for a caller that holds the lock.
func (a *access) isShut() bool { return !a.checked || len(a.denied) > 0 }

// isDenied says that a permission is missing, or that this is not known yet. All requests are judged again when it is over.
func (a *access) isDenied() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.isShut()
}

// recheck asks at once which permission is missing, because the API server refused a decision.
func (a *access) recheck() {
	a.wake.Wake(func(q enqueue.Queue) { q.Add(check) })
}
