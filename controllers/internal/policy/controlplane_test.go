// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	rootCA         = "kube-system/kube-root-ca.crt"
	authentication = "kube-system/extension-apiserver-authentication"
	serverA        = "10.0.0.1:6443"
	serverB        = "10.0.0.2:6443"
)

// wholeSpec is a policy that watches everything, by the defaults.
func wholeSpec() *v1alpha1.CertificatePolicySpec {
	spec := aksSpec()
	spec.ControlPlane, spec.TrustBundles = v1alpha1.ControlPlaneSpec{}, v1alpha1.TrustBundlesSpec{}
	return spec
}

func planeCertificate(purpose v1alpha1.CertificatePurpose, source, seed string, notBefore, notAfter time.Duration) Certificate {
	return Certificate{
		Purpose: purpose, Source: source, Subject: "CN=" + seed, Issuer: "CN=ca", SerialNumber: seed, SHA256: sha(seed),
		NotBefore: now.Add(notBefore), NotAfter: now.Add(notAfter),
	}
}

// healthyPlane is a control plane with two API servers, of which all is known and nothing is wrong.
func healthyPlane() *ControlPlane {
	bundle := func(kind v1alpha1.SubjectKind, name, entry string, purpose v1alpha1.CertificatePurpose) Bundle {
		return Bundle{Kind: kind, Name: name, Entry: entry, Purpose: purpose, Certificates: []Certificate{
			planeCertificate(purpose, name, "ca", -day, 10*year),
		}}
	}
	return &ControlPlane{
		Certificates: []Certificate{
			planeCertificate(v1alpha1.PurposeClusterCA, rootCA, "c1", -year, 29*year),
			planeCertificate(v1alpha1.PurposeAPIServer, serverA, "a1", -day, year),
			planeCertificate(v1alpha1.PurposeAPIServer, serverB, "a2", -day, year),
			planeCertificate(v1alpha1.PurposeClientCA, authentication, "c1", -year, 29*year),
			planeCertificate(v1alpha1.PurposeAggregationCA, authentication, "f1", -year, 29*year),
		},
		Endpoints: []Endpoint{
			{Address: serverA, Outcome: v1alpha1.ProbeCertificatePresented, Verified: true},
			{Address: serverB, Outcome: v1alpha1.ProbeCertificatePresented, Verified: true},
		},
		Bundles: []Bundle{
			bundle(v1alpha1.SubjectAPIService, "v1beta1.metrics.k8s.io", "", v1alpha1.PurposeAPIServiceCA),
			bundle(v1alpha1.SubjectValidatingWebhook, "guard", "one.example.com", v1alpha1.PurposeWebhookCA),
			bundle(v1alpha1.SubjectValidatingWebhook, "guard", "two.example.com", v1alpha1.PurposeWebhookCA),
			bundle(v1alpha1.SubjectMutatingWebhook, "guard", "one.example.com", v1alpha1.PurposeWebhookCA),
			bundle(v1alpha1.SubjectCustomResourceDefinition, "things.example.com", "", v1alpha1.PurposeConversionWebhookCA),
		},
	}
}

// whole is an evaluation of a healthy node and a control plane that was changed from a healthy one.
func whole(change func(*ControlPlane)) Input {
	in := input(wholeSpec(), nil)
	in.ControlPlane = healthyPlane()
	if change != nil {
		change(in.ControlPlane)
	}
	return in
}

// lasts sets the validity of the certificate.
func lasts(c *Certificate, notBefore, notAfter time.Duration) {
	c.NotBefore, c.NotAfter = now.Add(notBefore), now.Add(notAfter)
}

// expectStatuses compares the conditions that are not True/AsExpected.
func expectStatuses(t *testing.T, verdict Verdict, want ...string) {
	t.Helper()
	var got []string
	for _, c := range verdict.Conditions {
		if c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonAsExpected {
			got = append(got, c.Type+"="+string(c.Status)+"/"+c.Reason)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditions other than True/AsExpected (-want +got):\n%s", diff)
	}
}

func TestHealthyControlPlane(t *testing.T) {
	verdict := Evaluate(whole(nil))
	expectFindings(t, verdict)
	want := []metav1.Condition{
		{Type: "Compliant", Message: "1 node, the control plane and the trust bundles comply with the policy"},
		{Type: "CertificatesCurrent", Message: "no certificate of 1 node and the control plane is overdue or expired"},
		{Type: "ServingRotationEnabled", Message: "1 node serves a certificate of the Cluster CA"},
		{Type: "BootstrapHealthy", Message: "no signing request of 1 node is stuck"},
		{
			Type:    "ControlPlaneHealthy",
			Message: "the watched certificates of the control plane are current, and fit the Cluster CA",
		},
		{Type: "TrustBundlesHealthy", Message: "no watched trust bundle is malformed, expired or of a replaced Cluster CA"},
	}
	for i := range want {
		want[i].Status, want[i].Reason = metav1.ConditionTrue, v1alpha1.ReasonAsExpected
	}
	if diff := cmp.Diff(want, verdict.Conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	// Two of the node, five of the control plane, none of the trust bundles.
	if got := certified(verdict.Certificates); got != "7/7/0/0/0/0" {
		t.Errorf("certificates = %s", got)
	}
	var listed []string
	for _, c := range verdict.ControlPlane {
		listed = append(listed, string(c.Purpose)+" "+c.Source)
	}
	if diff := cmp.Diff([]string{
		"ClusterCA " + rootCA, "APIServer " + serverA, "APIServer " + serverB, "ClientCA " + authentication,
		"AggregationCA " + authentication,
	}, listed); diff != "" {
		t.Errorf("status.controlPlane (-want +got):\n%s", diff)
	}
}

func TestNextExpirationOfTheControlPlane(t *testing.T) {
	in := whole(func(p *ControlPlane) { lasts(&p.Certificates[1], -day, 100*day) })
	want := &v1alpha1.NextExpiration{Certificate: v1alpha1.PurposeAPIServer, NotAfter: at(100 * day)}
	if diff := cmp.Diff(want, Evaluate(in).NextExpiration); diff != "" {
		t.Errorf("next expiration (-want +got):\n%s", diff)
	}
}

// What a policy ignores is neither judged nor counted, and has no condition.
func TestIgnoredControlPlane(t *testing.T) {
	broken := whole(func(p *ControlPlane) {
		for i := range p.Certificates {
			lasts(&p.Certificates[i], -year, -day)
		}
		for i := range p.Bundles {
			p.Bundles[i].Malformed, p.Bundles[i].Unavailable = "garbage", "broken"
		}
		p.Endpoints[0].Verified = false
		p.Endpoints[1].Outcome = v1alpha1.ProbeUnreachable
		p.Unreadable = []Unreadable{{Purpose: v1alpha1.PurposeClientCA, Source: authentication, Message: "no"}}
	})
	broken.Spec = aksSpec()
	if diff := cmp.Diff(Evaluate(input(aksSpec(), nil)), Evaluate(broken)); diff != "" {
		t.Errorf("not as if nothing were known (-want +got):\n%s", diff)
	}
	for purpose, ignore := range map[v1alpha1.CertificatePurpose]func(*v1alpha1.CertificatePolicySpec) *v1alpha1.Watch{
		v1alpha1.PurposeClusterCA:     func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.ControlPlane.ClusterCA },
		v1alpha1.PurposeAPIServer:     func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.ControlPlane.APIServer },
		v1alpha1.PurposeClientCA:      func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.ControlPlane.ClientCA },
		v1alpha1.PurposeAggregationCA: func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.ControlPlane.Aggregation },
		v1alpha1.PurposeAPIServiceCA:  func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.TrustBundles.APIServices },
		v1alpha1.PurposeWebhookCA:     func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch { return &s.TrustBundles.Webhooks },
		v1alpha1.PurposeConversionWebhookCA: func(s *v1alpha1.CertificatePolicySpec) *v1alpha1.Watch {
			return &s.TrustBundles.ConversionWebhooks
		},
	} {
		broken.Spec = wholeSpec()
		of := func() (n int) {
			for _, f := range Evaluate(broken).Findings {
				if f.Certificate == purpose {
					n++
				}
			}
			return n
		}
		if of() == 0 {
			t.Errorf("%s is broken, and watched without a finding", purpose)
		}
		*ignore(broken.Spec) = v1alpha1.WatchIgnored
		if n := of(); n != 0 {
			t.Errorf("%s is ignored, with %d findings", purpose, n)
		}
	}
}

func TestControlPlane(t *testing.T) {
	const apiServer, clusterCA = v1alpha1.PurposeAPIServer, v1alpha1.PurposeClusterCA
	server := func(reason string, severity v1alpha1.Severity, since string) brief {
		return brief{reason, severity, v1alpha1.SubjectAPIServer, serverA, apiServer, since}
	}
	ca := func(reason string, severity v1alpha1.Severity, since string) brief {
		return brief{reason, severity, v1alpha1.SubjectConfigMap, rootCA, clusterCA, since}
	}
	const inform = v1alpha1.SeverityInfo
	since := func(after time.Duration) string { return now.Add(after).Format(time.RFC3339) }
	for _, tc := range []struct {
		name         string
		change       func(*ControlPlane)
		want         []brief
		statuses     []string
		certificates string
		says         string
	}{
		{
			name:     "API server: due",
			change:   func(p *ControlPlane) { lasts(&p.Certificates[1], -410*day, 90*day) },
			want:     []brief{server(v1alpha1.ReasonRotationDue, inform, since(-10*day))},
			statuses: []string{"CertificatesCurrent=True/RotationDue", "ControlPlaneHealthy=True/RotationDue"},
			says:     "passed 80 % of its lifetime", certificates: "7/6/1/0/0/0",
		}, {
			name:     "API server: overdue by the floor of the control plane",
			change:   func(p *ControlPlane) { lasts(&p.Certificates[1], -10*day, 29*day) },
			want:     []brief{server(v1alpha1.ReasonRotationOverdue, violates, since(-day))},
			statuses: []string{"Compliant=False/RotationOverdue", "CertificatesCurrent=False/RotationOverdue", "ControlPlaneHealthy=False/RotationOverdue"},
			says:     "has had less than 720h0m0s to live", certificates: "7/6/0/1/0/0",
		}, {
			name:     "API server: expired, its CA current",
			change:   func(p *ControlPlane) { lasts(&p.Certificates[1], -year, -day) },
			want:     []brief{server(v1alpha1.ReasonExpired, violates, since(-day))},
			statuses: []string{"Compliant=False/Expired", "CertificatesCurrent=False/Expired", "ControlPlaneHealthy=False/Expired"},
			says:     "The serving certificate of the API server (CN=a1, serial number a1) expired at", certificates: "7/6/0/0/1/0",
		}, {
			name:     "Cluster CA: expired",
			change:   func(p *ControlPlane) { lasts(&p.Certificates[0], -year, -day) },
			want:     []brief{ca(v1alpha1.ReasonExpired, violates, since(-day))},
			statuses: []string{"Compliant=False/Expired", "CertificatesCurrent=False/Expired", "ControlPlaneHealthy=False/Expired"},
			says:     "az aks rotate-certs", certificates: "7/6/0/0/1/0",
		}, {
			name: "Cluster CA: two old ones next to the new one",
			change: func(p *ControlPlane) {
				p.Certificates = append(p.Certificates, planeCertificate(clusterCA, rootCA, "c2", -2*year, -2*day),
					planeCertificate(clusterCA, rootCA, "c3", -2*year, -day))
			},
			want: []brief{ca(v1alpha1.ReasonExpired, inform, since(-2*day))},
			says: "everything else works. Remove it once nothing uses it. The same holds of 1 certificate more here.", certificates: "9/7/0/0/2/0",
		}, {
			name: "Cluster CA: the only other one is not valid yet",
			change: func(p *ControlPlane) {
				lasts(&p.Certificates[0], -year, -day)
				p.Certificates = append(p.Certificates, planeCertificate(clusterCA, rootCA, "c2", day, year))
			},
			want: []brief{
				ca(v1alpha1.ReasonExpired, violates, since(-day)), ca(v1alpha1.ReasonNotYetValid, violates, ""),
			},
			statuses: []string{"Compliant=False/Expired", "CertificatesCurrent=False/Expired", "ControlPlaneHealthy=False/Expired"},
		}, {
			name: "client CA and aggregation CA of one ConfigMap",
			change: func(p *ControlPlane) {
				lasts(&p.Certificates[3], -year, -day)
				lasts(&p.Certificates[4], -year, -day)
			},
			want: []brief{
				{v1alpha1.ReasonExpired, violates, v1alpha1.SubjectConfigMap, authentication, v1alpha1.PurposeAggregationCA, since(-day)},
				{v1alpha1.ReasonExpired, violates, v1alpha1.SubjectConfigMap, authentication, v1alpha1.PurposeClientCA, since(-day)},
			},
			statuses: []string{"Compliant=False/Expired", "CertificatesCurrent=False/Expired", "ControlPlaneHealthy=False/Expired"},
		}, {
			name:     "API server of another CA",
			change:   func(p *ControlPlane) { p.Endpoints[0].Verified, p.Endpoints[0].Message = false, "unknown authority" },
			want:     []brief{server(v1alpha1.ReasonClusterCAMismatch, violates, "")},
			statuses: []string{"Compliant=False/ClusterCAMismatch", "ControlPlaneHealthy=False/ClusterCAMismatch"},
			says:     "in ConfigMap kube-system/kube-root-ca.crt: unknown authority.", certificates: "7/7/0/0/0/0",
		}, {
			name: "API server out of reach",
			change: func(p *ControlPlane) {
				p.Endpoints[0] = Endpoint{Address: serverA, Outcome: v1alpha1.ProbeUnreachable, Message: "connection refused"}
			},
			want:     []brief{server(v1alpha1.ReasonProbeFailed, notKnown, "")},
			statuses: []string{"Compliant=Unknown/ProbeFailed", "CertificatesCurrent=Unknown/ProbeFailed", "ControlPlaneHealthy=Unknown/ProbeFailed"},
			says:     "at 10.0.0.1:6443 could not be asked for its serving certificate: connection refused.", certificates: "7/6/0/0/0/1",
		}, {
			name: "API server never reached",
			change: func(p *ControlPlane) {
				p.Endpoints[0] = Endpoint{Address: serverA, Outcome: v1alpha1.ProbeHandshakeFailed}
				p.Certificates = append(p.Certificates[:1:1], p.Certificates[2:]...)
			},
			want:     []brief{server(v1alpha1.ReasonProbeFailed, notKnown, "")},
			statuses: []string{"Compliant=Unknown/ProbeFailed", "CertificatesCurrent=Unknown/ProbeFailed", "ControlPlaneHealthy=Unknown/ProbeFailed"},
			says:     "", certificates: "7/6/0/0/0/1",
		}, {
			name: "API server out of reach, and expired when it was last seen",
			change: func(p *ControlPlane) {
				p.Endpoints[0].Outcome = v1alpha1.ProbeUnreachable
				lasts(&p.Certificates[1], -year, -day)
			},
			want: []brief{
				server(v1alpha1.ReasonExpired, violates, since(-day)), server(v1alpha1.ReasonProbeFailed, notKnown, ""),
			},
			statuses: []string{"Compliant=False/Expired", "CertificatesCurrent=False/Expired", "ControlPlaneHealthy=False/Expired"}, certificates: "7/6/0/0/1/0",
		}, {
			name:   "leaf that outlives its CA",
			change: func(p *ControlPlane) { p.Certificates[1].IssuerNotAfter = p.Certificates[1].NotAfter.Add(-1) },
			want:   []brief{server(v1alpha1.ReasonIssuerExpiresFirst, inform, "")},
			says:   "Renew the CA first",
		}, {
			name:   "leaf that expires when its CA does",
			change: func(p *ControlPlane) { p.Certificates[1].IssuerNotAfter = p.Certificates[1].NotAfter },
		}, {
			name: "nothing of the Cluster CA, nor of the API server",
			change: func(p *ControlPlane) {
				p.Certificates, p.Endpoints = p.Certificates[3:], nil
			},
			want: []brief{
				{v1alpha1.ReasonNotObserved, notKnown, v1alpha1.SubjectAPIServer, "default/kubernetes", apiServer, ""},
				ca(v1alpha1.ReasonNotObserved, notKnown, ""),
			},
			statuses: []string{"Compliant=Unknown/NotObserved", "CertificatesCurrent=Unknown/NotObserved", "ControlPlaneHealthy=Unknown/NotObserved"},
		}, {
			name:   "no client CA, no aggregation: a cluster may have none",
			change: func(p *ControlPlane) { p.Certificates = p.Certificates[:3] }, certificates: "5/5/0/0/0/0",
		}, {
			name: "sources that could not be read",
			change: func(p *ControlPlane) {
				p.Certificates = p.Certificates[:3]
				p.Unreadable = []Unreadable{
					{v1alpha1.PurposeClientCA, authentication, "not found"}, {v1alpha1.PurposeAggregationCA, authentication, ""},
				}
			},
			want: []brief{
				{v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectConfigMap, authentication, v1alpha1.PurposeClientCA, ""},
				{v1alpha1.ReasonNotObserved, notKnown, v1alpha1.SubjectConfigMap, authentication, v1alpha1.PurposeAggregationCA, ""},
			},
			statuses: []string{"Compliant=Unknown/TrustBundleUnavailable", "CertificatesCurrent=Unknown/TrustBundleUnavailable", "ControlPlaneHealthy=Unknown/TrustBundleUnavailable"},
			says:     "could not be read: not found. Whether its certificates are valid is not known. Restore it, or set spec.controlPlane.clientCA to Ignored",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := whole(tc.change)
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			expectStatuses(t, verdict, tc.statuses...)
			if tc.certificates != "" && certified(verdict.Certificates) != tc.certificates {
				t.Errorf("certificates = %s, want %s", certified(verdict.Certificates), tc.certificates)
			}
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
			if got := counted(verdict.Nodes); got != "1/1/0/0" {
				t.Errorf("nodes = %s: the control plane is no node", got)
			}
		})
	}
}

func TestControlPlaneNotObserved(t *testing.T) {
	in := whole(nil)
	in.ControlPlane = nil
	verdict := Evaluate(in)
	expectStatuses(t, verdict, "Compliant=Unknown/NotObserved", "CertificatesCurrent=Unknown/NotObserved",
		"ControlPlaneHealthy=Unknown/NotObserved", "TrustBundlesHealthy=Unknown/NotObserved")
	want := "1 source of evidence could not be read: NotObserved on 1"
	if got := verdict.Conditions[4].Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	in.Spec.TrustBundles = aksSpec().TrustBundles
	expectConditions(t, Evaluate(in), "Compliant=Unknown/NotObserved", "CertificatesCurrent=Unknown/NotObserved",
		"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected", "ControlPlaneHealthy=Unknown/NotObserved")
}

// The control plane is judged where no node is selected, too.
func TestControlPlaneWithoutNodes(t *testing.T) {
	in := whole(nil)
	in.Nodes = nil
	expectConditions(t, Evaluate(in), "Compliant=Unknown/NoNodesSelected", "CertificatesCurrent=Unknown/NoNodesSelected",
		"ServingRotationEnabled=Unknown/NoNodesSelected", "BootstrapHealthy=Unknown/NoNodesSelected",
		"ControlPlaneHealthy=True/AsExpected", "TrustBundlesHealthy=True/AsExpected")
	lasts(&in.ControlPlane.Certificates[0], -year, -day)
	verdict := Evaluate(in)
	expectStatuses(t, verdict, "Compliant=False/Expired", "CertificatesCurrent=False/Expired",
		"ServingRotationEnabled=Unknown/NoNodesSelected", "BootstrapHealthy=Unknown/NoNodesSelected",
		"ControlPlaneHealthy=False/Expired")
	if got, want := verdict.Conditions[0].Message, "1 part of the control plane violates the policy: Expired on 1"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

// Without the Cluster CA, an API server does not mismatch it, and whether it does is not known.
func TestControlPlaneWithoutTheClusterCA(t *testing.T) {
	in := whole(func(p *ControlPlane) {
		p.Certificates = p.Certificates[1:]
		p.Endpoints[0].Verified, p.Endpoints[1].Verified = false, false
		p.Unreadable = []Unreadable{{v1alpha1.PurposeClusterCA, rootCA, "not found"}}
	})
	in.TrustError = "not found"
	unread := brief{v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectConfigMap, rootCA, kubeletServing, ""}
	verdict := Evaluate(in)
	expectFindings(t, verdict, unread)
	expectStatuses(t, verdict, "Compliant=Unknown/TrustBundleUnavailable", "CertificatesCurrent=Unknown/TrustBundleUnavailable",
		"ServingRotationEnabled=Unknown/TrustBundleUnavailable", "ControlPlaneHealthy=Unknown/TrustBundleUnavailable")

	in.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
	in.Spec.ControlPlane.ClusterCA = v1alpha1.WatchIgnored
	unread.Certificate = v1alpha1.PurposeClusterCA
	verdict = Evaluate(in)
	expectFindings(t, verdict, unread)
	expectStatuses(t, verdict, "Compliant=Unknown/TrustBundleUnavailable",
		"ControlPlaneHealthy=Unknown/TrustBundleUnavailable")
}

// spec.nodes.expiry replaces spec.expiry for nodes, spec.controlPlane.expiry for the control plane, each as a whole.
func TestExpiryOverrides(t *testing.T) {
	in := whole(func(p *ControlPlane) { lasts(&p.Certificates[1], -70*day, 30*day) })
	live(&in.Nodes[0], -70*day, 30*day)
	in.Spec.ControlPlane.Expiry = v1alpha1.ControlPlaneExpirySpec{MinimumRemaining: &metav1.Duration{}}
	expectFindings(t, Evaluate(in))

	in.Spec.Nodes.Expiry = &v1alpha1.ExpirySpec{WarnAtLifetimePercent: 50, OverdueAtLifetimePercent: 60}
	node := ofNode(v1alpha1.ReasonRotationOverdue, violates, kubeletServing, now.Add(-10*day).Format(time.RFC3339))
	verdict := Evaluate(in)
	expectFindings(t, verdict, node)

	in.Spec.Nodes.Expiry = &v1alpha1.ExpirySpec{MinimumRemaining: &metav1.Duration{Duration: 200 * day}}
	verdict = Evaluate(in)
	if len(verdict.Findings) == 0 {
		t.Fatal("the floor of the nodes' own expiry does not hold")
	}
	expectMessage(t, verdict, v1alpha1.ReasonRotationOverdue, "no longer than spec.nodes.expiry.minimumRemaining (4800h0m0s)")

	in.Spec.Nodes.Expiry = nil
	in.Spec.ControlPlane.Expiry = v1alpha1.ControlPlaneExpirySpec{MinimumRemaining: &metav1.Duration{Duration: 200 * day}}
	expectMessage(t, Evaluate(in), v1alpha1.ReasonRotationOverdue, "no longer than spec.controlPlane.expiry.minimumRemaining")

	// A floor that is left out is one of thirty days, and not the day of spec.expiry, whatever else is given.
	for _, partial := range []v1alpha1.ControlPlaneExpirySpec{{}, {WarnAtLifetimePercent: 80}} {
		in.Spec.ControlPlane.Expiry = partial
		expectMessage(t, Evaluate(in), v1alpha1.ReasonRotationOverdue, "has had less than 720h0m0s to live")
	}
	in.Now = in.Now.Add(-time.Nanosecond)
	expectFindings(t, Evaluate(in))
}

// The thresholds of the control plane's certificates, to the nanosecond.
func TestControlPlaneBoundaries(t *testing.T) {
	const life = 1000 * day
	begins := now.Add(-day)
	in := whole(func(p *ControlPlane) {
		p.Certificates[1].NotBefore, p.Certificates[1].NotAfter = begins, begins.Add(life)
	})
	in.Nodes = nil
	in.Spec.ControlPlane.Expiry.MinimumRemaining = &metav1.Duration{}
	for _, tc := range []struct {
		at   time.Duration
		want string
	}{
		{-1, "NotYetValid"}, {0, ""}, {800*day - 1, ""}, {800 * day, "RotationDue"}, {900*day - 1, "RotationDue"},
		{900 * day, "RotationOverdue"}, {life, "RotationOverdue"}, {life + 1, "Expired"},
	} {
		in.Now = begins.Add(tc.at)
		in.ControlPlane.Bundles = nil
		var got string
		for _, f := range Evaluate(in).Findings {
			if f.Subject.Name == serverA {
				got += f.Reason
			}
		}
		if got != tc.want {
			t.Errorf("at %v: %q, want %q", tc.at, got, tc.want)
		}
	}
}

// The verdict depends on no order, and names each finding once.
func TestControlPlaneInAnyOrder(t *testing.T) {
	in := whole(func(p *ControlPlane) {
		for i := range 5 {
			seed := string(rune('a' + i))
			p.Certificates = append(p.Certificates,
				planeCertificate(v1alpha1.PurposeClusterCA, rootCA, seed, -year, -time.Duration(i)*day),
				planeCertificate(v1alpha1.PurposeClusterTrustBundle, "kubernetes.io:kube-apiserver-serving:live", seed, -year, -day))
		}
		for i := range p.Bundles {
			p.Bundles[i].Stale, p.Bundles[i].Malformed = true, "no PEM"
		}
		p.Unreadable = []Unreadable{
			{v1alpha1.PurposeWebhookCA, "MutatingWebhookConfigurations", "a"},
			{v1alpha1.PurposeWebhookCA, "MutatingWebhookConfigurations", "b"},
			{v1alpha1.PurposeAPIServer, "/openid/v1/jwks", "c"},
		}
	})
	want := Evaluate(in)
	expectDistinct(t, want.Findings)
	plane := in.ControlPlane
	for range 20 {
		rand.Shuffle(len(plane.Certificates), func(i, j int) {
			plane.Certificates[i], plane.Certificates[j] = plane.Certificates[j], plane.Certificates[i]
		})
		rand.Shuffle(len(plane.Bundles), func(i, j int) { plane.Bundles[i], plane.Bundles[j] = plane.Bundles[j], plane.Bundles[i] })
		rand.Shuffle(len(plane.Endpoints), func(i, j int) {
			plane.Endpoints[i], plane.Endpoints[j] = plane.Endpoints[j], plane.Endpoints[i]
		})
		rand.Shuffle(len(plane.Unreadable), func(i, j int) {
			plane.Unreadable[i], plane.Unreadable[j] = plane.Unreadable[j], plane.Unreadable[i]
		})
		if diff := cmp.Diff(want, Evaluate(in)); diff != "" {
			t.Fatalf("another order, another verdict (-want +got):\n%s", diff)
		}
	}
}

// hostilePlane is one in which everything that others write is meant to do harm.
func hostilePlane(hostile string) *ControlPlane {
	plane := &ControlPlane{}
	lives := [][2]time.Duration{{-100 * day, -day}, {-100 * day, 5 * day}, {-400 * day, 90 * day}, {day, year}, {-day, 10 * day}}
	for i, purpose := range ofControlPlane {
		for j, life := range lives {
			c := planeCertificate(purpose, hostile+string(rune('a'+j)), "x", life[0], life[1])
			c.Subject, c.Issuer, c.SerialNumber, c.IssuerNotAfter = hostile, hostile, hostile, now.Add(-year)
			if i%2 == 0 { // all in one bundle
				c.Source = hostile
			}
			plane.Certificates = append(plane.Certificates, c)
		}
		plane.Unreadable = append(plane.Unreadable, Unreadable{purpose, hostile, hostile})
	}
	for i, outcome := range []v1alpha1.ProbeOutcome{v1alpha1.ProbeCertificatePresented, v1alpha1.ProbeUnreachable} {
		plane.Endpoints = append(plane.Endpoints, Endpoint{Address: hostile + string(rune('a'+i)), Outcome: outcome, Message: hostile})
	}
	for _, b := range []Bundle{
		{Kind: v1alpha1.SubjectAPIService, Purpose: v1alpha1.PurposeAPIServiceCA},
		{Kind: v1alpha1.SubjectMutatingWebhook, Purpose: v1alpha1.PurposeWebhookCA, Entry: hostile},
		{Kind: v1alpha1.SubjectCustomResourceDefinition, Purpose: v1alpha1.PurposeConversionWebhookCA},
	} {
		b.Name, b.Malformed, b.Stale, b.Unavailable = strings.Repeat("n", 253), hostile, true, hostile
		for _, life := range lives[:4] {
			c := planeCertificate(b.Purpose, b.Name, "x", life[0], life[1])
			c.Subject, c.SerialNumber = hostile, hostile
			b.Certificates = append(b.Certificates, c)
		}
		plane.Bundles = append(plane.Bundles, b, b)
	}
	return plane
}
