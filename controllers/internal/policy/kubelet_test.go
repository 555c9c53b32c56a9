// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// says makes the kubelet say when its client certificate expires; nil is not at all.
func says(n *Node, outcome v1alpha1.KubeletOutcome, expires *metav1.Time) *v1alpha1.KubeletStatus {
	n.Observed.Kubelet = &v1alpha1.KubeletStatus{
		Outcome: outcome, Since: at(-time.Hour), ClientRotation: v1alpha1.KubeletSettingEnabled,
		ServingBootstrap: v1alpha1.KubeletSettingEnabled, ClientExpires: expires,
	}
	if outcome != v1alpha1.KubeletRead {
		n.Observed.Kubelet.Message = "the error"
	}
	return n.Observed.Kubelet
}

func forgetClient(n *Node) { n.Observed.Certificates = n.Observed.Certificates[:2] }

func TestKubeletSettings(t *testing.T) {
	off := func(n *Node) {
		k := says(n, v1alpha1.KubeletRead, nil)
		k.ClientRotation, k.ServingBootstrap = v1alpha1.KubeletSettingDisabled, v1alpha1.KubeletSettingDisabled
		k.TLSCertFile = "/etc/kubernetes/certs/kubeletserver.crt"
	}
	client := ofNode(v1alpha1.ReasonClientRotationDisabled, violates, kubeletClient, "")
	serving := ofNode(v1alpha1.ReasonServerTLSBootstrapDisabled, violates, kubeletServing, "")
	for _, tc := range []struct {
		name    string
		change  func(*Node)
		client  v1alpha1.ClientRotation
		serving v1alpha1.ServingRotation
		want    []brief
	}{
		{name: "both off, by default", change: off, want: []brief{client, serving}},
		{name: "both off, client ignored", change: off, client: v1alpha1.ClientRotationIgnored, want: []brief{serving}},
		{name: "both off, serving ignored", change: off, serving: v1alpha1.ServingRotationIgnored, want: []brief{client}},
		{
			name: "both off, and nothing known of the certificate", change: func(n *Node) { off(n); forgetClient(n) },
			want: []brief{client, serving},
		},
		{
			name:   "known from an earlier answer",
			want:   []brief{client, serving, ofNode(v1alpha1.ReasonProbeFailed, notKnown, "", hourAgo)},
			change: func(n *Node) { off(n); n.Observed.Kubelet.Outcome = v1alpha1.KubeletFailed },
		},
		{name: "both on", change: func(n *Node) { says(n, v1alpha1.KubeletRead, nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := aksSpec()
			spec.Nodes.ClientCertificate.Rotation = tc.client
			if tc.serving != "" {
				spec.Nodes.ServingCertificate.Rotation = tc.serving
			}
			expectFindings(t, Evaluate(input(spec, tc.change)), tc.want...)
		})
	}
	verdict := Evaluate(input(aksSpec(), off))
	expectMessage(t, verdict, v1alpha1.ReasonServerTLSBootstrapDisabled, "in /etc/kubernetes/certs/kubeletserver.crt.",
		"on AKS, replace the node, or, if all of its node pool are alike, upgrade Kubernetes")
	expectMessage(t, verdict, v1alpha1.ReasonClientRotationDisabled, "on AKS, replace the node.")
	expectConditions(t, verdict, "Compliant=False/ClientRotationDisabled", "CertificatesCurrent=True/AsExpected",
		"ServingRotationEnabled=False/ServerTLSBootstrapDisabled", "BootstrapHealthy=False/ClientRotationDisabled")
}

func TestRenewalFailing(t *testing.T) {
	risen := func(after time.Duration) *v1alpha1.RenewalStatus {
		return &v1alpha1.RenewalStatus{Errors: new(int64(3)), Rose: ptrAt(after)}
	}
	client := ofNode(v1alpha1.ReasonRenewalFailing, violates, kubeletClient, "")
	serving := ofNode(v1alpha1.ReasonRenewalFailing, violates, kubeletServing, "")
	const issued = -10*day + 5*time.Minute // what a signer backdates
	for _, tc := range []struct {
		name     string
		change   func(*Node, *v1alpha1.KubeletStatus)
		rotation v1alpha1.ServingRotation
		want     []brief
	}{
		{name: "never rose", change: func(_ *Node, k *v1alpha1.KubeletStatus) {
			k.ClientRenewal = &v1alpha1.RenewalStatus{Errors: new(int64(3))}
		}},
		{name: "client", change: func(_ *Node, k *v1alpha1.KubeletStatus) { k.ClientRenewal = risen(-day) }, want: []brief{client}},
		{name: "serving", change: func(_ *Node, k *v1alpha1.KubeletStatus) { k.ServingRenewal = risen(-day) }, want: []brief{serving}},
		{
			name: "serving, ignored", rotation: v1alpha1.ServingRotationIgnored,
			change: func(_ *Node, k *v1alpha1.KubeletStatus) { k.ServingRenewal = risen(-day) },
		},
		{name: "until it was renewed", change: func(_ *Node, k *v1alpha1.KubeletStatus) {
			k.ClientRenewal, k.ServingRenewal = risen(issued), risen(issued)
		}},
		{name: "right after it was renewed", change: func(_ *Node, k *v1alpha1.KubeletStatus) {
			k.ClientRenewal, k.ServingRenewal = risen(issued+time.Second), risen(issued+time.Second)
		}, want: []brief{client, serving}},
		{name: "no one knows when it was issued", change: func(n *Node, k *v1alpha1.KubeletStatus) {
			forgetClient(n)
			k.ClientRenewal = risen(-20 * day)
		}, want: []brief{client}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := aksSpec()
			if tc.rotation != "" {
				spec.Nodes.ServingCertificate.Rotation = tc.rotation
			}
			expectFindings(t, Evaluate(input(spec, func(n *Node) {
				tc.change(n, says(n, v1alpha1.KubeletRead, ptrAt(year-10*day)))
			})), tc.want...)
		})
	}
}

// Which client certificate is judged, and by what lifetime. The remembered one lives from -10 to 355 days.
func TestClientCertificateInUse(t *testing.T) {
	stale := func(n *Node) { client(n).NotBefore, client(n).NotAfter = at(-year-10*day), at(-10*day) }
	overdue := func(since time.Duration) brief {
		return ofNode(v1alpha1.ReasonRotationOverdue, violates, kubeletClient, now.Add(since).Format(time.RFC3339))
	}
	for _, tc := range []struct {
		name   string
		change func(*Node)
		want   []brief
		counts string
		says   string
	}{
		{name: "the remembered one", change: func(n *Node) { says(n, v1alpha1.KubeletRead, ptrAt(year-10*day+10*time.Second)) }, counts: "2/2/0/0/0/0"},
		{
			name:   "the remembered one is of long ago",
			change: func(n *Node) { stale(n); says(n, v1alpha1.KubeletRead, ptrAt(200*day)) }, counts: "2/2/0/0/0/0",
		},
		{
			name:   "the kubelet says another, past 90 % of a learnt lifetime",
			change: func(n *Node) { stale(n); says(n, v1alpha1.KubeletRead, ptrAt(30*day)) }, counts: "2/1/0/0/0/1",
			want: []brief{ofNode(v1alpha1.ReasonNotObserved, notKnown, kubeletClient, now.Add(30*day-year/10).Format(time.RFC3339))},
			says: "it passed 90 % of that at 2026-02-23T",
		},
		{
			name:   "the kubelet says another, past 90 % of a learnt lifetime, and close to its end",
			change: func(n *Node) { stale(n); says(n, v1alpha1.KubeletRead, ptrAt(day)) }, counts: "2/1/0/1/0/0",
			want: []brief{overdue(0)}, says: "judged by spec.expiry.minimumRemaining only",
		},
		{
			name:   "nothing was remembered, close to its end",
			change: func(n *Node) { forgetClient(n); says(n, v1alpha1.KubeletRead, ptrAt(day)) }, counts: "2/1/0/1/0/0",
			want: []brief{overdue(0)}, says: "judged by spec.expiry.minimumRemaining only",
		},
		{
			name:   "nothing was remembered, not yet close to its end",
			change: func(n *Node) { forgetClient(n); says(n, v1alpha1.KubeletRead, ptrAt(day+1)) }, counts: "2/2/0/0/0/0",
		},
		{
			name:   "expired, as the kubelet said",
			change: func(n *Node) { forgetClient(n); says(n, v1alpha1.KubeletRead, ptrAt(-1)) }, counts: "2/1/0/0/1/0",
			want: []brief{ofNode(v1alpha1.ReasonExpired, violates, kubeletClient, "2026-03-01T11:59:59Z")},
			says: "The client certificate that the kubelet says it uses expired at",
		},
		{
			name:   "the kubelet still uses an older one than was issued",
			change: func(n *Node) { says(n, v1alpha1.KubeletRead, ptrAt(time.Hour)) }, counts: "2/1/0/1/0/0",
			want: []brief{overdue(time.Hour - day)},
		},
		{
			name:   "another was issued since the kubelet could be asked",
			change: func(n *Node) { says(n, v1alpha1.KubeletFailed, ptrAt(time.Hour)) }, counts: "2/2/0/0/0/0",
			want: []brief{ofNode(v1alpha1.ReasonProbeFailed, notKnown, "", hourAgo)},
		},
		{
			name:   "remembered, expired, and the kubelet could not be asked",
			change: func(n *Node) { stale(n); says(n, v1alpha1.KubeletFailed, nil) }, counts: "2/1/0/0/1/0",
			want: []brief{
				ofNode(v1alpha1.ReasonExpired, violates, kubeletClient, now.Add(-10*day).Format(time.RFC3339)),
				ofNode(v1alpha1.ReasonProbeFailed, notKnown, "", hourAgo),
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verdict := Evaluate(input(aksSpec(), tc.change))
			expectFindings(t, verdict, tc.want...)
			if got := certified(verdict.Certificates); got != tc.counts {
				t.Errorf("certificates = %s, want %s", got, tc.counts)
			}
			for _, f := range verdict.Findings {
				if !strings.Contains(f.Message, tc.says) {
					t.Errorf("message %q does not say %q", f.Message, tc.says)
				}
			}
		})
	}
}

// A kubelet that got a certificate and could not store it falls silent when the one that it uses expires.
func TestIssuedClientCertificateThatWasNotStored(t *testing.T) {
	const ago = time.Minute
	silent := func(n *Node) {
		says(n, v1alpha1.KubeletAccessDenied, ptrAt(-ago))
		n.Ready, n.ReadySince, n.Heard = corev1.ConditionUnknown, now, now.Add(-2*ago)
	}
	since := now.Add(-ago).Format(time.RFC3339)
	verdict := Evaluate(input(aksSpec(), silent))
	mayNot := func(permission string) brief {
		return brief{v1alpha1.ReasonAccessDenied, notKnown, v1alpha1.SubjectPermission, permission, "", hourAgo}
	}
	expectFindings(t, verdict,
		ofNode(v1alpha1.ReasonNodePoolNeedsRecreation, violates, kubeletClient, now.Format(time.RFC3339)),
		ofNode(v1alpha1.ReasonExpired, violates, kubeletClient, since),
		mayNot("get nodes/configz"), mayNot("get nodes/metrics"))
	expectMessage(t, verdict, v1alpha1.ReasonExpired,
		"although another one (serial number b1) was issued to it, valid until 2027-02-19T")
	if got := certified(verdict.Certificates); got != "2/1/0/0/1/0" {
		t.Errorf("certificates = %s", got)
	}
	for name, change := range map[string]func(*Node){
		"not expired yet":           func(n *Node) { n.Observed.Kubelet.ClientExpires = ptrAt(0) },
		"ready":                     func(n *Node) { n.Ready, n.Heard = corev1.ConditionTrue, time.Time{} },
		"heard of since":            func(n *Node) { n.Observed.Kubelet.ClientExpires = ptrAt(-day) },
		"nobody says whether ready": func(n *Node) { n.Ready = "" },
	} {
		t.Run(name, func(t *testing.T) {
			expectFindings(t, Evaluate(input(aksSpec(), func(n *Node) { silent(n); change(n) })),
				mayNot("get nodes/configz"), mayNot("get nodes/metrics"))
		})
	}
}

// The lifetime is learnt from the newest certificate of any node, in whatever order they come.
func TestLifetimeIsLearntFromOthers(t *testing.T) {
	asking, older, newer := healthy("a"), healthy("b"), healthy("c")
	forgetClient(&asking)
	says(&asking, v1alpha1.KubeletRead, ptrAt(15*day))
	client(&older).NotBefore, client(&older).NotAfter = at(-20*day), at(-20*day+year)
	client(&newer).NotBefore, client(&newer).NotAfter = at(-5*day), at(95*day)
	for _, nodes := range [][]Node{{asking, older, newer}, {newer, older, asking}, {older, newer, asking}} {
		verdict := Evaluate(Input{Spec: aksSpec(), Nodes: nodes, Now: now})
		expectFindings(t, verdict, brief{
			v1alpha1.ReasonRotationDue, v1alpha1.SeverityInfo, v1alpha1.SubjectNode, "a", kubeletClient,
			now.Add(-5 * day).Format(time.RFC3339),
		})
		expectMessage(t, verdict, v1alpha1.ReasonRotationDue, "same signer, 2400h0m0s.")
	}
}

// What is learnt from others is a guess, which informs at the most: signers are set to issue for longer, or for less long.
func TestGuessedLifetime(t *testing.T) {
	for _, tc := range []struct {
		name             string
		lifetime, remain time.Duration
		want             []brief
	}{
		{name: "longer than the others", lifetime: 30 * day, remain: 200 * day},
		{name: "shorter than the others, and fresh", lifetime: year, remain: 29 * day, want: []brief{{
			v1alpha1.ReasonNotObserved, notKnown, v1alpha1.SubjectNode, "a", kubeletClient,
			now.Add(29*day - year/10).Format(time.RFC3339),
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asking, other := healthy("a"), healthy("b")
			forgetClient(&asking)
			says(&asking, v1alpha1.KubeletRead, ptrAt(tc.remain))
			client(&other).NotBefore, client(&other).NotAfter = at(-day), at(tc.lifetime-day)
			verdict := Evaluate(Input{Spec: aksSpec(), Nodes: []Node{asking, other}, Now: now})
			expectFindings(t, verdict, tc.want...)
			first := "b"
			if tc.remain < tc.lifetime {
				first = "a"
			}
			if verdict.NextExpiration == nil || verdict.NextExpiration.Node != first {
				t.Errorf("next expiration %+v, want one of %s", verdict.NextExpiration, first)
			}
		})
	}
}
