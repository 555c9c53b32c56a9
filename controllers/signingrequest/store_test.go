// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// onePolicy is a cache of policies that has one.
type onePolicy struct {
	client.Reader
	policy v1alpha1.CertificatePolicy
}

func (r *onePolicy) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	policies, ok := list.(*v1alpha1.CertificatePolicyList)
	if !ok {
		return fmt.Errorf("there is no %T", list)
	}
	policies.Items = []v1alpha1.CertificatePolicy{r.policy}
	return nil
}

// fixedRequests are a source of requests that do not change.
type fixedRequests []*certificatesv1.CertificateSigningRequest

func (f fixedRequests) List() ([]*certificatesv1.CertificateSigningRequest, error) { return f, nil }

func (f fixedRequests) ByIndex(string, string) ([]*certificatesv1.CertificateSigningRequest, error) {
	return f, nil
}

func pending(node string) *certificatesv1.CertificateSigningRequest {
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "of-" + node, UID: "1", ResourceVersion: "1"},
	}
	request.Spec.SignerName = certificatesv1.KubeletServingSignerName
	request.Spec.Username = "system:node:" + node
	return request
}

// Nothing is said before everything was judged: half of the violations would pass for all of them.
func TestSnapshot(t *testing.T) {
	policies := &onePolicy{policy: v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "1", Generation: 1}}}
	good, bad := pending("good"), pending("bad")
	s := newStore(fixedRequests{good, bad}, &rules{policies: policies})
	expect := func(step string, want *policy.Approvals) {
		t.Helper()
		got, _ := s.Snapshot()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}
	expect("without a policy that has a say", &policy.Approvals{})

	policies.policy.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: v1alpha1.ApprovalApprove}
	policies.policy.Generation = 2
	expect("before anything was judged", nil)
	s.note("bad", 2, bad, csr.Decision{Verdict: csr.NoOpinion, Reason: csr.ReasonAddressNotAllowed, Violated: true})
	expect("before all was judged", nil)
	s.note("good", 2, good, csr.Decision{Verdict: csr.Approve, Reason: csr.ReasonKeepsRules})
	violation := policy.JudgedRequest{Name: "of-bad", NodeName: "bad", Reason: string(csr.ReasonAddressNotAllowed), Violated: true}
	expect("when all was judged", &policy.Approvals{Requests: []policy.JudgedRequest{violation}})

	policies.policy.Generation = 3
	expect("after a change, until that was judged", &policy.Approvals{Requests: []policy.JudgedRequest{violation}})
	s.suspend(true)
	s.forget("bad")
	expect("when nothing is wrong any more, but the breaker is open", &policy.Approvals{Suspended: true})
}

// Each version of a request is decided once, also while the cache still shows it undecided.
func TestDecidedOnce(t *testing.T) {
	s := newStore(fixedRequests{}, &rules{})
	request := pending("node-1")
	if !s.note("node-1", 1, request, csr.Decision{Verdict: csr.Approve}) {
		t.Error("the first verdict is no news")
	}
	if s.note("node-1", 1, request, csr.Decision{Verdict: csr.Approve}) {
		t.Error("the same verdict is news")
	}
	if s.isDecided("node-1", request) {
		t.Error("a request is past before a decision was written")
	}
	s.decide("node-1", request)
	if !s.isDecided("node-1", request) {
		t.Error("a request is not past once a decision was written")
	}
	changed := pending("node-1")
	changed.ResourceVersion = "2"
	if s.isDecided("node-1", changed) {
		t.Error("a request that somebody else changed is past")
	}
}

func TestContested(t *testing.T) {
	s := newStore(fixedRequests{}, &rules{})
	s.note("node-1", 1, pending("node-1"), csr.Decision{Reason: csr.ReasonAddressContested})
	s.note("node-2", 1, pending("node-2"), csr.Decision{Reason: csr.ReasonAddressContested})
	s.note("node-2", 1, pending("node-2"), csr.Decision{Reason: csr.ReasonKeepsRules})
	if diff := cmp.Diff([]string{"node-1"}, s.contested()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.forget("node-1")
	if got := s.contested(); len(got) > 0 {
		t.Errorf("%v, want none", got)
	}
}
