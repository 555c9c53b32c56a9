// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// A policy whose selector cannot be read may mean any node. Whatever it says, it is no reason to approve more.
func TestUnreadableSelectorSelectsEveryNode(t *testing.T) {
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: "veto"}}
	policy.Spec.Nodes.Selector.MatchExpressions = []v1alpha1.NodeSelectorRequirement{{Key: "pool", Operator: "Like"}}
	policy.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: v1alpha1.ApprovalObserve}
	set := &ruleSet{of: []policyRules{compile(policy)}}
	if found := set.matching(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); len(found) != 1 {
		t.Errorf("%d policies have a say, want 1", len(found))
	}
	policy.Spec.SigningRequestApproval = nil
	set.of[0] = compile(policy)
	if found := set.all(); len(found) != 0 {
		t.Errorf("%d policies have a say, want none", len(found))
	}
}
