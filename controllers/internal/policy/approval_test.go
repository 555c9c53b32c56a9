// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"testing"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
)

func approving(mode v1alpha1.ApprovalMode) *v1alpha1.CertificatePolicySpec {
	spec := aksSpec()
	spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: mode}
	return spec
}

func TestApproval(t *testing.T) {
	const approve, observe = v1alpha1.ApprovalApprove, v1alpha1.ApprovalObserve
	stopped := func(by, overruled []string) []JudgedRequest {
		return []JudgedRequest{{
			Name: "csr-1", NodeName: "node-1", Created: now.Add(-time.Minute), Reason: "AddressNotAllowed",
			Message: "IP address 192.0.2.1 is in none of the ranges", Violated: true, By: by, Overruled: overruled,
		}}
	}
	undecided := stopped([]string{"observer"}, []string{"mine"})
	undecided[0].Violated = false
	elsewhere := stopped([]string{"mine"}, nil)
	elsewhere[0].NodeName = "node-9"
	broken := ofNode(v1alpha1.ReasonSigningRequestViolation, violates, v1alpha1.PurposeKubeletServing, "2026-03-01T11:59:00Z")
	about := func(reason string, severity v1alpha1.Severity, policy string) brief {
		return brief{reason, severity, v1alpha1.SubjectCertificatePolicy, policy, v1alpha1.PurposeKubeletServing, ""}
	}
	suspended := about(v1alpha1.ReasonSigningRequestApprovalSuspended, violates, "mine")
	for name, tc := range map[string]struct {
		mode      v1alpha1.ApprovalMode
		approvals *Approvals
		want      []brief
		condition string
		says      string
	}{
		"nothing wrong":            {approve, &Approvals{}, nil, "True/AsExpected", ""},
		"nothing wrong, observing": {observe, &Approvals{}, nil, "True/AsExpected", ""},
		"not looked at yet":        {approve, nil, []brief{about(v1alpha1.ReasonNotObserved, notKnown, "mine")}, "Unknown/NotObserved", ""},
		"not judged by this one yet": {
			approve, &Approvals{Unjudged: []string{"mine"}}, []brief{about(v1alpha1.ReasonNotObserved, notKnown, "mine")},
			"Unknown/NotObserved", "",
		},
		"not judged by another one yet": {approve, &Approvals{Unjudged: []string{"other"}}, nil, "True/AsExpected", ""},
		"broken before, and not judged again yet": {
			approve, &Approvals{Unjudged: []string{"mine"}, Requests: stopped([]string{"mine"}, nil)},
			[]brief{broken, about(v1alpha1.ReasonNotObserved, notKnown, "mine")}, "False/SigningRequestViolation", "",
		},
		"a rule is broken": {
			approve, &Approvals{Requests: stopped([]string{"mine", "other"}, nil)}, []brief{broken}, "False/SigningRequestViolation",
			"CertificateSigningRequest csr-1 breaks the rules of spec.signingRequestApproval (AddressNotAllowed): IP address 192.0.2.1",
		},
		"a rule is broken, observing": {
			observe, &Approvals{Requests: stopped([]string{"mine"}, nil)}, []brief{broken}, "False/SigningRequestViolation", "",
		},
		"a rule of another policy": {
			observe, &Approvals{Requests: stopped([]string{"other"}, nil)}, nil, "True/AsExpected", "",
		},
		"a node of another policy": {approve, &Approvals{Requests: elsewhere}, nil, "True/AsExpected", ""},
		"overruled by stricter policies": {
			approve, &Approvals{Requests: slices.Concat(stopped([]string{"b", "a"}, []string{"mine"}), elsewhere)},
			[]brief{about(v1alpha1.ReasonApprovalPoliciesDisagree, informs, "a"), about(v1alpha1.ReasonApprovalPoliciesDisagree, informs, "b")},
			"True/AsExpected", "a node that CertificatePolicy a selects as well",
		},
		"overruled by an observer": {
			approve, &Approvals{Requests: undecided}, []brief{about(v1alpha1.ReasonApprovalPoliciesDisagree, informs, "observer")},
			"True/AsExpected", "",
		},
		"suspended": {
			approve, &Approvals{Suspended: true}, []brief{suspended}, "False/SigningRequestApprovalSuspended", "Nothing is approved or denied",
		},
		"others are suspended": {observe, &Approvals{Suspended: true}, nil, "True/AsExpected", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(approving(tc.mode), nil)
			in.Policy, in.Approvals = "mine", tc.approvals
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			last := verdict.Conditions[len(verdict.Conditions)-1]
			if got := string(last.Status) + "/" + last.Reason; last.Type != v1alpha1.ConditionApprovalHealthy || got != tc.condition {
				t.Errorf("%s is %s, want %s of %s", last.Type, got, tc.condition, v1alpha1.ConditionApprovalHealthy)
			}
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
		})
	}
}

func TestApprovalWithoutASay(t *testing.T) {
	in := input(aksSpec(), nil)
	in.Policy, in.Approvals = "mine", &Approvals{Suspended: true, Requests: []JudgedRequest{
		{Name: "csr-1", NodeName: "node-1", Violated: true, By: []string{"mine"}},
	}}
	verdict := Evaluate(in)
	expectFindings(t, verdict)
	expectConditions(t, verdict, "Compliant=True/AsExpected", "CertificatesCurrent=True/AsExpected",
		"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected")
}

func TestApprovalIsForbidden(t *testing.T) {
	in := input(approving(v1alpha1.ApprovalApprove), nil)
	in.Policy, in.Approvals = "mine", &Approvals{}
	in.Denied = []Denial{{
		Permission: "update certificatesigningrequests.certificates.k8s.io/approval", Source: "approving requests",
		Message: "is forbidden", Concerns: []string{v1alpha1.ConditionApprovalHealthy},
	}}
	verdict := Evaluate(in)
	expectConditions(t, verdict, "Compliant=Unknown/AccessDenied", "CertificatesCurrent=True/AsExpected",
		"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected", "ApprovalHealthy=Unknown/AccessDenied")
	expectMessage(t, verdict, v1alpha1.ReasonAccessDenied, "Install config/components/approval")
}
