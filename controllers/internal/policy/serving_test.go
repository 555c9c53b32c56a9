// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	hourAgo    = "2026-03-01T11:00:00Z"
	tenDaysAgo = "2026-02-19T12:00:00Z"

	violates = v1alpha1.SeverityViolation
	notKnown = v1alpha1.SeverityUnknown
	informs  = v1alpha1.SeverityInfo
)

func mode(m v1alpha1.ServingMode) func(*Node) {
	return func(n *Node) { n.Observed.Serving.Mode = m }
}

// noneEver is a kubelet that answers with the alert, and never had a certificate.
func noneEver(n *Node, age time.Duration) {
	alert(n)
	n.Created = now.Add(-age)
	n.Observed.Certificates = n.Observed.Certificates[2:]
	pending(servingRequest(n), -time.Minute)
}

// unaddressed is a kubelet that nobody can ask, and that never asked for a certificate, because its Node has no address.
func unaddressed(n *Node) {
	alert(n)
	n.Observed.Serving.Mode, n.Observed.Serving.Outcome = v1alpha1.ServingModeUnknown, v1alpha1.ProbeNoAddress
	n.HasAddress, n.Observed.Certificates = false, n.Observed.Certificates[2:]
	n.Observed.SigningRequests = n.Observed.SigningRequests[:1]
}

// What each kubelet's handshake means under each of the three expectations of rotation.
func TestServingCertificate(t *testing.T) {
	missing := ofNode(v1alpha1.ReasonServingCertificateMissing, violates, kubeletServing, hourAgo)
	unlabelled := ofNode(v1alpha1.ReasonServingLabelMissing, violates, kubeletServing, "")
	notDisabled := ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, tenDaysAgo)
	notObserved := ofNode(v1alpha1.ReasonNotObserved, notKnown, "", "")
	unprobed := ofNode(v1alpha1.ReasonProbeFailed, notKnown, kubeletServing, hourAgo)
	for _, tc := range []struct {
		name                        string
		change                      func(*Node)
		required, disabled, ignored []brief
	}{
		{
			name: "signed by the cluster", change: nil,
			disabled: []brief{notDisabled},
		}, {
			name: "signed by the cluster, without the label", change: func(n *Node) { n.Labels = nil },
			required: []brief{unlabelled},
			disabled: []brief{notDisabled},
		}, {
			name: "signed by itself", change: mode(v1alpha1.ServingModeSelfSigned),
			required: []brief{ofNode(v1alpha1.ReasonServingCertificateSelfSigned, violates, kubeletServing, tenDaysAgo)},
			disabled: []brief{ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, "")},
		}, {
			name: "signed by itself, without the label, with another name",
			change: func(n *Node) {
				mode(v1alpha1.ServingModeSelfSigned)(n)
				n.Labels = map[string]string{labelKey: "other"}
				n.Observed.Serving.NameMatch = v1alpha1.NameMismatches
			},
			required: []brief{
				ofNode(v1alpha1.ReasonServingCertificateSelfSigned, violates, kubeletServing, tenDaysAgo),
				unlabelled,
			},
		}, {
			name: "signed by another CA", change: mode(v1alpha1.ServingModeExternallyManaged),
			required: []brief{ofNode(v1alpha1.ReasonServingCertificateUntrusted, violates, kubeletServing, tenDaysAgo)},
			disabled: []brief{ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, "")},
		}, {
			name: "another name", change: func(n *Node) { n.Observed.Serving.NameMatch = v1alpha1.NameMismatches },
			required: []brief{ofNode(v1alpha1.ReasonServingCertificateNameMismatch, violates, kubeletServing, "")},
			disabled: []brief{notDisabled},
		}, {
			name: "another name, of nobody knows whom", change: func(n *Node) {
				mode(v1alpha1.ServingModeUnknown)(n)
				n.Observed.Serving.NameMatch = v1alpha1.NameMismatches
			},
			required: []brief{ofNode(v1alpha1.ReasonProbeFailed, notKnown, kubeletServing, tenDaysAgo)},
			disabled: []brief{ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, ""),
				ofNode(v1alpha1.ReasonProbeFailed, notKnown, kubeletServing, tenDaysAgo)},
		}, {
			name: "none any more", change: func(n *Node) { alert(n); n.Labels = nil },
			required: []brief{missing, unlabelled}, disabled: []brief{missing}, ignored: []brief{missing},
		}, {
			name: "none ever, on an old node", change: func(n *Node) { noneEver(n, 5*time.Minute); n.Labels = nil },
			required: []brief{missing, unlabelled}, disabled: []brief{missing}, ignored: []brief{missing},
		}, {
			name: "none ever, on a new node", change: func(n *Node) { noneEver(n, 5*time.Minute-1); n.Labels = nil },
			required: []brief{unlabelled, notObserved}, disabled: []brief{notObserved}, ignored: []brief{notObserved},
		}, {
			name: "issued and not served yet, on a new node",
			change: func(n *Node) {
				certificates := n.Observed.Certificates
				noneEver(n, time.Minute)
				n.Observed.Certificates = certificates[1:]
				n.Labels = nil
			},
			required: []brief{unlabelled, notObserved}, disabled: []brief{notObserved}, ignored: []brief{notObserved},
		}, {
			name: "none, and none asked for",
			change: func(n *Node) {
				alert(n)
				n.Labels = nil
				n.Observed.SigningRequests = n.Observed.SigningRequests[:1]
			},
			required: []brief{
				missing, ofNode(v1alpha1.ReasonServingRequestMissing, violates, kubeletServing, hourAgo), unlabelled,
			},
			disabled: []brief{missing}, ignored: []brief{missing},
		}, {
			name: "no address, and none asked for", change: unaddressed,
			required: []brief{ofNode(v1alpha1.ReasonServingRequestMissing, violates, kubeletServing, hourAgo), unprobed},
			disabled: []brief{
				ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, ""), unprobed,
			},
			ignored: []brief{unprobed},
		}, {
			name:     "no address, and none asked for, on a new node",
			change:   func(n *Node) { unaddressed(n); n.Created = now.Add(-5*time.Minute + 1) },
			required: []brief{unprobed},
			disabled: []brief{
				ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, ""), unprobed,
			},
			ignored: []brief{unprobed},
		}, {
			name:     "no kubelet port",
			change:   func(n *Node) { unaddressed(n); n.HasAddress = true },
			required: []brief{unprobed},
			disabled: []brief{
				ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, ""), unprobed,
			},
			ignored: []brief{unprobed},
		}, {
			name: "none, and none asked for, on a new node",
			change: func(n *Node) {
				noneEver(n, time.Minute)
				n.Observed.SigningRequests = nil
			},
			required: []brief{notObserved},
			disabled: []brief{ofNode(v1alpha1.ReasonServingRotationNotDisabled, violates, kubeletServing, ""), notObserved},
			ignored:  []brief{notObserved},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for rotation, want := range map[v1alpha1.ServingRotation][]brief{
				v1alpha1.ServingRotationRequired: tc.required, v1alpha1.ServingRotationDisabled: tc.disabled,
				v1alpha1.ServingRotationIgnored: tc.ignored, "": tc.required,
			} {
				t.Run(string(rotation), func(t *testing.T) {
					spec := aksSpec()
					spec.Nodes.ServingCertificate.Rotation = rotation
					expectFindings(t, Evaluate(input(spec, tc.change)), want...)
				})
			}
		})
	}
}

func TestNewNodeIsGivenTime(t *testing.T) {
	in := input(aksSpec(), func(n *Node) { noneEver(n, time.Minute) })
	verdict := Evaluate(in)
	expectConditions(t, verdict, "Compliant=Unknown/NotObserved", "CertificatesCurrent=Unknown/NotObserved",
		"ServingRotationEnabled=Unknown/NotObserved", "BootstrapHealthy=Unknown/NotObserved")
	if want := now.Add(4 * time.Minute); !verdict.NextCheck.Equal(want) {
		t.Errorf("next check %v, want %v", verdict.NextCheck, want)
	}
	in.Now = verdict.NextCheck
	expectFindings(t, Evaluate(in),
		ofNode(v1alpha1.ReasonServingCertificateMissing, violates, kubeletServing, hourAgo),
		ofNode(v1alpha1.ReasonSigningRequestPending, violates, kubeletServing, "2026-03-01T11:59:00Z"))
}

func TestServingMessages(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Node)
		reason string
		says   []string
	}{
		{
			"missing, request pending", func(n *Node) { alert(n); pending(servingRequest(n), -time.Minute) },
			v1alpha1.ReasonServingCertificateMissing,
			[]string{"10.0.0.4:10250", "internal_error", "2027-02-19T12:00:00Z", "kubectl certificate approve csr-serving"},
		}, {
			"missing, request approved", func(n *Node) { alert(n); servingRequest(n).Stage = v1alpha1.StageApproved },
			v1alpha1.ReasonServingCertificateMissing, []string{"csr-serving is approved and not signed"},
		}, {
			"missing, request denied", func(n *Node) { alert(n); servingRequest(n).Stage = v1alpha1.StageDenied },
			v1alpha1.ReasonServingCertificateMissing, []string{"csr-serving was refused"},
		}, {
			"missing, request deleted", func(n *Node) { alert(n); servingRequest(n).Stage = v1alpha1.StageDeleted },
			v1alpha1.ReasonServingCertificateMissing, []string{"csr-serving, stage Deleted"},
		}, {
			"no request, no address",
			func(n *Node) {
				alert(n)
				n.HasAddress, n.Observed.SigningRequests = false, nil
			},
			v1alpha1.ReasonServingRequestMissing, []string{"no IP address in status.addresses", "--node-ip"},
		}, {
			"no address to ask at", unaddressed, v1alpha1.ReasonServingRequestMissing,
			[]string{"The kubelet has filed no CertificateSigningRequest", "no IP address in status.addresses", "--node-ip"},
		}, {
			"no request", func(n *Node) { alert(n); n.Observed.SigningRequests = nil },
			v1alpha1.ReasonServingRequestMissing, []string{"serverTLSBootstrap"},
		}, {
			"self-signed", mode(v1alpha1.ServingModeSelfSigned), v1alpha1.ReasonServingCertificateSelfSigned,
			[]string{"on AKS, node pools get it with their first upgrade to Kubernetes 1.27 or newer."},
		}, {
			"untrusted",
			func(n *Node) {
				mode(v1alpha1.ServingModeExternallyManaged)(n)
				n.Observed.Serving.Message = "x509: certificate signed by unknown authority"
			},
			v1alpha1.ReasonServingCertificateUntrusted, []string{`issuer "CN=ca"`, "unknown authority"},
		}, {
			"other name",
			func(n *Node) {
				n.Observed.Serving.NameMatch = v1alpha1.NameMismatches
				served(n).IPAddresses, served(n).DNSNames = []string{"10.9.9.9"}, []string{"node-1"}
			},
			v1alpha1.ReasonServingCertificateNameMismatch, []string{"it names 10.9.9.9, node-1"},
		}, {
			"no name",
			func(n *Node) {
				n.Observed.Serving.NameMatch = v1alpha1.NameMismatches
				served(n).IPAddresses = nil
			},
			v1alpha1.ReasonServingCertificateNameMismatch, []string{"it names nothing"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			expectMessage(t, Evaluate(input(aksSpec(), tc.change)), tc.reason, tc.says...)
		})
	}
}

// expectMessage expects a finding of that reason whose message says all of that.
func expectMessage(t *testing.T, verdict Verdict, reason string, says ...string) {
	t.Helper()
	for _, f := range verdict.Findings {
		if f.Reason != reason {
			continue
		}
		for _, part := range says {
			if !strings.Contains(f.Message, part) {
				t.Errorf("the message of %s does not say %q:\n%s", reason, part, f.Message)
			}
		}
		return
	}
	t.Errorf("no finding %s in %v", reason, briefs(verdict.Findings))
}

func TestLikelyCauseOfMissingLabel(t *testing.T) {
	const notKnowable = "Remove the opt-out if there is one, then upgrade Kubernetes on its node pool."
	for _, tc := range []struct {
		name           string
		kubelet, image string
		mode           v1alpha1.ServingMode
		change         func(*v1alpha1.ServingCertificateSpec)
		says           string
	}{
		{name: "kubelet too old", kubelet: "v1.26.3", says: "kubelet v1.26.3 is older than 1.27. Upgrade Kubernetes"},
		{
			name: "image too old", kubelet: "v1.31.1", image: "AKSUbuntu-2204gen2containerd-202412.10.0",
			says: "node image AKSUbuntu-2204gen2containerd-202412.10.0 is older than 202501.12.0. Upgrade Kubernetes on its node pool, " +
				"or recreate the pool if it comes from a snapshot",
		},
		{name: "neither", kubelet: "v1.31.1", image: "AKSAzureLinux-V3gen2-202602.13.5", says: notKnowable},
		{
			name: "Windows image", kubelet: "v1.31.1", image: "AKSWindows-2022-containerd-20348.3207.250214",
			says: `"AKSWindows-2022-containerd-20348.3207.250214" cannot be compared with 202501.12.0`,
		},
		{name: "no image", kubelet: "v1.31.1", says: `"" cannot be compared`},
		{
			name: "versions not considered", kubelet: "v1.20.0", image: "AKSUbuntu-1804gen2containerd-2022.03.23",
			change: func(s *v1alpha1.ServingCertificateSpec) { s.MinimumKubeletVersion, s.MinimumNodeImageVersion = "", "" },
			says:   notKnowable,
		},
		{
			name: "rotating all the same", kubelet: "v1.31.1", image: "AKSAzureLinux-V3gen2-202602.13.5",
			mode: v1alpha1.ServingModeClusterSigned, says: "does serve a certificate of the Cluster CA all the same: leave out " +
				"spec.nodes.servingCertificate.label if the platform sets no such label, or replace the node.",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := aksSpec()
			if tc.change != nil {
				tc.change(&spec.Nodes.ServingCertificate)
			}
			verdict := Evaluate(input(spec, func(n *Node) {
				n.KubeletVersion, n.NodeImageVersion, n.Labels = tc.kubelet, tc.image, nil
				n.Observed.Serving.Mode = v1alpha1.ServingModeSelfSigned
				if tc.mode != "" {
					n.Observed.Serving.Mode = tc.mode
				}
			}))
			expectMessage(t, verdict, v1alpha1.ReasonServingLabelMissing, tc.says)
		})
	}
	t.Run("other value", func(t *testing.T) {
		verdict := Evaluate(input(aksSpec(), func(n *Node) { n.Labels = map[string]string{labelKey: "none"} }))
		expectMessage(t, verdict, v1alpha1.ReasonServingLabelMissing, `is "none" and not "cluster"`)
	})
	t.Run("no label expected", func(t *testing.T) {
		spec := aksSpec()
		spec.Nodes.ServingCertificate.Label = nil
		expectFindings(t, Evaluate(input(spec, func(n *Node) { n.Labels = nil })))
	})
}

func TestIssuedCertificateNotServed(t *testing.T) {
	// A certificate was issued a minute ago, and the kubelet serves the one before.
	renewed := func(n *Node) {
		*issued(n) = certificate(kubeletServing, v1alpha1.SourceSigningRequest, "a2", -6*time.Minute, year)
		servingRequest(n).Issued = ptrAt(-time.Minute)
	}
	for _, tc := range []struct {
		name   string
		change func(*Node)
		after  time.Duration
		want   bool
		next   time.Duration // of NextCheck; 0 when another concern's instant is next
	}{
		{name: "before the timeout", after: time.Minute - 1, next: time.Minute},
		{name: "at the timeout", after: time.Minute, want: true},
		{name: "served by then", after: time.Hour, change: func(n *Node) { served(n).SHA256 = sha("a2") }},
		{name: "serves a newer one", after: time.Hour, change: func(n *Node) { served(n).NotBefore = at(0) }},
		{
			name: "not valid before the timeout", after: 9 * time.Minute, next: 10 * time.Minute,
			change: func(n *Node) { issued(n).NotBefore = at(10 * time.Minute) },
		},
		{name: "valid through notAfter", after: time.Hour, want: true, next: time.Hour + 1, change: func(n *Node) {
			issued(n).NotAfter = at(time.Hour)
		}},
		{name: "expired unserved", after: time.Hour + 1, change: func(n *Node) { issued(n).NotAfter = at(time.Hour) }},
		{name: "expires before the timeout", after: 0, next: 282 * day, change: func(n *Node) { issued(n).NotAfter = at(30 * time.Second) }},
		{name: "asked again", after: 2 * time.Minute, change: func(n *Node) { pending(servingRequest(n), time.Minute) }},
		{name: "unreachable", after: time.Hour, change: func(n *Node) {
			n.Observed.Serving.Mode, n.Observed.Serving.Outcome = v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := input(aksSpec(), func(n *Node) {
				renewed(n)
				if tc.change != nil {
					tc.change(n)
				}
			})
			in.Now = now.Add(tc.after)
			verdict := Evaluate(in)
			var got bool
			for _, b := range briefs(verdict.Findings) {
				if b.Reason != v1alpha1.ReasonIssuedCertificateNotServed {
					continue
				}
				got = true
				if b.Since != "2026-03-01T11:59:00Z" || b.Severity != violates {
					t.Errorf("%+v", b)
				}
			}
			if got != tc.want {
				t.Errorf("IssuedCertificateNotServed: %v, want %v", got, tc.want)
			}
			if tc.next != 0 && !verdict.NextCheck.Equal(now.Add(tc.next)) {
				t.Errorf("next check %v, want %v", verdict.NextCheck, now.Add(tc.next))
			}
		})
	}
	t.Run("rotation not judged", func(t *testing.T) {
		spec := aksSpec()
		spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
		in := input(spec, renewed)
		in.Now = now.Add(time.Hour)
		expectFindings(t, Evaluate(in))
	})
}

// Whose requests cannot be read may have filed one.
func TestServingRequestThatNobodyCanSee(t *testing.T) {
	for _, reason := range []string{v1alpha1.ReasonAccessDenied, v1alpha1.ReasonNotObserved} {
		for _, change := range []func(*Node){unaddressed, func(n *Node) {
			alert(n)
			n.Observed.SigningRequests = nil
		}} {
			in := input(aksSpec(), change)
			in.Denied = []Denial{{Permission: "list requests", Reason: reason, SignerName: servingSigner}}
			for _, f := range Evaluate(in).Findings {
				if f.Reason == v1alpha1.ReasonServingRequestMissing {
					t.Errorf("%s, and: %s", reason, f.Message)
				}
			}
			in.Denied[0].SignerName = clientSigner
			expectMessage(t, Evaluate(in), v1alpha1.ReasonServingRequestMissing, "filed no CertificateSigningRequest")
		}
	}
}

// A kubelet whose Node's addresses changed is given the time to get another certificate.
func TestNamesChange(t *testing.T) {
	mismatch := func(n *Node) { n.Observed.Serving.NameMatch = v1alpha1.NameMismatches }
	another := func(n *Node) { n.InternalIPs = []string{"10.0.0.4", "fd00::4"} }
	asks := func(stage v1alpha1.SigningStage, change func(*v1alpha1.SigningRequestStatus)) func(*Node) {
		return func(n *Node) {
			r := servingRequest(n)
			r.Stage, r.Created, r.Decided, r.Issued = stage, at(-time.Minute), nil, ptrAt(-10*day)
			if change != nil {
				change(r)
			}
		}
	}
	waits := func(r *v1alpha1.SigningRequestStatus) { r.Pending, r.PendingSince = 1, ptrAt(-time.Minute) }
	for _, tc := range []struct {
		name    string
		request func(*Node)
		// grace is how long it still has; zero for none.
		grace time.Duration
	}{
		{name: "has not asked", request: func(*Node) {}},
		{name: "is new", request: func(n *Node) { n.Created = now.Add(-time.Minute) }, grace: 4 * time.Minute},
		{name: "asks", request: asks(v1alpha1.StagePending, waits), grace: 4 * time.Minute},
		{
			name: "has been asking for too long", request: asks(v1alpha1.StagePending, func(r *v1alpha1.SigningRequestStatus) {
				r.Pending, r.PendingSince = 2, ptrAt(-time.Hour)
			}),
		}, {
			name: "asks again after a refusal", request: asks(v1alpha1.StagePending, func(r *v1alpha1.SigningRequestStatus) {
				waits(r)
				r.Refusal = &v1alpha1.SigningRefusal{Name: "csr-0", Stage: v1alpha1.StageDenied, Time: at(-2 * time.Minute)}
			}),
		}, {
			name: "is about to get it", grace: time.Minute,
			request: asks(v1alpha1.StageApproved, func(r *v1alpha1.SigningRequestStatus) { r.ApprovedSince = ptrAt(-time.Minute) }),
		}, {
			name: "is about to serve it", grace: time.Minute,
			request: asks(v1alpha1.StageIssued, func(r *v1alpha1.SigningRequestStatus) { r.Issued = ptrAt(-time.Minute) }),
		},
		{name: "was refused", request: asks(v1alpha1.StageDeleted, nil)},
	} {
		for what, change := range map[string]func(*Node){"asked at": mismatch, "another": another} {
			t.Run(tc.name+", "+what, func(t *testing.T) {
				in := input(aksSpec(), func(n *Node) { change(n); tc.request(n) })
				named := func(in Input) (reasons []string, of Verdict) {
					of = Evaluate(in)
					for _, f := range of.Findings {
						if f.Reason == v1alpha1.ReasonServingCertificateNameMismatch || f.Reason == v1alpha1.ReasonNotObserved {
							reasons = append(reasons, f.Reason)
						}
					}
					return reasons, of
				}
				want := []string{v1alpha1.ReasonServingCertificateNameMismatch}
				if tc.grace > 0 {
					reasons, verdict := named(in)
					if diff := cmp.Diff([]string{v1alpha1.ReasonNotObserved}, reasons); diff != "" {
						t.Errorf("findings (-want +got):\n%s", diff)
					}
					if until := now.Add(tc.grace); verdict.NextCheck.After(until) {
						t.Errorf("next check %v, want %v at the latest", verdict.NextCheck, until)
					}
					in.Now = now.Add(tc.grace)
				}
				if reasons, _ := named(in); !cmp.Equal(want, reasons) {
					t.Errorf("found %v, want %v", reasons, want)
				}
			})
		}
	}
}
