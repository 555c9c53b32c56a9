// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/controllers/internal/csr"
)

// stored is an API server with one request: it refuses a decision on another one, or on another version of it.
type stored struct {
	client.SubResourceWriter
	request *certificatesv1.CertificateSigningRequest
	writes  int
}

func (s *stored) Update(_ context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	s.writes++
	request, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return errors.New("no request")
	}
	if request.UID != s.request.UID || request.ResourceVersion != s.request.ResourceVersion {
		return apierrors.NewConflict(schema.GroupResource{Resource: "certificatesigningrequests"}, request.Name, errors.New("changed"))
	}
	s.request = request
	return nil
}

// A decision is written, once, on the very version of the request that was judged, or not at all.
func TestDecisionIsOnWhatWasJudged(t *testing.T) {
	judged := func() *certificatesv1.CertificateSigningRequest {
		request := pending("node-1")
		request.Annotations, request.Finalizers = map[string]string{"a": "b"}, []string{"c"}
		return request
	}
	for name, test := range map[string]struct {
		change  func(*certificatesv1.CertificateSigningRequest)
		written bool
	}{
		"the same":             {func(*certificatesv1.CertificateSigningRequest) {}, true},
		"another version":      {func(r *certificatesv1.CertificateSigningRequest) { r.ResourceVersion = "2" }, false},
		"another of that name": {func(r *certificatesv1.CertificateSigningRequest) { r.UID = "2" }, false},
	} {
		for _, verdict := range []csr.Verdict{csr.Approve, csr.Deny} {
			t.Run(name+", "+string(verdict), func(t *testing.T) {
				api := &stored{request: judged()}
				test.change(api.request)
				before := api.request.DeepCopy()
				request := judged()
				r := testReconciler(t, api)
				decision := csr.Decision{Verdict: verdict, Reason: csr.ReasonKeepsRules, Message: "because"}
				r.store.note("node-1", 1, request, decision)
				result, err := r.write(t.Context(), "node-1", request, decision)
				if err != nil || result.RequeueAfter != 0 || api.writes != 1 || !r.store.isDecided("node-1", request) {
					t.Errorf("got %+v, %v after %d writes, want one write and no more of this version", result, err, api.writes)
				}
				if test.written {
					before.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
						Type: conditionTypes[verdict], Status: corev1.ConditionTrue, Reason: "KeepsRules", Message: "because",
					}}
				}
				if diff := cmp.Diff(before, api.request); diff != "" {
					t.Errorf("what is stored (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(judged(), request); diff != "" {
					t.Errorf("the cache's object was changed (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// Without a version, the API server would take a decision for one on whatever there is.
func TestNoDecisionWithoutAVersion(t *testing.T) {
	api := &stored{request: pending("node-1")}
	request := pending("node-1")
	request.ResourceVersion = ""
	if _, err := testReconciler(t, api).write(t.Context(), "node-1", request, csr.Decision{Verdict: csr.Approve}); err == nil || api.writes > 0 {
		t.Errorf("%d writes, and error %v", api.writes, err)
	}
}

func testReconciler(t *testing.T, approval client.SubResourceWriter) *reconciler {
	t.Helper()
	counts, err := newDecisionMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	return &reconciler{
		approval: approval, clock: testingclock.NewFakePassiveClock(now),
		access: &access{checked: true}, store: newStore(fixedRequests{}, &rules{}), metrics: counts,
	}
}
