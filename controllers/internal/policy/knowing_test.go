// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestKnowing(t *testing.T) {
	probe := func(mode v1alpha1.ServingMode, outcome v1alpha1.ProbeOutcome) func(*Node) {
		return func(n *Node) {
			*n.Observed.Serving = v1alpha1.ServingStatus{
				Mode: mode, Outcome: outcome, Address: "10.0.0.4:10250", Message: "the error", Since: at(-time.Hour),
			}
		}
	}
	failed := ofNode(v1alpha1.ReasonProbeFailed, notKnown, kubeletServing, hourAgo)
	unobserved := ofNode(v1alpha1.ReasonNotObserved, notKnown, "", "")
	for _, tc := range []struct {
		name     string
		change   func(*Node)
		rotation v1alpha1.ServingRotation
		want     []brief
		says     string
	}{
		{
			name: "refused", change: probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable), want: []brief{failed},
			says: "at 10.0.0.4:10250: the error.",
		},
		{name: "hanging", change: probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeHandshakeFailed), want: []brief{failed}},
		{
			name: "no address", change: probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeNoAddress), want: []brief{failed},
			says: "no usable IP address or kubelet port",
		},
		{name: "an outcome of the future", change: probe(v1alpha1.ServingModeUnknown, "Odd"), want: []brief{failed}},
		{
			name: "rotation ignored", change: probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable),
			rotation: v1alpha1.ServingRotationIgnored, want: []brief{failed},
		},
		{
			name:   "not verified, though the Cluster CA can be read",
			change: probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeCertificatePresented), want: []brief{failed},
			says: "has not been verified against the Cluster CA",
		},
		{
			name:     "not verified, and nobody asked",
			change:   probe(v1alpha1.ServingModeUnknown, v1alpha1.ProbeCertificatePresented),
			rotation: v1alpha1.ServingRotationIgnored,
		},
		{name: "not observed", change: func(n *Node) { n.Observed = nil }, want: []brief{unobserved}},
		{
			name: "nothing known", change: func(n *Node) { *n.Observed = v1alpha1.NodeCertificatesStatus{} },
			want: []brief{unobserved},
		},
		{
			name: "not probed, its requests known", change: func(n *Node) {
				n.Observed.Serving = nil
				pending(clientRequest(n), -time.Hour)
			},
			want: []brief{ofNode(v1alpha1.ReasonSigningRequestPending, violates, kubeletClient, hourAgo), unobserved},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), tc.change)
			in.Spec.Nodes.ServingCertificate.Rotation = tc.rotation
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
		})
	}
}

func TestTrustBundleUnavailable(t *testing.T) {
	unverified := healthy("unverified")
	unverified.Observed.Serving.Mode = v1alpha1.ServingModeUnknown
	overdue := healthy("unverified-and-overdue")
	overdue.Observed.Serving.Mode = v1alpha1.ServingModeUnknown
	live(&overdue, -95*day, 5*day)
	in := Input{
		Spec: aksSpec(), Now: now, TrustError: "configmaps \"kube-root-ca.crt\" not found",
		TrustSource: "kube-system/kube-root-ca.crt",
		Nodes:       []Node{healthy("known"), unverified, overdue},
	}
	trust := brief{
		v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectConfigMap, "kube-system/kube-root-ca.crt",
		kubeletServing, "",
	}
	late := brief{
		v1alpha1.ReasonRotationOverdue, violates, v1alpha1.SubjectNode, "unverified-and-overdue", kubeletServing,
		now.Add(-5 * day).Format(time.RFC3339),
	}
	t.Run("once, and nodes that depend on it are unknown", func(t *testing.T) {
		verdict := Evaluate(in)
		expectFindings(t, verdict, late, trust)
		expectConditions(t, verdict, "Compliant=False/RotationOverdue", "CertificatesCurrent=False/RotationOverdue",
			"ServingRotationEnabled=Unknown/TrustBundleUnavailable", "BootstrapHealthy=True/AsExpected")
		if got := counted(verdict.Nodes); got != "3/1/1/1" {
			t.Errorf("nodes = %s", got)
		}
		want := "2 of 3 nodes could not be judged: TrustBundleUnavailable on 2; " +
			"1 source of evidence could not be read: TrustBundleUnavailable on 1"
		if got := verdict.Conditions[2].Message; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		expectMessage(t, verdict, v1alpha1.ReasonTrustBundleUnavailable, `"kube-root-ca.crt" not found`)
	})
	t.Run("no node depends on it yet", func(t *testing.T) {
		in := in
		in.Nodes = in.Nodes[:1]
		verdict := Evaluate(in)
		expectFindings(t, verdict, trust)
		expectConditions(t, verdict, "Compliant=Unknown/TrustBundleUnavailable", "CertificatesCurrent=True/AsExpected",
			"ServingRotationEnabled=Unknown/TrustBundleUnavailable", "BootstrapHealthy=True/AsExpected")
		if got := counted(verdict.Nodes); got != "1/1/0/0" {
			t.Errorf("nodes = %s", got)
		}
	})
	t.Run("not needed", func(t *testing.T) {
		in := in
		in.Spec = aksSpec()
		in.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
		verdict := Evaluate(in)
		expectFindings(t, verdict, late)
		if got := counted(verdict.Nodes); got != "3/2/1/0" {
			t.Errorf("nodes = %s", got)
		}
	})
}
