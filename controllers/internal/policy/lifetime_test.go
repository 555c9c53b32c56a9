// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	kubeletServing = v1alpha1.PurposeKubeletServing
	kubeletClient  = v1alpha1.PurposeKubeletClient
)

// A certificate of 100 days, with the default limits, is due after 80 of them, overdue after 90, and expired after 100.
func TestLifetimeBoundaries(t *testing.T) {
	const nano = time.Nanosecond
	born := now.Add(-50 * day)
	for _, tc := range []struct {
		name      string
		after     time.Duration // since notBefore
		want      string
		since     time.Duration
		nextAfter time.Duration // since notBefore; 0 for none
		counts    string        // total/current/due/overdue/expired/unknown, of the serving certificate
	}{
		{"long before", -day, v1alpha1.ReasonNotYetValid, 0, 0, "1/0/0/0/0/1"},
		{"before", -nano, v1alpha1.ReasonNotYetValid, 0, 0, "1/0/0/0/0/1"},
		{"from notBefore", 0, "", 0, 80 * day, "1/1/0/0/0/0"},
		{"before due", 80*day - nano, "", 0, 80 * day, "1/1/0/0/0/0"},
		{"due", 80 * day, v1alpha1.ReasonRotationDue, 80 * day, 90 * day, "1/0/1/0/0/0"},
		{"before overdue", 90*day - nano, v1alpha1.ReasonRotationDue, 80 * day, 90 * day, "1/0/1/0/0/0"},
		{"overdue", 90 * day, v1alpha1.ReasonRotationOverdue, 90 * day, 100*day + nano, "1/0/0/1/0/0"},
		{"valid through notAfter", 100 * day, v1alpha1.ReasonRotationOverdue, 90 * day, 100*day + nano, "1/0/0/1/0/0"},
		{"expired", 100*day + nano, v1alpha1.ReasonExpired, 100 * day, 0, "1/0/0/0/1/0"},
		{"long expired", 1000 * day, v1alpha1.ReasonExpired, 100 * day, 0, "1/0/0/0/1/0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), func(n *Node) {
				live(n, -50*day, 50*day)
				n.Observed.Certificates = n.Observed.Certificates[:2]
			})
			in.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored
			in.Now = born.Add(tc.after)
			verdict := Evaluate(in)
			severity := v1alpha1.SeverityViolation
			if tc.want == v1alpha1.ReasonRotationDue {
				severity = v1alpha1.SeverityInfo
			}
			switch {
			case tc.want == "":
				expectFindings(t, verdict)
			case tc.since == 0:
				expectFindings(t, verdict, ofNode(tc.want, severity, kubeletServing, ""))
			default:
				since := born.Add(tc.since).Format(time.RFC3339)
				expectFindings(t, verdict, ofNode(tc.want, severity, kubeletServing, since))
			}
			for _, f := range verdict.Findings {
				if f.NotAfter == nil || !f.NotAfter.Time.Equal(now.Add(50*day)) {
					t.Errorf("notAfter = %v", f.NotAfter)
				}
			}
			if got := certified(verdict.Certificates); got != tc.counts {
				t.Errorf("certificates = %s, want %s", got, tc.counts)
			}
			var next time.Time
			if tc.nextAfter != 0 {
				next = born.Add(tc.nextAfter)
			}
			if strings.HasPrefix(tc.want, "NotYet") {
				next = born
			}
			if !verdict.NextCheck.Equal(next) {
				t.Errorf("next check %v, want %v", verdict.NextCheck, next)
			}
		})
	}
}

// Which findings a certificate has at one moment of its life, for lifetimes and limits of every length.
func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		name                string
		notBefore, notAfter time.Duration
		expiry              v1alpha1.ExpirySpec
		want                string
		since               time.Duration
		message             string
	}{
		{
			name: "30-year CA in its first year", notBefore: -year, notAfter: 29 * year,
		}, {
			name: "30-year CA, six years before its end, is due", notBefore: -24 * year, notAfter: 6 * year,
			want: v1alpha1.ReasonRotationDue, since: 0,
		}, {
			name: "30-year CA, three years before its end, is overdue", notBefore: -27 * year, notAfter: 3 * year,
			want: v1alpha1.ReasonRotationOverdue, since: 0, message: "passed 90 % of its lifetime",
		}, {
			name: "200 years", notBefore: -100 * year, notAfter: 100 * year,
		}, {
			name: "3 minutes, with the default floor, are overdue from the start", notBefore: -time.Minute,
			notAfter: 2 * time.Minute, want: v1alpha1.ReasonRotationOverdue, since: -time.Minute,
			message: "Set spec.expiry.minimumRemaining to less than certificates live for, or to 0s",
		}, {
			name: "3 minutes, without a floor, are current", notBefore: -time.Minute, notAfter: 2 * time.Minute,
			expiry: v1alpha1.ExpirySpec{MinimumRemaining: &metav1.Duration{}},
		}, {
			name: "3 minutes, without a floor, are overdue at 90 %", notBefore: -170 * time.Second,
			notAfter: 10 * time.Second, expiry: v1alpha1.ExpirySpec{MinimumRemaining: &metav1.Duration{}},
			want: v1alpha1.ReasonRotationOverdue, since: -8 * time.Second, message: "passed 90 % of its lifetime",
		}, {
			name: "the floor comes before the percentage", notBefore: -3 * day, notAfter: 20 * time.Hour,
			want: v1alpha1.ReasonRotationOverdue, since: -4 * time.Hour,
			message: "less than 24h0m0s to live since 2026-03-01T08:00:00Z",
		}, {
			name: "overdue at 100 % is expired", notBefore: -100 * day, notAfter: 0,
			expiry: v1alpha1.ExpirySpec{OverdueAtLifetimePercent: 100, MinimumRemaining: &metav1.Duration{}},
			want:   v1alpha1.ReasonRotationDue, since: -20 * day,
		}, {
			name: "due no later than overdue", notBefore: -60 * day, notAfter: 40 * day,
			expiry: v1alpha1.ExpirySpec{WarnAtLifetimePercent: 70, OverdueAtLifetimePercent: 50},
			want:   v1alpha1.ReasonRotationOverdue, since: -10 * day,
		}, {
			name: "percentages out of range", notBefore: -85 * day, notAfter: 15 * day,
			expiry: v1alpha1.ExpirySpec{WarnAtLifetimePercent: -5, OverdueAtLifetimePercent: 1000},
			want:   v1alpha1.ReasonRotationDue, since: -5 * day,
		}, {
			name: "a negative floor is none", notBefore: -time.Minute, notAfter: 2 * time.Minute,
			expiry: v1alpha1.ExpirySpec{MinimumRemaining: &metav1.Duration{Duration: -time.Hour}},
		}, {
			name: "not valid yet, though shorter than the floor", notBefore: time.Hour, notAfter: 2 * time.Hour,
			want: v1alpha1.ReasonNotYetValid,
		}, {
			name: "ends before it begins", notBefore: time.Hour, notAfter: -time.Hour,
			want: v1alpha1.ReasonExpired, since: -time.Hour,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := aksSpec()
			spec.Expiry = tc.expiry
			verdict := Evaluate(input(spec, func(n *Node) { live(n, tc.notBefore, tc.notAfter) }))
			if tc.want == "" {
				expectFindings(t, verdict)
				return
			}
			since := now.Add(tc.since).Format(time.RFC3339)
			severity := v1alpha1.SeverityViolation
			switch tc.want {
			case v1alpha1.ReasonRotationDue:
				severity = v1alpha1.SeverityInfo
			case v1alpha1.ReasonNotYetValid:
				since = ""
			}
			expectFindings(t, verdict, ofNode(tc.want, severity, kubeletServing, since))
			if message := verdict.Findings[0].Message; !strings.Contains(message, tc.message) {
				t.Errorf("message %q does not say %q", message, tc.message)
			}
		})
	}
}

func TestWhichCertificatesAreJudged(t *testing.T) {
	expired := func(c *v1alpha1.CertificateStatus) { c.NotBefore, c.NotAfter = at(-100*day), at(-day) }
	const (
		dayAgo  = "2026-02-28T12:00:00Z"
		hourAgo = "2026-03-01T11:00:00Z"
	)
	unreachable := func(n *Node) {
		*n.Observed.Serving = v1alpha1.ServingStatus{
			Mode: v1alpha1.ServingModeUnknown, Outcome: v1alpha1.ProbeUnreachable, Since: at(-time.Hour),
		}
	}
	probeFailed := ofNode(v1alpha1.ReasonProbeFailed, v1alpha1.SeverityUnknown, kubeletServing, hourAgo)
	servingExpired := ofNode(v1alpha1.ReasonExpired, v1alpha1.SeverityViolation, kubeletServing, dayAgo)
	for _, tc := range []struct {
		name   string
		change func(*Node)
		want   []brief
		counts string
		next   string // purpose/node of the next expiration
	}{
		{
			name: "both healthy", change: func(n *Node) { client(n).NotAfter = at(300 * day) },
			counts: "2/2/0/0/0/0", next: "KubeletClient/node-1",
		}, {
			name: "serving in use", change: func(n *Node) { expired(served(n)); issued(n).SHA256 = sha("a1") },
			want: []brief{servingExpired}, counts: "2/1/0/0/1/0", next: "KubeletClient/node-1",
		}, {
			name: "serving issued, but not in use", change: func(n *Node) { expired(issued(n)); issued(n).SHA256 = sha("a0") },
			counts: "2/2/0/0/0/0", next: "KubeletClient/node-1",
		}, {
			name: "client", change: func(n *Node) { expired(client(n)) },
			want: []brief{ofNode(v1alpha1.ReasonExpired, v1alpha1.SeverityViolation, kubeletClient, dayAgo)}, counts: "2/1/0/0/1/0",
			next: "KubeletServing/node-1",
		}, {
			name: "no client certificate known", change: func(n *Node) { forgetClient(n); n.Observed.Kubelet = nil },
			want:   []brief{ofNode(v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, kubeletClient, "")},
			counts: "2/1/0/0/0/1", next: "KubeletServing/node-1",
		}, {
			name: "last seen, and expired while unreachable", change: func(n *Node) { unreachable(n); live(n, -100*day, -day) },
			want: []brief{servingExpired, probeFailed}, counts: "2/1/0/0/1/0", next: "KubeletClient/node-1",
		}, {
			name: "last seen, and nothing wrong then", change: unreachable,
			want: []brief{probeFailed}, counts: "2/1/0/0/0/1", next: "KubeletClient/node-1",
		}, {
			name: "last seen, and replaced since",
			change: func(n *Node) {
				unreachable(n)
				expired(served(n))
				issued(n).SHA256 = sha("a2")
			},
			want: []brief{probeFailed}, counts: "2/1/0/0/0/1", next: "KubeletClient/node-1",
		}, {
			name: "none served", change: func(n *Node) { alert(n); live(n, -100*day, -day) },
			want: []brief{
				ofNode(v1alpha1.ReasonServingCertificateMissing, v1alpha1.SeverityViolation, kubeletServing, hourAgo),
			}, counts: "1/1/0/0/0/0", next: "KubeletClient/node-1",
		}, {
			name: "never observed", change: func(n *Node) { n.Observed = nil },
			want: []brief{ofNode(v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, "", "")}, counts: "1/0/0/0/0/1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verdict := Evaluate(input(aksSpec(), tc.change))
			expectFindings(t, verdict, tc.want...)
			if got := certified(verdict.Certificates); got != tc.counts {
				t.Errorf("certificates = %s, want %s", got, tc.counts)
			}
			var next string
			if n := verdict.NextExpiration; n != nil {
				next = string(n.Certificate) + "/" + n.Node
			}
			if next != tc.next {
				t.Errorf("next expiration = %q, want %q", next, tc.next)
			}
		})
	}
}

func TestNextExpirationIsTheEarliest(t *testing.T) {
	var nodes []Node
	for i, name := range []string{"d", "b", "c", "a"} {
		node := healthy(name)
		live(&node, -10*day, []time.Duration{200 * day, 150 * day, 150 * day, -day}[i])
		nodes = append(nodes, node)
	}
	verdict := Evaluate(Input{Spec: aksSpec(), Nodes: nodes, Now: now})
	want := &v1alpha1.NextExpiration{Certificate: kubeletServing, Node: "b", NotAfter: at(150 * day)}
	if diff := cmp.Diff(want, verdict.NextExpiration); diff != "" {
		t.Errorf("next expiration (-want +got):\n%s", diff)
	}
}

// A stored finding equals the one that is worked out again: the API stores whole seconds.
func TestTimesAreWholeSeconds(t *testing.T) {
	verdict := Evaluate(input(aksSpec(), func(n *Node) {
		live(n, -95*day+time.Millisecond, 5*day+time.Nanosecond)
		pending(clientRequest(n), -time.Hour+time.Millisecond)
	}))
	if len(verdict.Findings) != 2 {
		t.Fatalf("findings: %v", briefs(verdict.Findings))
	}
	for _, f := range verdict.Findings {
		for _, stamp := range []*metav1.Time{f.Since, f.NotAfter} {
			if stamp != nil && stamp.Nanosecond() != 0 {
				t.Errorf("%s has the time %v", f.Reason, stamp.Time)
			}
		}
	}
}
