// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestTrustBundles(t *testing.T) {
	const webhookCA = v1alpha1.PurposeWebhookCA
	metrics := func(reason string, purpose v1alpha1.CertificatePurpose) brief {
		return brief{reason, violates, v1alpha1.SubjectAPIService, "v1beta1.metrics.k8s.io", purpose, ""}
	}
	guard := func(reason string, severity v1alpha1.Severity, since string) brief {
		return brief{reason, severity, v1alpha1.SubjectValidatingWebhook, "guard", webhookCA, since}
	}
	yesterday := now.Add(-day).Format(time.RFC3339)
	old := func(seed string) Certificate { return planeCertificate(webhookCA, "guard", seed, -year, -day) }
	for _, tc := range []struct {
		name     string
		change   func([]Bundle) // 0 APIService, 1 and 2 webhooks of one object, 3 another webhook, 4 conversion webhook
		want     []brief
		statuses []string
		says     string
	}{
		{
			name:     "malformed",
			change:   func(b []Bundle) { b[0].Malformed, b[0].Certificates = "block 1 is no certificate", nil },
			want:     []brief{metrics(v1alpha1.ReasonTrustBundleMalformed, v1alpha1.PurposeAPIServiceCA)},
			statuses: []string{"Compliant=False/TrustBundleMalformed", "TrustBundlesHealthy=False/TrustBundleMalformed"},
			says:     "The caBundle cannot be parsed: block 1 is no certificate.",
		}, {
			name:     "stale",
			change:   func(b []Bundle) { b[0].Stale = true },
			want:     []brief{metrics(v1alpha1.ReasonStaleTrustBundle, v1alpha1.PurposeAPIServiceCA)},
			statuses: []string{"Compliant=False/StaleTrustBundle", "TrustBundlesHealthy=False/StaleTrustBundle"},
			says:     "Put the current Cluster CA, in ConfigMap kube-system/kube-root-ca.crt, into it",
		}, {
			name:     "APIService unavailable, for a certificate",
			change:   func(b []Bundle) { b[0].Unavailable = "FailedDiscoveryCheck: x509: signed by unknown authority" },
			want:     []brief{metrics(v1alpha1.ReasonAPIServiceUnavailable, "")},
			statuses: []string{"Compliant=False/APIServiceUnavailable", "TrustBundlesHealthy=False/APIServiceUnavailable"},
			says:     "not available: FailedDiscoveryCheck: x509: signed by unknown authority. Requests to it fail, and so may the deletion of namespaces. The cause is a certificate",
		}, {
			name:     "APIService unavailable, for something else",
			change:   func(b []Bundle) { b[0].Unavailable = "MissingEndpoints: no endpoints" },
			want:     []brief{metrics(v1alpha1.ReasonAPIServiceUnavailable, "")},
			statuses: []string{"Compliant=False/APIServiceUnavailable", "TrustBundlesHealthy=False/APIServiceUnavailable"},
			says:     "does not mention x509",
		}, {
			name:     "expired",
			change:   func(b []Bundle) { b[1].Certificates = []Certificate{old("01")} },
			want:     []brief{guard(v1alpha1.ReasonExpired, violates, yesterday)},
			statuses: []string{"Compliant=False/Expired", "TrustBundlesHealthy=False/Expired"},
			says:     "The CA certificate in the caBundle of webhook one.example.com (CN=01, serial number 01) expired at",
		}, {
			name:   "expired, with a current one in the same bundle",
			change: func(b []Bundle) { b[1].Certificates = append(b[1].Certificates, old("01")) },
			want:   []brief{guard(v1alpha1.ReasonExpired, v1alpha1.SeverityInfo, yesterday)},
			says:   "Another certificate of the bundle is valid",
		}, {
			name: "expired in one webhook of an object, and spare in the other: one finding, about the worse",
			change: func(b []Bundle) {
				b[1].Certificates = append(b[1].Certificates, planeCertificate(webhookCA, "guard", "01", -year, -2*day))
				b[2].Certificates = []Certificate{old("02")}
			},
			want:     []brief{guard(v1alpha1.ReasonExpired, violates, yesterday)},
			statuses: []string{"Compliant=False/Expired", "TrustBundlesHealthy=False/Expired"},
			says:     "of webhook two.example.com (CN=02, serial number 02) expired",
		}, {
			name: "two malformed bundles of one object",
			change: func(b []Bundle) {
				b[1].Malformed, b[2].Malformed = "no PEM", "no PEM"
			},
			want:     []brief{guard(v1alpha1.ReasonTrustBundleMalformed, violates, "")},
			statuses: []string{"Compliant=False/TrustBundleMalformed", "TrustBundlesHealthy=False/TrustBundleMalformed"},
			says:     "The same holds of 1 bundle more of this object.",
		}, {
			name: "due",
			change: func(b []Bundle) {
				lasts(&b[4].Certificates[0], -410*day, 90*day)
			},
			want: []brief{{
				v1alpha1.ReasonRotationDue, v1alpha1.SeverityInfo, v1alpha1.SubjectCustomResourceDefinition, "things.example.com",
				v1alpha1.PurposeConversionWebhookCA, now.Add(-10 * day).Format(time.RFC3339),
			}},
			statuses: []string{"TrustBundlesHealthy=True/RotationDue"},
		}, {
			name: "overdue",
			change: func(b []Bundle) {
				lasts(&b[3].Certificates[0], -410*day, 29*day)
			},
			want: []brief{{
				v1alpha1.ReasonRotationOverdue, violates, v1alpha1.SubjectMutatingWebhook, "guard", webhookCA,
				now.Add(29*day - 439*day/10).Format(time.RFC3339),
			}},
			statuses: []string{"Compliant=False/RotationOverdue", "TrustBundlesHealthy=False/RotationOverdue"},
			says:     "goes unchecked",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verdict := Evaluate(whole(func(p *ControlPlane) { tc.change(p.Bundles) }))
			expectFindings(t, verdict, tc.want...)
			expectStatuses(t, verdict, tc.statuses...)
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
			if got := certified(verdict.Certificates); got != "7/7/0/0/0/0" {
				t.Errorf("certificates = %s: those of trust bundles are not counted", got)
			}
		})
	}
}

func TestUnreadableTrustBundles(t *testing.T) {
	in := whole(func(p *ControlPlane) {
		p.Unreadable = []Unreadable{
			{v1alpha1.PurposeWebhookCA, "ValidatingWebhookConfigurations", "the API server hangs"},
			{v1alpha1.PurposeAPIServiceCA, rootCA, "not compared with the Cluster CA"},
		}
	})
	verdict := Evaluate(in)
	expectFindings(t, verdict,
		brief{
			v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectValidatingWebhook,
			"ValidatingWebhookConfigurations", v1alpha1.PurposeWebhookCA, "",
		},
		brief{
			v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectConfigMap, rootCA, v1alpha1.PurposeAPIServiceCA, "",
		},
	)
	expectStatuses(t, verdict, "Compliant=Unknown/TrustBundleUnavailable", "TrustBundlesHealthy=Unknown/TrustBundleUnavailable")
}

// Without the Cluster CA nothing tells which trust bundles are of a replaced one. That is said once, with all else that it
// leaves open.
func TestTrustBundlesWithoutTheClusterCA(t *testing.T) {
	in := whole(func(p *ControlPlane) {
		for _, purpose := range ofTrustBundles {
			p.Unreadable = append(p.Unreadable, Unreadable{purpose, rootCA, "not compared with the Cluster CA: not found"})
		}
	})
	in.TrustError = "not found"
	unread := func(purpose v1alpha1.CertificatePurpose) brief {
		return brief{v1alpha1.ReasonTrustBundleUnavailable, notKnown, v1alpha1.SubjectConfigMap, rootCA, purpose, ""}
	}
	verdict := Evaluate(in)
	expectFindings(t, verdict, unread(kubeletServing))
	expectStatuses(t, verdict, "Compliant=Unknown/TrustBundleUnavailable", "CertificatesCurrent=Unknown/TrustBundleUnavailable",
		"ServingRotationEnabled=Unknown/TrustBundleUnavailable", "ControlPlaneHealthy=Unknown/TrustBundleUnavailable",
		"TrustBundlesHealthy=Unknown/TrustBundleUnavailable")

	in.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
	in.Spec.ControlPlane = aksSpec().ControlPlane
	verdict = Evaluate(in)
	expectFindings(t, verdict, unread(v1alpha1.PurposeClusterCA))
	expectStatuses(t, verdict, "Compliant=Unknown/TrustBundleUnavailable", "TrustBundlesHealthy=Unknown/TrustBundleUnavailable")

	in.Spec.TrustBundles = aksSpec().TrustBundles
	expectFindings(t, Evaluate(in))
}
