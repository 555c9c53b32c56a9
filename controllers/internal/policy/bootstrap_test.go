// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// joined is the request of a machine that got its first client certificate so long ago.
func joined(age time.Duration) Request {
	return Request{
		Name: "node-csr-1", SignerName: clientSigner, NodeName: "gone", Requestor: "system:bootstrap:abcdef",
		Stage: v1alpha1.StageIssued, Created: now.Add(-age - time.Minute), Decided: now.Add(-age),
		Registration: RegistrationNotSeen,
	}
}

func TestNodeNotRegistered(t *testing.T) {
	found := func(name string, since time.Duration) []brief {
		return []brief{{
			v1alpha1.ReasonNodeNotRegistered, v1alpha1.SeverityViolation, v1alpha1.SubjectSigningRequest, name,
			v1alpha1.PurposeKubeletClient, now.Add(-since).Format(time.RFC3339),
		}}
	}
	unsure := func(found []brief) []brief {
		found[0].Severity = v1alpha1.SeverityUnknown
		return found
	}
	changed := func(age time.Duration, change func(*Request)) []Request {
		r := joined(age)
		change(&r)
		return []Request{r}
	}
	servingOf := func(requestor string, created time.Duration) Request {
		return Request{
			Name: "csr-serving", SignerName: servingSigner, NodeName: "gone", Requestor: requestor,
			Stage: v1alpha1.StageIssued, Created: now.Add(-created), Decided: now.Add(-created),
		}
	}
	for _, tc := range []struct {
		name     string
		requests []Request
		want     []brief
		next     time.Duration
	}{
		{name: "a moment before", requests: []Request{joined(5*time.Minute - 1)}, next: 1},
		{name: "in time no more", requests: []Request{joined(5 * time.Minute)}, want: found("node-csr-1", 5*time.Minute)},
		{
			name: "issued nobody knows when", want: found("node-csr-1", 11*time.Minute),
			requests: changed(10*time.Minute, func(r *Request) { r.Decided = time.Time{} }),
		},
		{
			name: "by a cloud's own service", want: found("node-csr-1", time.Hour),
			requests: changed(time.Hour, func(r *Request) { r.Requestor = "aksService" }),
		},
		{name: "a renewal", requests: changed(time.Hour, func(r *Request) { r.Requestor = "system:node:gone" })},
		{name: "seen registered", requests: changed(time.Hour, func(r *Request) { r.Registration = RegistrationSeen })},
		{
			name: "perhaps registered before anybody watched", want: unsure(found("node-csr-1", time.Hour)),
			requests: changed(time.Hour, func(r *Request) { r.Registration = RegistrationUnknown }),
		},
		{name: "of nobody", requests: changed(time.Hour, func(r *Request) { r.NodeName = "" })},
		{
			name:     "its node asked for a serving certificate since",
			requests: []Request{joined(time.Hour), servingOf("system:node:gone", 30*time.Minute)},
		}, {
			name: "a node of that name asked for a serving certificate before", want: found("node-csr-1", time.Hour),
			requests: []Request{joined(time.Hour), servingOf("system:node:gone", 3*time.Hour)},
		}, {
			name: "somebody else asked for a serving certificate in its name", want: found("node-csr-1", time.Hour),
			requests: []Request{joined(time.Hour), servingOf("somebody", 30*time.Minute)},
		}, {
			name: "twice", want: found("node-csr-2", time.Hour),
			requests: append(changed(time.Hour, func(r *Request) { r.Name = "node-csr-2" }), joined(2*time.Hour)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), nil)
			in.Requests = tc.requests
			verdict := Evaluate(in)
			expectFindings(t, verdict, tc.want...)
			if tc.next != 0 && !verdict.NextCheck.Equal(now.Add(tc.next)) {
				t.Errorf("next check %v, want %v", verdict.NextCheck, now.Add(tc.next))
			}
			if tc.want != nil {
				expectMessage(t, verdict, v1alpha1.ReasonNodeNotRegistered, "a Node gone at", "kubelet's log", "delete the request")
			}
		})
	}
}

// stopped makes a node look as after a cluster was stopped: not ready for ten days, its client certificate expired.
func stopped(n *Node, expired time.Duration) {
	n.Ready, n.ReadySince = corev1.ConditionUnknown, now.Add(-10*day)
	client(n).NotBefore, client(n).NotAfter = at(-year), at(-expired)
}

// strandedPools are the findings of the reason NodePoolNeedsRecreation.
func strandedPools(verdict Verdict) (found []v1alpha1.Finding) {
	for _, f := range verdict.Findings {
		if f.Reason == v1alpha1.ReasonNodePoolNeedsRecreation {
			found = append(found, f)
		}
	}
	return found
}

func TestNodePoolNeedsRecreation(t *testing.T) {
	const reason = v1alpha1.ReasonNodePoolNeedsRecreation
	pool := func(label string, nodes, stranded int) Input {
		in := Input{Spec: aksSpec(), Now: now}
		for i := range nodes {
			n := healthy(fmt.Sprintf("node-%d", nodes-i))
			n.Ready = corev1.ConditionTrue
			if label != "" {
				n.Labels[label] = "system"
			}
			if i < stranded {
				stopped(&n, day)
			}
			in.Nodes = append(in.Nodes, n)
		}
		return in
	}
	for _, label := range []string{
		"agentpool", "kubernetes.azure.com/agentpool", "eks.amazonaws.com/nodegroup", "cloud.google.com/gke-nodepool",
	} {
		t.Run(label, func(t *testing.T) {
			verdict := Evaluate(pool(label, 8, 7))
			found := strandedPools(verdict)
			if len(found) != 1 || found[0].Subject != (v1alpha1.Subject{Kind: v1alpha1.SubjectNodePool, Name: "system"}) {
				t.Fatalf("found %+v", found)
			}
			fix := "new bootstrap token"
			if strings.HasSuffix(label, "agentpool") {
				fix = "Recreate the node pool: add one with the same settings"
			}
			expectMessage(t, verdict, reason, "7 of 8 selected nodes of node pool system ("+label+")",
				"node-2, node-3, node-4, node-5, node-6 and 2 more", "stopped", fix)
			if want := now.Add(-day); !found[0].NotAfter.Time.Equal(want) || !found[0].Since.Time.Equal(want) {
				t.Errorf("notAfter %v, since %v, want %v", found[0].NotAfter, found[0].Since, want)
			}
			if verdict.Findings[0].Reason != reason {
				t.Errorf("the cause comes after %s", verdict.Findings[0].Reason)
			}
		})
	}
	t.Run("no pool", func(t *testing.T) {
		found := strandedPools(Evaluate(pool("", 3, 2)))
		if len(found) != 2 || found[0].Subject != (v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: "node-2"}) {
			t.Errorf("found %+v", found)
		}
	})
}

func TestStrandedNode(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Node)
		want   int
	}{
		{"not ready", func(n *Node) { stopped(n, 1) }, 1},
		{"says that it is not ready", func(n *Node) { stopped(n, 1); n.Ready = corev1.ConditionFalse }, 1},
		{"valid to the last moment", func(n *Node) { stopped(n, 0) }, 0},
		{"ready", func(n *Node) { stopped(n, day); n.Ready = corev1.ConditionTrue }, 0},
		{"heard of since", func(n *Node) { stopped(n, day); n.Heard = now.Add(-day + clockSkew + 1) }, 0},
		{"heard of last when it expired", func(n *Node) { stopped(n, day); n.Heard = now.Add(-day + clockSkew) }, 1},
		{"never said whether it is ready", func(n *Node) { stopped(n, day); n.Ready = "" }, 0},
		{"not known to have a certificate", func(n *Node) {
			stopped(n, day)
			n.Observed.Certificates = n.Observed.Certificates[:2]
		}, 0},
		{"the kubelet named a later one", func(n *Node) {
			stopped(n, day)
			n.Observed.Kubelet = &v1alpha1.KubeletStatus{Outcome: v1alpha1.KubeletRead, ClientExpires: ptrAt(day)}
		}, 0},
		{"the one that the kubelet named expired", func(n *Node) {
			stopped(n, day)
			n.Observed.Certificates = n.Observed.Certificates[:2]
			n.Observed.Kubelet = &v1alpha1.KubeletStatus{Outcome: v1alpha1.KubeletFailed, ClientExpires: ptrAt(-day)}
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if found := strandedPools(Evaluate(input(aksSpec(), tc.change))); len(found) != tc.want {
				t.Errorf("found %+v, want %d", found, tc.want)
			}
		})
	}
}

// A Node is ready because its kubelet renewed a heartbeat, for which it needed a certificate.
func TestReadyNodeUsesAnotherCertificate(t *testing.T) {
	expired := func(ago time.Duration, ready corev1.ConditionStatus) Verdict {
		return Evaluate(input(aksSpec(), func(n *Node) {
			n.Ready = ready
			client(n).NotBefore, client(n).NotAfter = at(-year), at(-ago)
		}))
	}
	verdict := expired(1, corev1.ConditionTrue)
	expectFindings(t, verdict, brief{
		v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, v1alpha1.SubjectNode, "node-1", v1alpha1.PurposeKubeletClient,
		now.Add(-1).Format(time.RFC3339),
	})
	expectMessage(t, verdict, v1alpha1.ReasonNotObserved, "serial number b1", "yet the Node is ready", "delete the NodeCertificates")
	if got := certified(verdict.Certificates); got != "2/1/0/0/0/1" {
		t.Errorf("certificates = %s", got)
	}
	for _, c := range verdict.Conditions {
		want := metav1.ConditionTrue
		if c.Type == v1alpha1.ConditionCompliant || c.Type == v1alpha1.ConditionCertificatesCurrent {
			want = metav1.ConditionUnknown
		}
		if (c.Type == v1alpha1.ConditionServingRotationEnabled || want != metav1.ConditionTrue) && c.Status != want {
			t.Errorf("%s is %s, want %s", c.Type, c.Status, want)
		}
	}
	for name, tc := range map[string]struct {
		ago   time.Duration
		ready corev1.ConditionStatus
		want  string
	}{
		"the last moment":  {0, corev1.ConditionTrue, v1alpha1.ReasonRotationOverdue},
		"ready or not":     {day, "", v1alpha1.ReasonExpired},
		"no longer ready":  {day, corev1.ConditionUnknown, v1alpha1.ReasonExpired},
		"not ready at all": {day, corev1.ConditionFalse, v1alpha1.ReasonExpired},
	} {
		t.Run(name, func(t *testing.T) {
			verdict := expired(tc.ago, tc.ready)
			if f := verdict.Findings[len(verdict.Findings)-1]; f.Reason != tc.want || f.Certificate != v1alpha1.PurposeKubeletClient {
				t.Errorf("found %+v, want %s", f, tc.want)
			}
		})
	}
}

// Who reported with another certificate since does not need recreation because its machine is restarted.
func TestRestartedNodeUsesAnotherCertificate(t *testing.T) {
	for _, ready := range []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionUnknown} {
		verdict := Evaluate(input(aksSpec(), func(n *Node) {
			stopped(n, 90*day)
			n.Ready, n.ReadySince, n.Heard = ready, now.Add(-2*time.Minute), now.Add(-10*time.Minute)
		}))
		expectFindings(t, verdict, brief{
			v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, v1alpha1.SubjectNode, "node-1", v1alpha1.PurposeKubeletClient,
			now.Add(-90 * day).Format(time.RFC3339),
		})
		expectMessage(t, verdict, v1alpha1.ReasonNotObserved,
			"yet the kubelet has reported to the API server since: it was renewed while")
	}
}

func TestBootstrapTokenExpired(t *testing.T) {
	evaluate := func(mode v1alpha1.Watch, token Token) Verdict {
		in := input(aksSpec(), nil)
		in.Spec.Nodes.BootstrapTokens = v1alpha1.BootstrapTokensSpec{
			Mode: mode, WarnBefore: &metav1.Duration{Duration: time.Hour},
		}
		token.Secret, token.ID = "kube-system/bootstrap-token-abcdef", "abcdef"
		in.Tokens = []Token{token}
		return Evaluate(in)
	}
	for _, tc := range []struct {
		name     string
		token    Token
		severity v1alpha1.Severity
		since    time.Duration
		next     time.Duration
		says     string
	}{
		{name: "never expires"},
		{name: "in time", token: Token{Expires: now.Add(time.Hour + 1)}, next: 1},
		{
			name: "soon", token: Token{Expires: now.Add(time.Hour)}, severity: v1alpha1.SeverityInfo, since: 1, next: time.Hour,
			says: "abcdef expires at 2026-03-01T13:00:00Z",
		}, {
			name: "the last moment", token: Token{Expires: now.Add(1)}, severity: v1alpha1.SeverityInfo,
			since: -time.Hour, next: 1,
		}, {
			name: "now", token: Token{Expires: now}, severity: v1alpha1.SeverityViolation, since: 1,
			says: "abcdef expired at 2026-03-01T12:00:00Z",
		},
		{name: "long ago", token: Token{Expires: now.Add(-day)}, severity: v1alpha1.SeverityViolation, since: -day},
		{
			name: "no time", token: Token{Malformed: "tomorrow"}, severity: v1alpha1.SeverityViolation,
			says: `no RFC 3339 time ("tomorrow")`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verdict := evaluate(v1alpha1.WatchWatched, tc.token)
			if tc.next != 0 && !verdict.NextCheck.Equal(now.Add(tc.next)) {
				t.Errorf("next check %v, want %v", verdict.NextCheck, now.Add(tc.next))
			}
			expectFindings(t, evaluate(v1alpha1.WatchIgnored, tc.token))
			if tc.severity == "" {
				expectFindings(t, verdict)
				return
			}
			want := brief{
				Reason: v1alpha1.ReasonBootstrapTokenExpired, Severity: tc.severity, Kind: v1alpha1.SubjectSecret,
				Name: "kube-system/bootstrap-token-abcdef",
			}
			if tc.since != 0 {
				want.Since = now.Add(tc.since).Format(time.RFC3339)
			}
			expectFindings(t, verdict, want)
			expectMessage(t, verdict, v1alpha1.ReasonBootstrapTokenExpired, tc.says, "kubeadm token create")
		})
	}
}
