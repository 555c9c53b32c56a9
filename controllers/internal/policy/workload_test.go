// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestStaticServingCertificateMounted(t *testing.T) {
	agent := Workload{
		Kind: v1alpha1.SubjectDaemonSet, Namespace: "monitoring", Name: "agent", Path: "/etc/kubernetes/certs/kubeletserver.crt",
	}
	selfSigned := func(n *Node) { n.Observed.Serving.Mode = v1alpha1.ServingModeSelfSigned }
	for _, tc := range []struct {
		name     string
		spec     func(*v1alpha1.NodesSpec)
		node     func(*Node)
		severity v1alpha1.Severity
		says     string
	}{
		{name: "rotation is on", severity: v1alpha1.SeverityViolation, says: "is on, and removed it"},
		{name: "before rotation is on", node: selfSigned, severity: v1alpha1.SeverityInfo, says: "no selected node"},
		{
			name: "nobody knows whether it is on", node: func(n *Node) { n.Observed = nil },
			severity: v1alpha1.SeverityInfo, says: "no selected node",
		},
		{name: "not watched", spec: func(s *v1alpha1.NodesSpec) { s.StaticServingMounts = v1alpha1.WatchIgnored }},
		{name: "not on AKS", spec: func(s *v1alpha1.NodesSpec) { s.ServingCertificate.Label = nil }},
		{name: "another label", spec: func(s *v1alpha1.NodesSpec) { s.ServingCertificate.Label.Key = "example.com/rotation" }},
		{name: "off", spec: func(s *v1alpha1.NodesSpec) { s.ServingCertificate.Rotation = v1alpha1.ServingRotationDisabled }},
		{name: "ignored", spec: func(s *v1alpha1.NodesSpec) { s.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := aksSpec()
			if tc.spec != nil {
				tc.spec(&spec.Nodes)
			}
			in := input(spec, tc.node)
			in.Workloads = []Workload{agent}
			verdict := Evaluate(in)
			var found []v1alpha1.Finding
			for _, f := range verdict.Findings {
				if f.Reason == v1alpha1.ReasonStaticServingCertificateMounted {
					found = append(found, f)
				}
			}
			if tc.severity == "" {
				if found != nil {
					t.Errorf("found %+v", found)
				}
				return
			}
			subject := v1alpha1.Subject{Kind: v1alpha1.SubjectDaemonSet, Name: "monitoring/agent"}
			if len(found) != 1 || found[0].Severity != tc.severity || found[0].Subject != subject {
				t.Fatalf("found %+v", found)
			}
			expectMessage(t, verdict, v1alpha1.ReasonStaticServingCertificateMounted,
				"DaemonSet monitoring/agent mounts /etc/kubernetes/certs/kubeletserver.crt", tc.says, "Remove the hostPath volume")
		})
	}
}

// Clients choose which of a node's addresses they use.
func TestServingCertificateNamesEveryInternalAddress(t *testing.T) {
	dualStack := func(named ...string) Verdict {
		return Evaluate(input(aksSpec(), func(n *Node) {
			n.InternalIPs = []string{"10.0.0.4", "fd00::4"}
			served(n).IPAddresses = named
		}))
	}
	expectFindings(t, dualStack("fd00::4", "10.0.0.4"))
	verdict := dualStack("10.0.0.4")
	expectFindings(t, verdict, brief{
		Reason: v1alpha1.ReasonServingCertificateNameMismatch, Severity: v1alpha1.SeverityViolation,
		Kind: v1alpha1.SubjectNode, Name: "node-1", Certificate: v1alpha1.PurposeKubeletServing,
	})
	expectMessage(t, verdict, v1alpha1.ReasonServingCertificateNameMismatch, "it names 10.0.0.4, and not fd00::4")
	many := make([]string, allAddresses)
	expectFindings(t, dualStack(many...)) // there may be more than are known
	if got := len(dualStack(many[:20]...).Findings); got != 1 {
		t.Errorf("%d findings about a certificate with 20 other addresses, want 1", got)
	}
}
