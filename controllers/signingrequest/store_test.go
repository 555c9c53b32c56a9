// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// policies is a cache of policies.
type policies struct {
	client.Reader
	items []v1alpha1.CertificatePolicy
}

func (r *policies) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	policies, ok := list.(*v1alpha1.CertificatePolicyList)
	if !ok {
		return fmt.Errorf("there is no %T", list)
	}
	policies.Items = slices.Clone(r.items)
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

// A policy is not told that all is well before everything was judged by what it says now; half of the violations would pass for
// all of them.
func TestSnapshot(t *testing.T) {
	stored := &policies{items: []v1alpha1.CertificatePolicy{
		{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "1", Generation: 1}},
		{ObjectMeta: metav1.ObjectMeta{Name: "q", UID: "2", Generation: 1}},
	}}
	p, q := &stored.items[0], &stored.items[1]
	good, bad := pending("good"), pending("bad")
	s := newStore(fixedRequests{good, bad}, &rules{policies: stored})
	expect := func(step string, want *policy.Approvals) {
		t.Helper()
		got, _ := s.Snapshot()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step, diff)
		}
	}
	judge := func(request *certificatesv1.CertificateSigningRequest, d csr.Decision) {
		t.Helper()
		set, err := s.rules.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.note(csr.NodeName(request), set.version, request, d)
	}
	violates := csr.Decision{Verdict: csr.NoOpinion, Reason: csr.ReasonAddressNotAllowed, Violated: true}
	keeps := csr.Decision{Verdict: csr.Approve, Reason: csr.ReasonKeepsRules}
	violation := []policy.JudgedRequest{{
		Name: "of-bad", NodeName: "bad", Reason: string(csr.ReasonAddressNotAllowed), Violated: true,
	}}
	expect("without a policy that has a say", &policy.Approvals{})

	p.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: v1alpha1.ApprovalApprove}
	p.Generation++
	expect("before anything was judged", &policy.Approvals{Unjudged: []string{"p"}})
	judge(bad, violates)
	expect("before all was judged", &policy.Approvals{Unjudged: []string{"p"}, Requests: violation})
	judge(good, keeps)
	expect("when all was judged", &policy.Approvals{Requests: violation})

	p.Spec.Expiry.WarnAtLifetimePercent = 70
	p.Generation++
	expect("after a change of something else", &policy.Approvals{Requests: violation})
	q.Spec.SigningRequestApproval = p.Spec.SigningRequestApproval.DeepCopy()
	q.Generation++
	expect("after another policy began to have a say", &policy.Approvals{Unjudged: []string{"q"}, Requests: violation})
	p.Spec.SigningRequestApproval.AllowedDNSSuffixes = []v1alpha1.DNSSuffix{"example.com"}
	p.Generation++
	expect("after a change of what is allowed", &policy.Approvals{Unjudged: []string{"p", "q"}, Requests: violation})
	judge(bad, violates)
	judge(good, keeps)
	expect("when all was judged again", &policy.Approvals{Requests: violation})
	p.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{"pool": "blue"}
	p.Generation++
	expect("after it selects other nodes", &policy.Approvals{Unjudged: []string{"p"}, Requests: violation})

	s.suspend(true)
	s.forget("bad")
	judge(good, keeps)
	s.requests = fixedRequests{good}
	expect("when nothing is wrong any more, but the breaker is open", &policy.Approvals{Suspended: true})
}

// That a decision is refused is said as long as that decision is wanted, and no longer: there may be no other that is accepted.
func TestRefused(t *testing.T) {
	approve, violates := csr.Decision{Verdict: csr.Approve}, csr.Decision{Verdict: csr.NoOpinion, Violated: true}
	for name, end := range map[string]func(*Store, *certificatesv1.CertificateSigningRequest){
		"accepted":                  func(s *Store, request *certificatesv1.CertificateSigningRequest) { s.decide("node-1", request) },
		"not waiting any more":      func(s *Store, _ *certificatesv1.CertificateSigningRequest) { s.forget("node-1") },
		"not to be decided anymore": func(s *Store, r *certificatesv1.CertificateSigningRequest) { s.note("node-1", 2, r, violates) },
		"another request": func(s *Store, r *certificatesv1.CertificateSigningRequest) {
			other := r.DeepCopy()
			other.UID = "2"
			s.note("node-1", 1, other, approve)
		},
	} {
		t.Run(name, func(t *testing.T) {
			stored := &policies{items: []v1alpha1.CertificatePolicy{{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "1", Generation: 1}}}}
			stored.items[0].Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: v1alpha1.ApprovalApprove}
			request := pending("node-1")
			s := newStore(fixedRequests{request}, &rules{policies: stored})
			s.note("node-1", 1, request, approve)
			if _, denied := s.Snapshot(); len(denied) > 0 {
				t.Errorf("before a write: %v, want none", denied)
			}
			s.refuse("node-1", request)
			s.note("node-1", 1, request, approve)
			if _, denied := s.Snapshot(); len(denied) != 1 || denied[0].Message != otherwiseRefused {
				t.Errorf("while it is refused: %v, want one that says so", denied)
			}
			<-s.Changed()
			end(s, request)
			if _, denied := s.Snapshot(); len(denied) > 0 {
				t.Errorf("afterwards: %v, want none", denied)
			}
			select {
			case <-s.Changed():
			default:
				t.Error("nobody is told")
			}
		})
	}
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

// A change of one node wakes those whose addresses it claims, and no others.
func TestContested(t *testing.T) {
	s := newStore(fixedRequests{}, &rules{})
	expect := func(step string, want map[string][]string) {
		t.Helper()
		for _, other := range []string{"a", "b", ""} {
			got := s.contestedBy(other)
			slices.Sort(got)
			if !slices.Equal(got, want[other]) {
				t.Errorf("%s: %q claims addresses of %v, want %v", step, other, got, want[other])
			}
		}
	}
	note := func(node, rival string) { s.note(node, 1, pending(node), csr.Decision{Rival: rival}) }
	note("node-1", "a")
	note("node-2", "a")
	note("node-3", "b")
	note("node-4", "")
	expect("at first", map[string][]string{"a": {"node-1", "node-2"}, "b": {"node-3"}})
	note("node-2", "b")
	note("node-3", "b")
	expect("after another one claimed it", map[string][]string{"a": {"node-1"}, "b": {"node-2", "node-3"}})
	note("node-1", "")
	s.forget("node-2")
	s.forget("node-3")
	expect("when that is over", nil)
	if len(s.disputed) > 0 {
		t.Errorf("%v is left", s.disputed)
	}
}
