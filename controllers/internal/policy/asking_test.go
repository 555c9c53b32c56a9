// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/api/v1alpha1"
)

const getToken = "create serviceaccounts/token notafter-system/notafter-kubelet-reader"

// refuses makes the kubelet refuse, for want of the permissions.
func refuses(n *Node, missing ...string) {
	says(n, v1alpha1.KubeletAccessDenied, nil).MissingPermissions = missing
}

// forgetSettings makes the kubelet one that was never heard of.
func forgetSettings(n *Node) {
	n.Observed.Kubelet.ClientRotation, n.Observed.Kubelet.ServingBootstrap = "", ""
}

// serves makes the kubelet serve a certificate that does not verify.
func serves(n *Node, mode v1alpha1.ServingMode) { n.Observed.Serving.Mode = mode }

// permission is the finding that it is missing.
func permission(name string, severity v1alpha1.Severity) brief {
	return brief{v1alpha1.ReasonAccessDenied, severity, v1alpha1.SubjectPermission, name, "", hourAgo}
}

// verdicts are the conditions Compliant, CertificatesCurrent, ServingRotationEnabled and BootstrapHealthy, each as the reason for
// which it is not True.
func reasonsOf(verdict Verdict) string {
	var reasons []string
	for _, c := range verdict.Conditions {
		reason := c.Reason
		if c.Status == "True" {
			reason = "-"
		}
		reasons = append(reasons, reason)
	}
	return strings.Join(reasons, " ")
}

// A kubelet that could not be asked, of whose certificates all is known.
func TestAskedInVain(t *testing.T) {
	const (
		well    = "- - - -"
		failed  = "ProbeFailed - ProbeFailed ProbeFailed"
		pending = "NotObserved - NotObserved NotObserved"
		denied  = "AccessDenied - AccessDenied AccessDenied"
	)
	unobserved := ofNode(v1alpha1.ReasonNotObserved, notKnown, "", "")
	silent := ofNode(v1alpha1.ReasonProbeFailed, notKnown, "", hourAgo)
	justNow := func(n *Node) { n.Observed.Kubelet.Since = at(-askedInVain + 1) }
	for _, tc := range []struct {
		name    string
		change  func(*Node)
		serving v1alpha1.ServingRotation
		client  v1alpha1.ClientRotation
		want    []brief
		reasons string
		says    string
	}{
		{name: "not asked yet", change: func(n *Node) { n.Observed.Kubelet = nil }, want: []brief{unobserved}, reasons: pending},
		{
			name: "not asked yet, and it cannot be", change: func(n *Node) { n.Observed.Kubelet = nil; serves(n, v1alpha1.ServingModeSelfSigned) },
			serving: v1alpha1.ServingRotationIgnored, reasons: well,
		},
		{
			name: "does not answer", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil) }, want: []brief{silent}, reasons: failed,
			says: "though its serving certificate verifies: the error.",
		},
		{name: "did not answer this time", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil); justNow(n) }, reasons: well},
		{
			name: "did not answer the first time", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil); justNow(n); forgetSettings(n) },
			want: []brief{unobserved}, reasons: pending,
		},
		{
			name: "can be asked since just now", change: func(n *Node) {
				says(n, v1alpha1.KubeletFailed, nil)
				n.Observed.Serving.Since = at(-askedInVain + 1)
			}, reasons: well,
		},
		{
			name: "does not answer, only serving rotation required", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil) },
			client: v1alpha1.ClientRotationIgnored, want: []brief{silent}, reasons: failed,
		},
		{
			name: "does not answer, only client rotation required", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil) },
			serving: v1alpha1.ServingRotationIgnored, want: []brief{silent}, reasons: "ProbeFailed - - ProbeFailed",
		},
		{
			name: "does not answer, none required", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil) },
			serving: v1alpha1.ServingRotationIgnored, client: v1alpha1.ClientRotationIgnored, reasons: well,
		},
		{
			name: "may not be asked, none required", change: func(n *Node) { refuses(n, getToken) },
			serving: v1alpha1.ServingRotationIgnored, client: v1alpha1.ClientRotationIgnored, reasons: well,
		},
		{
			name: "self-signed, only client rotation required",
			change: func(n *Node) {
				says(n, v1alpha1.KubeletUnverified, nil)
				forgetSettings(n)
				serves(n, v1alpha1.ServingModeSelfSigned)
			},
			serving: v1alpha1.ServingRotationIgnored, reasons: well,
		},
		{
			name:   "verified, and not when it was asked",
			change: func(n *Node) { says(n, v1alpha1.KubeletUnverified, nil) }, want: []brief{silent}, reasons: failed,
		},
		{
			name: "verified by a certificate that it just got", change: func(n *Node) {
				says(n, v1alpha1.KubeletUnverified, nil)
				served(n).NotBefore = at(-time.Minute)
				served(n).SHA256, issued(n).SHA256 = sha("a2"), sha("a2")
			}, reasons: well,
		},
		{
			name: "unreachable, which another finding says", change: func(n *Node) {
				says(n, v1alpha1.KubeletFailed, nil)
				n.Observed.Serving.Mode, n.Observed.Serving.Outcome = v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable
				n.Observed.Serving.Since = at(-time.Hour)
			}, want: []brief{ofNode(v1alpha1.ReasonProbeFailed, notKnown, kubeletServing, hourAgo)},
			reasons: "ProbeFailed ProbeFailed ProbeFailed -",
		},
		{
			name: "no token", change: func(n *Node) { refuses(n, getToken) }, want: []brief{permission(getToken, notKnown)}, reasons: denied,
			says: "notafter may not " + getToken + ", which it needs to ask kubelets",
		},
		{name: "no token this time", change: func(n *Node) { refuses(n, getToken); justNow(n) }, reasons: well},
		{
			name: "no token the first time", change: func(n *Node) { refuses(n, getToken); justNow(n); forgetSettings(n) },
			want: []brief{unobserved}, reasons: pending,
		},
		{
			name: "no configuration", change: func(n *Node) { refuses(n, getConfigz) }, want: []brief{permission(getConfigz, notKnown)},
			reasons: denied, says: "node-1: the error. Grant",
		},
		{
			name: "no configuration, only serving rotation required", change: func(n *Node) { refuses(n, getConfigz) },
			client: v1alpha1.ClientRotationIgnored, want: []brief{permission(getConfigz, notKnown)}, reasons: "AccessDenied - AccessDenied -",
		},
		{
			name: "no configuration, only client rotation required", change: func(n *Node) { refuses(n, getConfigz) },
			serving: v1alpha1.ServingRotationDisabled, client: v1alpha1.ClientRotationRequired,
			want: []brief{
				ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, now.Add(-10*day).Format(time.RFC3339)),
				permission(getConfigz, notKnown),
			},
			reasons: "ServingRotationNotDisabled - ServingRotationNotDisabled AccessDenied",
		},
		{
			name:    "no configuration of a kubelet that knows no such permission, and metrics that show the settings",
			change:  func(n *Node) { refuses(n, getConfigz); n.KubeletVersion = "v1.32.9" },
			reasons: well,
		},
		{
			name:   "neither from a kubelet that knows only one of the permissions",
			change: func(n *Node) { refuses(n, getMetrics, getConfigz); n.KubeletVersion = "v1.32.9" },
			want:   []brief{permission(getMetrics, notKnown)}, reasons: denied,
		},
		{
			name: "no metrics, which leaves the settings known", change: func(n *Node) { refuses(n, getMetrics) },
			want: []brief{permission(getMetrics, notKnown)}, reasons: "AccessDenied - - AccessDenied",
		},
		{
			name: "no metrics, and the configuration was never read", change: func(n *Node) { refuses(n, getMetrics); forgetSettings(n) },
			want: []brief{permission(getMetrics, notKnown)}, reasons: denied,
		},
		{
			name: "neither", change: func(n *Node) { refuses(n, getMetrics, getConfigz) },
			want: []brief{permission(getConfigz, notKnown), permission(getMetrics, notKnown)}, reasons: denied,
		},
		{
			name: "nothing says which", change: func(n *Node) { refuses(n) },
			want: []brief{permission(getConfigz, notKnown), permission(getMetrics, notKnown)}, reasons: denied,
		},
		{
			name: "nobody asks, on purpose", change: func(n *Node) { says(n, v1alpha1.KubeletNotAsked, nil); forgetSettings(n) },
			want: []brief{permission(getBoth, v1alpha1.SeverityInfo)}, reasons: well,
			says: "the error. So that is judged only by what comes of it",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), tc.change)
			in.Spec.Nodes.ServingCertificate.Rotation, in.Spec.Nodes.ClientCertificate.Rotation = tc.serving, tc.client
			if tc.serving != "" {
				in.Spec.Nodes.ServingCertificate.Label = nil
			}
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			if got := reasonsOf(verdict); got != tc.reasons {
				t.Errorf("conditions are not True for %s, want %s", got, tc.reasons)
			}
			if tc.says != "" {
				expectMessage(t, verdict, tc.want[0].Reason, tc.says)
			}
		})
	}
}

// What a kubelet said before it could not be asked any more stands.
func TestEarlierAnswersStand(t *testing.T) {
	verdict := Evaluate(input(aksSpec(), func(n *Node) {
		refuses(n, getToken)
		n.Observed.Kubelet.ClientRotation = v1alpha1.KubeletSettingDisabled
	}))
	expectFindings(t, verdict, ofNode(v1alpha1.ReasonClientRotationDisabled, violates, kubeletClient, ""), permission(getToken, notKnown))
	if got := reasonsOf(verdict); got != "ClientRotationDisabled - AccessDenied ClientRotationDisabled" {
		t.Errorf("conditions are not True for %s", got)
	}
}

// A certificate that does not verify any more because it expired is reported as that.
func TestExpiredIsNotAskedInVain(t *testing.T) {
	verdict := Evaluate(input(aksSpec(), func(n *Node) {
		live(n, -year, -day)
		says(n, v1alpha1.KubeletUnverified, nil)
	}))
	expectFindings(t, verdict, ofNode(v1alpha1.ReasonExpired, violates, kubeletServing, now.Add(-day).Format(time.RFC3339)))
}

// Thousands of kubelets that refuse are one finding, and yet none of them is known to comply.
func TestRefusalsAreToldOnce(t *testing.T) {
	spec := aksSpec()
	in := Input{Spec: spec, Now: now, Nodes: []Node{healthy("well")}}
	for i := range 1000 {
		n := healthy(fmt.Sprintf("node-%03d", 999-i))
		refuses(&n, getConfigz)
		n.Observed.Kubelet.Since = at(-2*time.Hour + time.Duration(999-i)*time.Second)
		n.Observed.Kubelet.Message = "refused by " + n.Name
		if i == 500 { // and of this one, nothing else is known
			refuses(&n, getMetrics, getConfigz)
			forgetClient(&n)
		}
		in.Nodes = append(in.Nodes, n)
	}
	verdict := Evaluate(in)
	first := permission(getConfigz, notKnown)
	first.Since = now.Add(-2 * time.Hour).Format(time.RFC3339)
	expectFindings(t, verdict, first, permission(getMetrics, notKnown))
	if got := counted(verdict.Nodes); got != "1001/1/0/1000" {
		t.Errorf("nodes = %s", got)
	}
	if got := certified(verdict.Certificates); got != "2002/2001/0/0/0/1" {
		t.Errorf("certificates = %s", got)
	}
	if got := reasonsOf(verdict); got != "AccessDenied AccessDenied AccessDenied AccessDenied" {
		t.Errorf("conditions are not True for %s", got)
	}
	expectMessage(t, verdict, v1alpha1.ReasonAccessDenied, "is node-000: refused by node-000. Grant")
	want := "1000 of 1001 nodes could not be judged: AccessDenied on 1000; " +
		"2 sources of evidence could not be read: AccessDenied on 2"
	if diff := cmp.Diff(want, verdict.Conditions[0].Message); diff != "" {
		t.Error(diff)
	}
}

// The verdict changes at the moment from which a failure is believed.
func TestFailuresAreBelievedInTime(t *testing.T) {
	in := input(aksSpec(), func(n *Node) {
		says(n, v1alpha1.KubeletFailed, nil)
		n.Observed.Kubelet.Since = at(-time.Second)
	})
	verdict := Evaluate(in)
	if want := now.Add(askedInVain - time.Second); !verdict.NextCheck.Equal(want) {
		t.Errorf("next check %v, want %v", verdict.NextCheck, want)
	}
	in.Now = verdict.NextCheck
	expectFindings(t, Evaluate(in), ofNode(v1alpha1.ReasonProbeFailed, notKnown, "", now.Add(-time.Second).Format(time.RFC3339)))
}

// Where a client certificate is required, one of which nothing is known is not a good one.
func TestUnknownClientCertificate(t *testing.T) {
	node := func(reason, since string) brief { return ofNode(reason, notKnown, kubeletClient, since) }
	all := func(reason string) string { return strings.Join([]string{reason, reason, reason, reason}, " ") }
	for _, tc := range []struct {
		name    string
		change  func(*Node)
		want    brief
		reasons string
		says    string
	}{
		{
			name: "not asked yet", change: func(n *Node) { n.Observed.Kubelet = nil },
			want: node(v1alpha1.ReasonNotObserved, ""), reasons: all(v1alpha1.ReasonNotObserved), says: "the kubelet has not said it yet",
		},
		{
			name: "did not answer this time", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil).Since = at(0) },
			want:    node(v1alpha1.ReasonNotObserved, now.Format(time.RFC3339)),
			reasons: all(v1alpha1.ReasonNotObserved), says: "the kubelet has not said it yet",
		},
		{
			name: "may not be asked", change: func(n *Node) { refuses(n, getToken) },
			want: permission(getToken, notKnown), reasons: all(v1alpha1.ReasonAccessDenied), says: "the error. Grant",
		},
		{
			name: "may not be asked for metrics", change: func(n *Node) { refuses(n, getMetrics) },
			want: permission(getMetrics, notKnown), reasons: "AccessDenied AccessDenied - AccessDenied", says: "the error. Grant",
		},
		{
			name: "nobody asks", change: func(n *Node) { says(n, v1alpha1.KubeletNotAsked, nil) },
			want: permission(getBoth, notKnown), reasons: all(v1alpha1.ReasonAccessDenied), says: "Kubelets are not asked",
		},
		{
			name: "not verified", change: func(n *Node) { says(n, v1alpha1.KubeletUnverified, nil) },
			want: node(v1alpha1.ReasonProbeFailed, hourAgo), reasons: all(v1alpha1.ReasonProbeFailed), says: "could not be asked: the error.",
		},
		{
			name: "does not answer", change: func(n *Node) { says(n, v1alpha1.KubeletFailed, nil) },
			want: node(v1alpha1.ReasonProbeFailed, hourAgo), reasons: all(v1alpha1.ReasonProbeFailed), says: "could not be asked: the error.",
		},
		{
			name: "says infinity", change: func(n *Node) { says(n, v1alpha1.KubeletRead, nil) },
			want: node(v1alpha1.ReasonProbeFailed, hourAgo), reasons: "ProbeFailed ProbeFailed - -", says: "as if it had none that is valid",
		},
		{
			name:   "says infinity, and is too old to show its configuration",
			change: func(n *Node) { refuses(n, getConfigz); n.KubeletVersion = "v1.32.0" },
			want:   node(v1alpha1.ReasonProbeFailed, hourAgo), reasons: "ProbeFailed ProbeFailed - -", says: "as if it had none that is valid",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), func(n *Node) { forgetClient(n); tc.change(n) })
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want)
			expectMessage(t, verdict, tc.want.Reason, tc.says)
			if got := reasonsOf(verdict); got != tc.reasons {
				t.Errorf("conditions are not True for %s, want %s", got, tc.reasons)
			}
			if got := certified(verdict.Certificates); got != "2/1/0/0/0/1" {
				t.Errorf("certificates = %s", got)
			}
			in.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored
			in.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
			expectFindings(t, Evaluate(in))
		})
	}
}
