// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"testing"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestAccessDenied(t *testing.T) {
	const requests, caBundle = "list certificatesigningrequests.certificates.k8s.io", "list configmaps/ca in kube-system"
	bootstrapping := []string{v1alpha1.ConditionBootstrapHealthy}
	denial := func(permission, source string, concerns []string, purposes ...v1alpha1.CertificatePurpose) Denial {
		return Denial{Permission: permission, Source: source, Message: "is forbidden", Concerns: concerns, Purposes: purposes}
	}
	finding := func(reason, permission string) brief {
		return brief{reason, notKnown, v1alpha1.SubjectPermission, permission, "", ""}
	}
	accessDenied := finding(v1alpha1.ReasonAccessDenied, requests)
	for _, tc := range []struct {
		name       string
		rotation   v1alpha1.ServingRotation
		denied     []Denial
		want       []brief
		conditions []string
		says       string
	}{
		{
			name: "one", denied: []Denial{denial(requests, "signing requests", bootstrapping)}, want: []brief{accessDenied},
			conditions: []string{
				"Compliant=Unknown/AccessDenied", "CertificatesCurrent=True/AsExpected",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=Unknown/AccessDenied",
			},
			says: "notafter may not " + requests + ", which it needs for signing requests: is forbidden. Grant ",
		},
		{
			name: "one permission for two things",
			denied: []Denial{
				denial(requests, "serving requests", bootstrapping),
				denial(requests, "client requests", []string{v1alpha1.ConditionCertificatesCurrent}),
			},
			want: []brief{accessDenied},
			conditions: []string{
				"Compliant=Unknown/AccessDenied", "CertificatesCurrent=Unknown/AccessDenied",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=Unknown/AccessDenied",
			},
			says: "needs for client requests; serving requests: ",
		},
		{
			name:   "two permissions",
			denied: []Denial{denial(requests, "signing requests", bootstrapping), denial(caBundle, "the CA", bootstrapping)},
			want:   []brief{accessDenied, finding(v1alpha1.ReasonAccessDenied, caBundle)},
			conditions: []string{
				"Compliant=Unknown/AccessDenied", "CertificatesCurrent=True/AsExpected",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=Unknown/AccessDenied",
			},
		},
		{
			name:     "nobody asked",
			rotation: v1alpha1.ServingRotationIgnored,
			denied: []Denial{
				denial(caBundle, "the CA", bootstrapping, v1alpha1.PurposeKubeletServing, v1alpha1.PurposeClusterCA),
			},
			conditions: []string{
				"Compliant=True/AsExpected", "CertificatesCurrent=True/AsExpected",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected",
			},
		},
		{
			name:   "not because of a permission",
			denied: []Denial{{Permission: requests, Reason: v1alpha1.ReasonNotObserved, Source: "signing requests", Message: "timeout"}},
			want:   []brief{finding(v1alpha1.ReasonNotObserved, requests)},
			conditions: []string{
				"Compliant=Unknown/NotObserved", "CertificatesCurrent=Unknown/NotObserved",
				"ServingRotationEnabled=Unknown/NotObserved", "BootstrapHealthy=Unknown/NotObserved",
			},
			says: "What notafter needs for signing requests could not be read: timeout. ",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := Input{Spec: aksSpec(), Now: now, Nodes: []Node{healthy("one")}, Denied: tc.denied}
			in.Spec.Nodes.ServingCertificate.Rotation = tc.rotation
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			expectConditions(t, verdict, tc.conditions...)
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
			if got := counted(verdict.Nodes); got != "1/1/0/0" {
				t.Errorf("nodes = %s: what may not be read is no node's fault", got)
			}
			slices.Reverse(in.Denied)
			again := Evaluate(in)
			if len(again.Findings) > 0 && again.Findings[0].Message != verdict.Findings[0].Message {
				t.Errorf("the order of what is denied changes the message to %q", again.Findings[0].Message)
			}
		})
	}
}
