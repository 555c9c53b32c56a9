// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	day  = 24 * time.Hour
	year = 365 * day

	servingSigner = certificatesv1.KubeletServingSignerName
	clientSigner  = certificatesv1.KubeAPIServerClientKubeletSignerName

	labelKey = "kubernetes.azure.com/kubelet-serving-ca"
)

var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// at is the instant so long after now.
func at(after time.Duration) metav1.Time {
	return metav1.NewTime(now.Add(after))
}

func ptrAt(after time.Duration) *metav1.Time {
	t := at(after)
	return &t
}

// aksSpec is a defaulted policy with AKS's label and limits, for the nodes only.
func aksSpec() *v1alpha1.CertificatePolicySpec {
	return &v1alpha1.CertificatePolicySpec{
		Expiry: v1alpha1.ExpirySpec{
			WarnAtLifetimePercent: 80, OverdueAtLifetimePercent: 90, MinimumRemaining: &metav1.Duration{Duration: day},
		},
		Nodes: v1alpha1.NodesSpec{
			ServingCertificate: v1alpha1.ServingCertificateSpec{
				Rotation:                v1alpha1.ServingRotationRequired,
				Label:                   &v1alpha1.NodeLabel{Key: labelKey, Value: "cluster"},
				MinimumKubeletVersion:   "1.27",
				MinimumNodeImageVersion: "202501.12.0",
			},
			SigningRequests: v1alpha1.SigningRequestsSpec{
				PendingTimeout: &metav1.Duration{Duration: 5 * time.Minute},
				IssueTimeout:   &metav1.Duration{Duration: 2 * time.Minute},
			},
		},
		ControlPlane: v1alpha1.ControlPlaneSpec{
			ClusterCA: v1alpha1.WatchIgnored, APIServer: v1alpha1.WatchIgnored,
			ClientCA: v1alpha1.WatchIgnored, Aggregation: v1alpha1.WatchIgnored,
		},
		TrustBundles: v1alpha1.TrustBundlesSpec{
			APIServices: v1alpha1.WatchIgnored, Webhooks: v1alpha1.WatchIgnored,
			ConversionWebhooks: v1alpha1.WatchIgnored,
		},
	}
}

func sha(seed string) string {
	return strings.Repeat("0", 64-len(seed)) + seed
}

func certificate(purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource, seed string, notBefore,
	notAfter time.Duration,
) v1alpha1.CertificateStatus {
	return v1alpha1.CertificateStatus{
		Purpose: purpose, Source: source, SHA256: sha(seed), SerialNumber: seed, Issuer: "CN=ca",
		IPAddresses: []string{"10.0.0.4"}, NotBefore: at(notBefore), NotAfter: at(notAfter),
	}
}

// healthy is a node of which all is known and nothing is wrong: its certificates are 10 days old and live for a year.
func healthy(name string) Node {
	issued := func(signer, request string) v1alpha1.SigningRequestStatus {
		return v1alpha1.SigningRequestStatus{
			SignerName: signer, Name: request, Stage: v1alpha1.StageIssued, Created: at(-10 * day),
			Decided: ptrAt(-10 * day), Issued: ptrAt(-10 * day),
		}
	}
	return Node{
		Name: name, Created: now.Add(-30 * day), Labels: map[string]string{labelKey: "cluster"},
		KubeletVersion: "v1.34.2", NodeImageVersion: "AKSUbuntu-2204gen2containerd-202601.15.0", HasAddress: true,
		Observed: &v1alpha1.NodeCertificatesStatus{
			Serving: &v1alpha1.ServingStatus{
				Mode: v1alpha1.ServingModeClusterSigned, Outcome: v1alpha1.ProbeCertificatePresented,
				Address: "10.0.0.4:10250", NameMatch: v1alpha1.NameMatches, Since: at(-10 * day),
			},
			Kubelet: &v1alpha1.KubeletStatus{
				Outcome: v1alpha1.KubeletRead, Since: at(-10 * day),
				ClientRotation: v1alpha1.KubeletSettingEnabled, ServingBootstrap: v1alpha1.KubeletSettingEnabled,
			},
			Certificates: []v1alpha1.CertificateStatus{
				certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, "a1", -10*day, year-10*day),
				certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, "a1", -10*day, year-10*day),
				certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, "b1", -10*day, year-10*day),
			},
			SigningRequests: []v1alpha1.SigningRequestStatus{
				issued(clientSigner, "csr-client"), issued(servingSigner, "csr-serving"),
			},
		},
	}
}

// The parts of a healthy node.
func served(n *Node) *v1alpha1.CertificateStatus { return &n.Observed.Certificates[0] }
func issued(n *Node) *v1alpha1.CertificateStatus { return &n.Observed.Certificates[1] }
func client(n *Node) *v1alpha1.CertificateStatus { return &n.Observed.Certificates[2] }
func clientRequest(n *Node) *v1alpha1.SigningRequestStatus {
	return &n.Observed.SigningRequests[0]
}

func servingRequest(n *Node) *v1alpha1.SigningRequestStatus {
	return &n.Observed.SigningRequests[1]
}

// live sets the validity of the serving certificate, in all its forms.
func live(n *Node, notBefore, notAfter time.Duration) {
	for _, c := range []*v1alpha1.CertificateStatus{served(n), issued(n)} {
		c.NotBefore, c.NotAfter = at(notBefore), at(notAfter)
	}
}

// alert makes the kubelet answer that it has no certificate, after it had one.
func alert(n *Node) {
	*n.Observed.Serving = v1alpha1.ServingStatus{
		Mode: v1alpha1.ServingModeNone, Outcome: v1alpha1.ProbeNoCertificate, Address: "10.0.0.4:10250",
		Message: "remote error: tls: internal error", Since: at(-time.Hour),
	}
}

// pending makes the request wait for a decision.
func pending(r *v1alpha1.SigningRequestStatus, since time.Duration) {
	r.Stage, r.Created, r.Decided = v1alpha1.StagePending, at(since), nil
	r.Pending, r.PendingSince = 1, ptrAt(since)
}

// input is an evaluation of one node that was changed from a healthy one.
func input(spec *v1alpha1.CertificatePolicySpec, change func(*Node)) Input {
	node := healthy("node-1")
	if change != nil {
		change(&node)
	}
	return Input{Spec: spec, Nodes: []Node{node}, Now: now, TrustSource: "kube-system/kube-root-ca.crt"}
}

// brief is a finding without its text.
type brief struct {
	Reason      string
	Severity    v1alpha1.Severity
	Kind        v1alpha1.SubjectKind
	Name        string
	Certificate v1alpha1.CertificatePurpose
	Since       string
}

func briefs(findings []v1alpha1.Finding) []brief {
	var out []brief
	for _, f := range findings {
		b := brief{f.Reason, f.Severity, f.Subject.Kind, f.Subject.Name, f.Certificate, ""}
		if f.Since != nil {
			b.Since = f.Since.Format(time.RFC3339)
		}
		out = append(out, b)
	}
	return out
}

// ofNode is what is expected of node-1.
func ofNode(reason string, severity v1alpha1.Severity, purpose v1alpha1.CertificatePurpose, since string) brief {
	return brief{reason, severity, v1alpha1.SubjectNode, "node-1", purpose, since}
}

func expectFindings(t *testing.T, verdict Verdict, want ...brief) {
	t.Helper()
	if diff := cmp.Diff(want, briefs(verdict.Findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// expectConditions compares conditions in the form Type=Status/Reason.
func expectConditions(t *testing.T, verdict Verdict, want ...string) {
	t.Helper()
	got := make([]string, 0, len(verdict.Conditions))
	for _, c := range verdict.Conditions {
		got = append(got, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

// counted is a NodeCounts as selected/compliant/violating/unknown.
func counted(c v1alpha1.NodeCounts) string {
	return fmt.Sprintf("%d/%d/%d/%d", *c.Selected, *c.Compliant, *c.Violating, *c.Unknown)
}

// certified is a CertificateCounts as total/current/due/overdue/expired/unknown.
func certified(c v1alpha1.CertificateCounts) string {
	return fmt.Sprintf("%d/%d/%d/%d/%d/%d", *c.Total, *c.Current, *c.RotationDue, *c.Overdue, *c.Expired, *c.Unknown)
}
