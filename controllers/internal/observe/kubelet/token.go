// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// tokenLifetime is asked for. The API server gives no token less than ten minutes, and may give another lifetime.
	tokenLifetime = 30 * time.Minute
	// renewAtPercent of its life a token is replaced, as kubelets do.
	renewAtPercent = 80
	// tokenTimeout bounds the request for a token.
	tokenTimeout = 10 * time.Second
	// tokenRetry is the wait after a failure, so that thousands of kubelets are not thousands of requests.
	tokenRetry = 15 * time.Second
	// youngToken is the age below which a token is kept though a kubelet rejects it: that kubelet is at fault.
	youngToken = time.Minute
)

// TokenSource gives short-lived tokens of a ServiceAccount that may read what kubelets say of themselves and nothing else.
// The manager's own token never goes to a node. It may be used by several goroutines at once.
type TokenSource struct {
	client  client.SubResourceClientConstructor
	account types.NamespacedName
	clock   clock.PassiveClock

	// turn is that of who looks at what follows: unlike a mutex, a caller whose time is over can give up.
	turn            *semaphore.Weighted
	token           string
	issued, expires time.Time
	failed          error
	failedAt        time.Time
}

// NewTokenSource returns a source of tokens of the account, which the client requests.
func NewTokenSource(
	c client.SubResourceClientConstructor, account types.NamespacedName, passive clock.PassiveClock,
) *TokenSource {
	return &TokenSource{client: c, account: account, clock: passive, turn: semaphore.NewWeighted(1)}
}

// Account implements Tokens.
func (s *TokenSource) Account() string { return s.account.String() }

// Token returns a token with at least a fifth of its life left or, while no new one is to be had, one that is still valid.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return "", fmt.Errorf("waiting for a token: %w", err)
	}
	defer s.turn.Release(1)
	now := s.clock.Now()
	renewal := s.issued.Add(s.expires.Sub(s.issued) * renewAtPercent / 100)
	if s.token != "" && now.Before(renewal) {
		return s.token, nil
	}
	if s.failed == nil || !now.Before(s.failedAt.Add(tokenRetry)) {
		s.failed = s.request(ctx, now)
		s.failedAt = now
	}
	if s.failed != nil && (s.token == "" || !now.Before(s.expires)) {
		return "", s.failed
	}
	return s.token, nil
}

// Rejected forgets the token, so that the next one is new: that of an account that was deleted and made again is not
// accepted any more. If the caller's time is over before, the next kubelet that does not accept it says so again.
func (s *TokenSource) Rejected(ctx context.Context, token string) {
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return
	}
	defer s.turn.Release(1)
	if s.token == token && s.clock.Since(s.issued) > youngToken {
		s.token = ""
	}
}

// request replaces the token. It is not bound to the caller's time: others wait for the same token.
func (s *TokenSource) request(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
	defer cancel()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.account.Namespace, Name: s.account.Name}}
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenLifetime.Seconds()))},
	}
	err := s.client.SubResource("token").Create(ctx, account, request)
	switch {
	case apierrors.IsForbidden(err):
		return &AccessError{Permission: "create serviceaccounts/token " + s.account.String(), Reason: fmt.Sprintf(
			"the API server gives out no token of ServiceAccount %s: grant the manager create on serviceaccounts/token of it",
			s.account)}
	case apierrors.IsNotFound(err):
		return &AccessError{Permission: "create serviceaccounts/token " + s.account.String(), Reason: fmt.Sprintf(
			"there is no ServiceAccount %s to ask kubelets with: create it, or name another with "+
				"--kubelet-reader-service-account", s.account)}
	case err != nil:
		return fmt.Errorf("requesting a token of ServiceAccount %s: %w", s.account, err)
	case request.Status.Token == "" || !request.Status.ExpirationTimestamp.After(now):
		return fmt.Errorf("requesting a token of ServiceAccount %s: the API server gave none that is valid: compare its clock",
			s.account)
	}
	s.token, s.issued, s.expires = request.Status.Token, now, request.Status.ExpirationTimestamp.Time
	return nil
}
