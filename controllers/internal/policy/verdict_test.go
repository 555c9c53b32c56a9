// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestHealthy(t *testing.T) {
	in := input(aksSpec(), nil)
	in.Nodes = append(in.Nodes, healthy("node-2"))
	verdict := Evaluate(in)
	expectFindings(t, verdict)
	if got := counted(verdict.Nodes); got != "2/2/0/0" {
		t.Errorf("nodes = %s", got)
	}
	if got := certified(verdict.Certificates); got != "4/4/0/0/0/0" {
		t.Errorf("certificates = %s", got)
	}
	want := []metav1.Condition{
		{Type: "Compliant", Status: "True", Reason: "AsExpected", Message: "2 nodes comply with the policy"},
		{
			Type: "CertificatesCurrent", Status: "True", Reason: "AsExpected",
			Message: "no certificate of 2 nodes is overdue or expired",
		},
		{
			Type: "ServingRotationEnabled", Status: "True", Reason: "AsExpected",
			Message: "2 nodes serve a certificate of the Cluster CA",
		},
		{
			Type: "BootstrapHealthy", Status: "True", Reason: "AsExpected",
			Message: "no signing request of 2 nodes is stuck",
		},
	}
	if diff := cmp.Diff(want, verdict.Conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if due := now.Add(-10 * day).Add(year * 80 / 100); !verdict.NextCheck.Equal(due) {
		t.Errorf("next check %v, want %v", verdict.NextCheck, due)
	}
}

func TestNoNodesSelected(t *testing.T) {
	verdict := Evaluate(Input{Spec: aksSpec(), Now: now})
	expectConditions(t, verdict, "Compliant=Unknown/NoNodesSelected", "CertificatesCurrent=Unknown/NoNodesSelected",
		"ServingRotationEnabled=Unknown/NoNodesSelected", "BootstrapHealthy=Unknown/NoNodesSelected")
	if got := counted(verdict.Nodes); got != "0/0/0/0" {
		t.Errorf("nodes = %s", got)
	}
	if got := certified(verdict.Certificates); got != "0/0/0/0/0/0" {
		t.Errorf("certificates = %s", got)
	}
	if !verdict.NextCheck.IsZero() {
		t.Errorf("next check %v", verdict.NextCheck)
	}
	verdict = Evaluate(Input{Spec: aksSpec(), Now: now, Requests: []Request{{
		Name: "csr-1", SignerName: clientSigner, Stage: v1alpha1.StagePending, Created: now.Add(-time.Hour),
	}}})
	expectConditions(t, verdict, "Compliant=False/SigningRequestPending", "CertificatesCurrent=Unknown/NoNodesSelected",
		"ServingRotationEnabled=Unknown/NoNodesSelected", "BootstrapHealthy=False/SigningRequestPending")
	want := "1 signing request without a Node violates the policy: SigningRequestPending on 1"
	if got := verdict.Conditions[0].Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

// A nil spec, and one that no API server defaulted, are judged by the documented defaults.
func TestDefaults(t *testing.T) {
	change := func(n *Node) {
		live(n, -95*day, 5*day)
		n.Labels = nil
		pending(clientRequest(n), -5*time.Minute)
		pending(servingRequest(n), -5*time.Minute+1)
	}
	want := []brief{
		ofNode(v1alpha1.ReasonRotationOverdue, violates, kubeletServing, now.Add(-5*day).Format(time.RFC3339)),
		ofNode(v1alpha1.ReasonSigningRequestPending, violates, kubeletClient, "2026-03-01T11:55:00Z"),
	}
	for _, spec := range []*v1alpha1.CertificatePolicySpec{nil, {}} {
		in := input(spec, change)
		in.ControlPlane = healthyPlane()
		expectFindings(t, Evaluate(in), want...)
	}
	unseen := func(purpose v1alpha1.CertificatePurpose) brief {
		return brief{v1alpha1.ReasonNotObserved, notKnown, v1alpha1.SubjectAPIServer, "default/kubernetes", purpose, ""}
	}
	expectFindings(t, Evaluate(Input{}), unseen(v1alpha1.PurposeAPIServer), unseen(v1alpha1.PurposeAPIServiceCA),
		unseen(v1alpha1.PurposeConversionWebhookCA), unseen(v1alpha1.PurposeWebhookCA))
}

func TestConditions(t *testing.T) {
	due := func(n *Node) { live(n, -85*day, 15*day) }
	for _, tc := range []struct {
		name    string
		changes []func(*Node) // one per node
		nodes   string
		want    []string
		message string // of Compliant
	}{
		{
			name: "due", changes: []func(*Node){due, nil}, nodes: "2/2/0/0",
			want: []string{
				"Compliant=True/AsExpected", "CertificatesCurrent=True/RotationDue",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected",
			},
			message: "2 nodes comply with the policy",
		}, {
			name: "missing", changes: []func(*Node){alert, nil}, nodes: "2/1/1/0",
			want: []string{
				"Compliant=False/ServingCertificateMissing", "CertificatesCurrent=False/ServingCertificateMissing",
				"ServingRotationEnabled=False/ServingCertificateMissing", "BootstrapHealthy=True/AsExpected",
			},
			message: "1 of 2 nodes violates the policy: ServingCertificateMissing on 1",
		}, {
			name: "one of each",
			changes: []func(*Node){
				nil, alert, alert, due,
				func(n *Node) { live(n, -100*day, -day); client(n).NotAfter = at(-day) },
				func(n *Node) { n.Observed = nil },
				func(n *Node) { n.Observed.Serving = nil; pending(clientRequest(n), -time.Hour) },
			},
			nodes: "7/2/4/1",
			want: []string{
				"Compliant=False/Expired", "CertificatesCurrent=False/Expired",
				"ServingRotationEnabled=False/ServingCertificateMissing", "BootstrapHealthy=False/SigningRequestPending",
			},
			message: "4 of 7 nodes violate the policy: Expired on 1, ServingCertificateMissing on 2, " +
				"SigningRequestPending on 1; not known: NotObserved on 2",
		}, {
			name: "unknown", changes: []func(*Node){nil, due, func(n *Node) { n.Observed.Serving.Outcome = "Unreachable" }},
			nodes: "3/2/0/1",
			want: []string{
				"Compliant=Unknown/ProbeFailed", "CertificatesCurrent=Unknown/ProbeFailed",
				"ServingRotationEnabled=Unknown/ProbeFailed", "BootstrapHealthy=True/AsExpected",
			},
			message: "1 of 3 nodes could not be judged: ProbeFailed on 1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := Input{Spec: aksSpec(), Now: now}
			for i, change := range tc.changes {
				node := healthy(fmt.Sprintf("node-%d", i))
				if change != nil {
					change(&node)
				}
				in.Nodes = append(in.Nodes, node)
			}
			verdict := Evaluate(in)
			expectConditions(t, verdict, tc.want...)
			if got := counted(verdict.Nodes); got != tc.nodes {
				t.Errorf("nodes = %s, want %s", got, tc.nodes)
			}
			if got := verdict.Conditions[0].Message; got != tc.message {
				t.Errorf("message %q, want %q", got, tc.message)
			}
		})
	}
}

func TestWorstFirst(t *testing.T) {
	nodes := []Node{healthy("b"), healthy("a"), healthy("c"), healthy("e"), healthy("f"), healthy("d")}
	live(&nodes[0], -85*day, 15*day)                               // b: due
	live(&nodes[1], -100*day, -day)                                // a: expired
	live(&nodes[2], -100*day, -2*day)                              // c: expired earlier
	nodes[3].Observed = nil                                        // e: unknown
	nodes[4].Labels = nil                                          // f: label
	live(&nodes[5], -100*day, -day)                                // d: expired when a was
	nodes[5].Observed.SigningRequests[0].Malformed = "not so well" // without effect: issued
	pending(clientRequest(&nodes[5]), -time.Hour)
	want := []string{
		"Expired c", "Expired a", "Expired d", "SigningRequestMalformed d", "SigningRequestPending d",
		"ServingLabelMissing f", "NotObserved e", "RotationDue b",
	}
	for range 20 {
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		var got []string
		for _, f := range Evaluate(Input{Spec: aksSpec(), Nodes: nodes, Now: now}).Findings {
			got = append(got, f.Reason+" "+f.Subject.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("order (-want +got):\n%s", diff)
		}
	}
}

// Every reason that the API declares for findings is in the catalogue, once.
func TestCatalogueIsComplete(t *testing.T) {
	declared := []string{
		v1alpha1.ReasonTrustBundleUnavailable,
		v1alpha1.ReasonExpired, v1alpha1.ReasonRotationOverdue, v1alpha1.ReasonRotationDue, v1alpha1.ReasonNotYetValid,
		v1alpha1.ReasonServingCertificateMissing, v1alpha1.ReasonServingCertificateSelfSigned,
		v1alpha1.ReasonServingCertificateUntrusted, v1alpha1.ReasonServingCertificateNameMismatch,
		v1alpha1.ReasonServingLabelMissing, v1alpha1.ReasonServingRotationNotDisabled,
		v1alpha1.ReasonServingRequestMissing, v1alpha1.ReasonIssuedCertificateNotServed,
		v1alpha1.ReasonSigningRequestPending, v1alpha1.ReasonSigningRequestsLooping,
		v1alpha1.ReasonSigningRequestDenied, v1alpha1.ReasonSigningRequestFailed,
		v1alpha1.ReasonSigningRequestNotIssued, v1alpha1.ReasonSigningRequestMalformed,
		v1alpha1.ReasonProbeFailed, v1alpha1.ReasonNotObserved, v1alpha1.ReasonAccessDenied,
		v1alpha1.ReasonServerTLSBootstrapDisabled, v1alpha1.ReasonStaticServingCertificateMounted, v1alpha1.ReasonClientRotationDisabled,
		v1alpha1.ReasonRenewalFailing, v1alpha1.ReasonNodeNotRegistered, v1alpha1.ReasonNodePoolNeedsRecreation,
		v1alpha1.ReasonBootstrapTokenExpired, v1alpha1.ReasonClusterCAMismatch, v1alpha1.ReasonIssuerExpiresFirst,
		v1alpha1.ReasonStaleTrustBundle, v1alpha1.ReasonTrustBundleMalformed, v1alpha1.ReasonAPIServiceUnavailable,
		v1alpha1.ReasonSigningRequestViolation, v1alpha1.ReasonSigningRequestApprovalSuspended,
		v1alpha1.ReasonApprovalPoliciesDisagree,
	}
	var listed []string
	for _, entry := range catalogue {
		listed = append(listed, entry.reason)
	}
	slices.Sort(declared)
	slices.Sort(listed)
	if diff := cmp.Diff(declared, listed); diff != "" {
		t.Errorf("catalogue (-declared +listed):\n%s", diff)
	}
}

// Whatever nodes, approvers and signers write, messages stay on one line, within bounds, and keep the fix at their end.
func TestHostileText(t *testing.T) {
	hostile := strings.Repeat("\x1b[31m\r\n\x00\u202eé\xff", 500)
	long := strings.Repeat("n", 253)
	request := func(r *v1alpha1.SigningRequestStatus, stage v1alpha1.SigningStage) {
		r.Name, r.Malformed = long, hostile
		r.Refusal = &v1alpha1.SigningRefusal{Name: long, Stage: v1alpha1.StageDenied, Reason: hostile, Message: hostile}
		pending(r, -time.Hour)
		r.Stage, r.Pending = stage, 1<<31-1
	}
	spec := aksSpec()
	spec.Nodes.ServingCertificate.Label.Key = strings.Repeat("k", 253) + "/" + strings.Repeat("k", 63)
	spec.Nodes.ServingCertificate.Label.Value = strings.Repeat("v", 63)
	spec.ControlPlane, spec.TrustBundles = v1alpha1.ControlPlaneSpec{}, v1alpha1.TrustBundlesSpec{}
	var nodes []Node
	for i := range 60 {
		n := healthy(fmt.Sprintf("%s-%d", strings.Repeat("n", 250), i))
		n.KubeletVersion, n.NodeImageVersion = []string{hostile, "v1.2" + hostile, "v1.30"}[i%3], hostile
		n.Labels = map[string]string{spec.Nodes.ServingCertificate.Label.Key: hostile}
		s := n.Observed.Serving
		s.Mode = []v1alpha1.ServingMode{"ClusterSigned", "SelfSigned", "ExternallyManaged", "None", "Unknown"}[i%5]
		s.Outcome = []v1alpha1.ProbeOutcome{"CertificatePresented", "HandshakeFailed", "NoAddress", "NoCertificate"}[i%4]
		s.NameMatch, s.Address, s.Message = v1alpha1.NameMismatches, hostile, hostile
		for j := range n.Observed.Certificates {
			c := &n.Observed.Certificates[j]
			c.Subject, c.Issuer, c.SerialNumber, c.DNSNames = hostile, hostile, hostile, []string{hostile, hostile}
			c.NotBefore, c.NotAfter = at(-100*day), at([]time.Duration{-day, 5 * day, 15 * day, year}[i/4%4])
		}
		issued(&n).SHA256, issued(&n).NotAfter = sha("ff"), at(year)
		request(clientRequest(&n), []v1alpha1.SigningStage{"Pending", "Approved", "Failed"}[i%3])
		request(servingRequest(&n), []v1alpha1.SigningStage{"Approved", "Issued", "Pending", "Denied"}[i/3%4])
		nodes = append(nodes, n)
	}
	in := Input{Spec: spec, Nodes: nodes, Now: now, TrustError: hostile, TrustSource: hostile}
	for _, stage := range []v1alpha1.SigningStage{"Pending", "Approved", "Denied", "Failed"} {
		for _, signer := range []string{clientSigner, servingSigner} {
			in.Requests = append(in.Requests, Request{
				Name: hostile, SignerName: signer, NodeName: hostile, Stage: stage, Refusal: hostile, Malformed: hostile,
			}, Request{ // which looks the same
				Name: hostile + "2", SignerName: signer, NodeName: hostile, Stage: stage, Created: now.Add(-day),
			}, Request{Name: hostile, SignerName: clientSigner, NodeName: "one", Stage: v1alpha1.StageIssued, Requestor: hostile},
				Request{Name: hostile, SignerName: clientSigner, NodeName: "two", Stage: v1alpha1.StageIssued, Requestor: hostile})
		}
	}
	in.ControlPlane = hostilePlane(hostile)
	spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{Mode: v1alpha1.ApprovalApprove}
	in.Policy, in.Approvals = long, &Approvals{Suspended: true, Requests: []JudgedRequest{
		{Name: hostile, NodeName: nodes[0].Name, Reason: hostile, Message: hostile, Violated: true, By: []string{long}},
		{Name: hostile, NodeName: nodes[1].Name, By: []string{hostile}, Overruled: []string{long}},
	}}
	reasons := map[string]bool{}
	judge := func() []v1alpha1.Finding {
		in.TrustError, in.Denied = hostile, nil
		findings := Evaluate(in).Findings
		expectDistinct(t, findings)
		in.TrustError = "" // without the Cluster CA, nothing mismatches it
		in.Denied = []Denial{{Permission: hostile, Message: hostile, SignerName: servingSigner}}
		more := Evaluate(in).Findings
		expectDistinct(t, more)
		return append(findings, more...)
	}
	for _, rotation := range []v1alpha1.ServingRotation{"Required", "Disabled", "Ignored"} {
		spec.Nodes.ServingCertificate.Rotation = rotation
		for _, f := range judge() {
			reasons[f.Reason] = true
			if len(f.Message) > 1024 {
				t.Errorf("%s: %d bytes", f.Reason, len(f.Message))
			}
			if len(f.Subject.Name) > 317 {
				t.Errorf("%s: a subject of %d bytes", f.Reason, len(f.Subject.Name))
			}
			if !strings.HasSuffix(f.Message, ".") {
				t.Fatalf("%s is cut off:\n%s", f.Reason, f.Message)
			}
			if strings.ContainsFunc(f.Message+f.Subject.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s is not printable: %q", f.Reason, f.Message)
			}
		}
	}
	if len(reasons) < 21 {
		t.Errorf("only %v were tried", reasons)
	}
}

// Two requests whose names look the same are one finding, the worse of the two, and count as two.
func TestNamesThatLookTheSame(t *testing.T) {
	in := input(aksSpec(), nil)
	for _, name := range []string{"csr\u202e", "csr\u200b"} {
		in.Requests = append(in.Requests, Request{
			Name: name, SignerName: clientSigner, NodeName: "gone", Stage: v1alpha1.StagePending, Created: now.Add(-time.Hour),
		})
	}
	verdict := Evaluate(in)
	expectFindings(t, verdict, brief{
		v1alpha1.ReasonSigningRequestPending, violates, v1alpha1.SubjectSigningRequest, "csr\ufffd", kubeletClient, hourAgo,
	})
	want := "2 signing requests without a Node violate the policy: SigningRequestPending on 2"
	if got := verdict.Conditions[0].Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestManyFindings(t *testing.T) {
	in := Input{Spec: aksSpec(), Now: now}
	for i := range 5000 {
		n := healthy(fmt.Sprintf("node-%04d", i))
		n.Labels = nil
		alert(&n)
		pending(servingRequest(&n), -time.Hour)
		client(&n).NotAfter = at(-time.Duration(i%7) * day)
		in.Nodes = append(in.Nodes, n)
	}
	verdict := Evaluate(in)
	if len(verdict.Findings) < 20000-1000 {
		t.Errorf("%d findings", len(verdict.Findings))
	}
	if got := counted(verdict.Nodes); got != "5000/0/5000/0" {
		t.Errorf("nodes = %s", got)
	}
	for _, c := range verdict.Conditions {
		if len(c.Message) > 1024 {
			t.Errorf("%s: %d bytes", c.Type, len(c.Message))
		}
	}
}
