// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// issuer answers TokenRequests.
type issuer struct {
	client.SubResourceClient

	clock    *clocktesting.FakePassiveClock
	requests int
	err      error
	lifetime time.Duration
}

func (i *issuer) SubResource(string) client.SubResourceClient { return i }

func (i *issuer) Create(_ context.Context, of, request client.Object, _ ...client.SubResourceCreateOption) error {
	i.requests++
	if i.err != nil {
		return i.err
	}
	if of.GetNamespace() != "notafter-system" || of.GetName() != "reader" {
		return fmt.Errorf("a token of %s/%s", of.GetNamespace(), of.GetName())
	}
	asked, ok := request.(*authenticationv1.TokenRequest)
	if !ok || asked.Spec.ExpirationSeconds == nil || *asked.Spec.ExpirationSeconds > 3600 || len(asked.Spec.Audiences) > 0 {
		return fmt.Errorf("asked for %+v", request)
	}
	asked.Status = authenticationv1.TokenRequestStatus{
		Token: fmt.Sprintf("token-%d", i.requests), ExpirationTimestamp: metav1.NewTime(i.clock.Now().Add(i.lifetime)),
	}
	return nil
}

func newIssuer() (*issuer, *TokenSource) {
	i := &issuer{clock: clocktesting.NewFakePassiveClock(now), lifetime: 10 * time.Minute}
	return i, NewTokenSource(i, types.NamespacedName{Namespace: "notafter-system", Name: "reader"}, i.clock)
}

func expectToken(t *testing.T, source *TokenSource, want string) {
	t.Helper()
	if got, err := source.Token(t.Context()); err != nil || got != want {
		t.Errorf("token = %q, %v, want %q", got, err, want)
	}
}

func TestTokenIsRenewedAt80Percent(t *testing.T) {
	i, source := newIssuer()
	expectToken(t, source, "token-1")
	i.clock.SetTime(now.Add(8*time.Minute - 1))
	expectToken(t, source, "token-1")
	i.clock.SetTime(now.Add(8 * time.Minute))
	expectToken(t, source, "token-2")
}

func TestTokenOutlivesFailures(t *testing.T) {
	i, source := newIssuer()
	expectToken(t, source, "token-1")
	i.err = errors.New("no route")
	i.clock.SetTime(now.Add(9 * time.Minute))
	expectToken(t, source, "token-1")
	expectToken(t, source, "token-1")
	if i.requests != 2 {
		t.Errorf("%d requests: a failure is not repeated at once", i.requests)
	}
	i.clock.SetTime(now.Add(10 * time.Minute))
	if got, err := source.Token(t.Context()); err == nil {
		t.Errorf("an expired token %q", got)
	}
	i.err = nil
	i.clock.SetTime(now.Add(11 * time.Minute))
	expectToken(t, source, "token-4")
}

func TestTokenRefusals(t *testing.T) {
	resource := schema.GroupResource{Resource: "serviceaccounts"}
	for name, test := range map[string]struct {
		err    error
		access bool
		says   string
	}{
		"forbidden": {apierrors.NewForbidden(resource, "reader", errors.New("no")), true, "create on serviceaccounts/token"},
		"not there": {apierrors.NewNotFound(resource, "reader"), true, "there is no ServiceAccount notafter-system/reader"},
		"broken":    {errors.New("no route"), false, "no route"},
	} {
		t.Run(name, func(t *testing.T) {
			i, source := newIssuer()
			i.err = test.err
			_, err := source.Token(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.says) || (refused(err) != "") != test.access {
				t.Errorf("error = %v", err)
			}
		})
	}
	t.Run("expired already", func(t *testing.T) {
		i, source := newIssuer()
		i.lifetime = -time.Second
		if got, err := source.Token(t.Context()); err == nil {
			t.Errorf("token = %q", got)
		}
	})
}

func TestRejectedTokenIsReplacedOnceItIsNotNew(t *testing.T) {
	i, source := newIssuer()
	expectToken(t, source, "token-1")
	source.Rejected(t.Context(), "token-1")
	expectToken(t, source, "token-1")
	i.clock.SetTime(now.Add(2 * time.Minute))
	source.Rejected(t.Context(), "token-0")
	expectToken(t, source, "token-1")
	source.Rejected(t.Context(), "token-1")
	expectToken(t, source, "token-2")
}

func TestTokenWaitsNoLongerThanItsCaller(t *testing.T) {
	_, source := newIssuer()
	if err := source.turn.Acquire(t.Context(), 1); err != nil { // another caller is at it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := source.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v", err)
	}
	source.Rejected(ctx, "token-1") // which returns
}
