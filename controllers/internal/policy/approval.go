// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Approvals are what the approver of signing requests has to say.
type Approvals struct {
	// Requests are the undecided ones for kubelet serving certificates that break a rule, or that policies disagree about, at most
	// one of each node, in any order.
	Requests []JudgedRequest
	// Suspended says that the approver stopped, because too many nodes have undecided requests.
	Suspended bool
	// Unjudged are the policies by whose rules not every undecided request has been judged yet. What is known of the others stands.
	Unjudged []string
}

// JudgedRequest is an undecided signing request that is not approved.
type JudgedRequest struct {
	Name, NodeName string
	Created        time.Time
	// Reason and Message say what stands in the way.
	Reason, Message string
	// Violated says that it breaks a rule.
	Violated bool
	// By are the policies because of which it is not approved, and Overruled those that would have approved it.
	By, Overruled []string
}

// WantsApproval says whether requests are approved under the spec.
func WantsApproval(spec *v1alpha1.CertificatePolicySpec) bool {
	return spec.SigningRequestApproval != nil && spec.SigningRequestApproval.Mode == v1alpha1.ApprovalApprove
}

// judgeApprovals sorts out which requests the policy has to say something about, and judges the approver itself.
func (e *evaluation) judgeApprovals(in *Input) {
	if !e.rules.watched.approval {
		return
	}
	first := len(e.found)
	self := v1alpha1.Subject{Kind: v1alpha1.SubjectCertificatePolicy, Name: text.Phrase(in.Policy, maxSubject)}
	if in.Approvals == nil || slices.Contains(in.Approvals.Unjudged, in.Policy) {
		e.addTo(approval, v1alpha1.Finding{
			Reason: v1alpha1.ReasonNotObserved, Subject: self, Certificate: v1alpha1.PurposeKubeletServing,
			Message: "The signing requests have not been judged by spec.signingRequestApproval yet. Right after a start, or a change of " +
				"the policy, that takes seconds; if it stays, see the log of the manager that leads.",
		})
	}
	if in.Approvals == nil {
		e.tally.addOther(approvalGroup, e.found[first:])
		return
	}
	if in.Approvals.Suspended && e.rules.approves {
		e.add(v1alpha1.Finding{
			Reason: v1alpha1.ReasonSigningRequestApprovalSuspended, Subject: self, Certificate: v1alpha1.PurposeKubeletServing,
			Message: "Nothing is approved or denied: more nodes have undecided requests for serving certificates than the lowest " +
				"spec.signingRequestApproval.maximumPendingNodes, by default 100 more than there are Nodes. Somebody may be flooding " +
				"the cluster with identities of nodes. See who files them: kubectl get csr. Delete what strangers filed, and revoke the " +
				"bootstrap token that they used; or raise the limit. Approval goes on by itself.",
		})
	}
	e.judgeDisagreements(in)
	e.tally.addOther(approvalGroup, e.found[first:])
}

// judgeDisagreements reports the policies that keep this one from approving, and collects the requests that break its rules.
func (e *evaluation) judgeDisagreements(in *Input) {
	if len(in.Approvals.Requests) == 0 {
		return
	}
	selected := make(map[string]bool, len(in.Nodes))
	for i := range in.Nodes {
		selected[in.Nodes[i].Name] = true
	}
	e.unapproved = map[string]*JudgedRequest{}
	var stricter []string
	for i := range in.Approvals.Requests {
		request := &in.Approvals.Requests[i]
		switch {
		case !selected[request.NodeName]:
		case slices.Contains(request.Overruled, in.Policy):
			stricter = append(stricter, request.By...)
		case request.Violated && slices.Contains(request.By, in.Policy):
			e.unapproved[request.NodeName] = request
		}
	}
	slices.Sort(stricter)
	for _, other := range slices.Compact(stricter) {
		e.add(v1alpha1.Finding{
			Reason:      v1alpha1.ReasonApprovalPoliciesDisagree,
			Subject:     v1alpha1.Subject{Kind: v1alpha1.SubjectCertificatePolicy, Name: text.Phrase(other, maxSubject)},
			Certificate: v1alpha1.PurposeKubeletServing,
			Message: fmt.Sprintf("This policy would approve a request of a node that CertificatePolicy %s selects as well, and that one "+
				"does not approve it: the stricter wins. Give both the same spec.signingRequestApproval, remove it from one of them, or "+
				"let them select different nodes.", text.Phrase(other, maxName)),
		})
	}
}

// checkApproval reports the node's request that breaks a rule of approval.
func checkApproval(e *evaluation, f *facts) {
	request := e.unapproved[f.node.Name]
	if request == nil {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonSigningRequestViolation, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Since: timestamp(request.Created),
		Message: fmt.Sprintf("CertificateSigningRequest %s breaks the rules of spec.signingRequestApproval (%s): %s. Until one is "+
			"approved, the kubelet's serving certificate is not renewed: once it runs out, %s. If the node should have what it asks "+
			"for, correct the policy, DNS or the Node's addresses; if not, somebody may control the node.",
			requestName(request.Name), text.Phrase(request.Reason, maxWord),
			text.Phrase(request.Message, 2*maxPhrase), withoutServing),
	})
}

// expectedApproval says what holds when all is as the policy wants it.
func (e *evaluation) expectedApproval(selected int) string {
	expected := "no undecided request of " + count(selected, "node") + " breaks the rules of approval"
	if !e.rules.approves {
		expected += "; in mode Observe, nothing is approved"
	}
	return expected
}
