// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// FuzzNextCheck follows random clusters through time, from one NextCheck to the next: before it, nothing changes; at it,
// something does.
func FuzzNextCheck(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := generator{rand.New(rand.NewPCG(seed, 0))}
		in := g.input()
		for range 200 {
			verdict := Evaluate(in)
			expectDistinct(t, verdict.Findings)
			until := verdict.NextCheck
			if until.IsZero() {
				until = in.Now.Add(100 * year)
			}
			if !until.After(in.Now) {
				t.Fatalf("next check %v is not after %v", until, in.Now)
			}
			for _, instant := range g.between(in.Now, until) {
				later := in
				later.Now = instant
				if diff := cmp.Diff(verdict, Evaluate(later)); diff != "" {
					t.Fatalf("at %v, before the next check at %v, not after %v (-before +then):\n%s", instant,
						verdict.NextCheck, in.Now, diff)
				}
			}
			if verdict.NextCheck.IsZero() {
				return
			}
			in.Now = verdict.NextCheck
			then := Evaluate(in)
			then.NextCheck = verdict.NextCheck
			if cmp.Equal(verdict, then) {
				t.Fatalf("nothing changes at the next check, %v", verdict.NextCheck)
			}
		}
		t.Fatal("time never comes to an end")
	})
}

// expectDistinct expects that reason, subject and certificate tell findings apart, as Events and metrics need it.
func expectDistinct(t *testing.T, findings []v1alpha1.Finding) {
	t.Helper()
	type key struct {
		reason      string
		subject     v1alpha1.Subject
		certificate v1alpha1.CertificatePurpose
	}
	seen := map[key]bool{}
	for _, f := range findings {
		k := key{f.Reason, f.Subject, f.Certificate}
		if seen[k] {
			t.Fatalf("two findings %+v", k)
		}
		seen[k] = true
	}
}

// generator makes random clusters whose instants lie close enough together to coincide.
type generator struct{ *rand.Rand }

// between picks instants in the open interval, its last one included.
func (g generator) between(from, until time.Time) []time.Time {
	var instants []time.Time
	for range 8 {
		if width := until.Sub(from); width > 1 {
			instants = append(instants, from.Add(1+time.Duration(g.Int64N(int64(width)-1))))
		}
	}
	if last := until.Add(-1); last.After(from) {
		instants = append(instants, last)
	}
	return instants
}

// instant is within about an hour of now, mostly on a full minute, sometimes between two nanoseconds of interest.
func (g generator) instant() metav1.Time {
	t := at(time.Duration(g.IntN(120)-60) * time.Minute)
	if g.IntN(8) == 0 {
		t = metav1.NewTime(t.Add(time.Duration(g.IntN(3) - 1)))
	}
	return t
}

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

func (g generator) duration() *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(g.IntN(30)) * time.Minute}
}

func (g generator) input() Input {
	spec := aksSpec()
	spec.Expiry = v1alpha1.ExpirySpec{
		WarnAtLifetimePercent: int32(g.IntN(100)), OverdueAtLifetimePercent: int32(g.IntN(102)), MinimumRemaining: g.duration(),
	}
	spec.Nodes.ServingCertificate.Rotation = pick(g, v1alpha1.ServingRotationRequired, v1alpha1.ServingRotationRequired,
		v1alpha1.ServingRotationDisabled, v1alpha1.ServingRotationIgnored)
	spec.Nodes.ClientCertificate.Rotation = pick(g, v1alpha1.ClientRotationRequired, v1alpha1.ClientRotationIgnored)
	spec.Nodes.SigningRequests = v1alpha1.SigningRequestsSpec{PendingTimeout: g.duration(), IssueTimeout: g.duration()}
	in := Input{Spec: spec, Now: at(-3 * time.Hour).Time}
	for i := range g.IntN(4) {
		in.Nodes = append(in.Nodes, g.node(i))
	}
	for i := range g.IntN(3) {
		in.Requests = append(in.Requests, Request{
			Name: fmt.Sprintf("csr-%d", i), SignerName: pick(g, servingSigner, clientSigner), Stage: g.stage(),
			Created: g.instant().Time, Decided: pick(g, time.Time{}, g.instant().Time), Malformed: pick(g, "", "malformed"),
			NodeName: pick(g, "", "gone"), Requestor: pick(g, "system:bootstrap:abcdef", "system:node:gone"),
		})
	}
	for i := range g.IntN(3) {
		in.Tokens = append(in.Tokens, Token{Secret: fmt.Sprintf("kube-system/token-%d", i), Expires: g.instant().Time})
	}
	spec.Nodes.BootstrapTokens = v1alpha1.BootstrapTokensSpec{Mode: v1alpha1.WatchWatched, WarnBefore: g.duration()}
	if g.chance(60) {
		spec.ControlPlane = v1alpha1.ControlPlaneSpec{Expiry: v1alpha1.ControlPlaneExpirySpec{
			WarnAtLifetimePercent: int32(g.IntN(100)), OverdueAtLifetimePercent: int32(g.IntN(102)), MinimumRemaining: g.duration(),
		}}
		spec.TrustBundles = v1alpha1.TrustBundlesSpec{}
		in.ControlPlane = g.controlPlane()
	}
	if g.chance(30) {
		spec.Nodes.Expiry = &v1alpha1.ExpirySpec{MinimumRemaining: g.duration()}
	}
	if g.chance(20) {
		in.TrustError, in.TrustSource = "no such ConfigMap", "kube-system/kube-root-ca.crt"
	}
	return in
}

// controlPlane has bundles of up to three certificates, several of one object, and some that cannot be read.
func (g generator) controlPlane() *ControlPlane {
	if g.chance(10) {
		return nil
	}
	bundle := func(purpose v1alpha1.CertificatePurpose, source string) (certificates []Certificate) {
		for i := range g.IntN(4) {
			c := Certificate{Purpose: purpose, Source: source, SHA256: sha(fmt.Sprint(i))}
			c.NotBefore, c.NotAfter = g.instant().Time, g.instant().Time
			c.IssuerNotAfter = pick(g, time.Time{}, g.instant().Time)
			certificates = append(certificates, c)
		}
		return certificates
	}
	plane := &ControlPlane{}
	for _, purpose := range ofControlPlane {
		plane.Certificates = append(plane.Certificates, bundle(purpose, pick(g, "a", "b"))...)
		if g.chance(10) {
			plane.Unreadable = append(plane.Unreadable, Unreadable{purpose, "unreadable", pick(g, "", "no")})
		}
	}
	for _, address := range []string{"a", "c"} {
		if g.chance(50) {
			plane.Endpoints = append(plane.Endpoints, Endpoint{
				Address: address, Verified: g.chance(50),
				Outcome: pick(g, v1alpha1.ProbeCertificatePresented, v1alpha1.ProbeUnreachable),
			})
		}
	}
	for i := range g.IntN(6) {
		purpose := pick(g, ofTrustBundles...)
		plane.Bundles = append(plane.Bundles, Bundle{
			Kind: sourceSubject(purpose, "").Kind, Name: pick(g, "a", "b"), Entry: fmt.Sprint(i), Purpose: purpose,
			Certificates: bundle(purpose, "a"), Stale: g.chance(10), Unavailable: pick(g, "", "x509: no"),
		})
	}
	return plane
}

func (g generator) stage() v1alpha1.SigningStage {
	return pick(g, v1alpha1.StagePending, v1alpha1.StageApproved, v1alpha1.StageIssued, v1alpha1.StageDenied,
		v1alpha1.StageFailed, v1alpha1.StageDeleted)
}

func (g generator) kubelet() *v1alpha1.KubeletStatus {
	settings := []v1alpha1.KubeletSetting{"", v1alpha1.KubeletSettingEnabled, v1alpha1.KubeletSettingDisabled}
	k := &v1alpha1.KubeletStatus{
		Outcome: pick(g, v1alpha1.KubeletRead, v1alpha1.KubeletRead, v1alpha1.KubeletFailed, v1alpha1.KubeletAccessDenied,
			v1alpha1.KubeletAccessDenied, v1alpha1.KubeletUnverified, v1alpha1.KubeletNotAsked),
		MissingPermissions: pick(g, nil, []string{getMetrics}, []string{getConfigz}, []string{getMetrics, getConfigz},
			[]string{"create serviceaccounts/token a/b"}),
		Since: g.instant(), ClientRotation: pick(g, settings...), ServingBootstrap: pick(g, settings...),
	}
	if g.chance(70) {
		k.ClientExpires = new(g.instant())
	}
	if g.chance(30) {
		k.ClientRenewal = &v1alpha1.RenewalStatus{Errors: new(int64(1)), Rose: new(g.instant())}
	}
	if g.chance(30) {
		k.ServingRenewal = &v1alpha1.RenewalStatus{Errors: new(int64(1)), Rose: new(g.instant())}
	}
	return k
}

func (g generator) node(i int) Node {
	n := healthy(fmt.Sprintf("node-%d", i))
	n.Created = g.instant().Time
	n.KubeletVersion = pick(g, "v1.32.9", "v1.33.0")
	n.Ready = pick(g, corev1.ConditionTrue, corev1.ConditionFalse, "")
	if g.chance(50) {
		n.Heard = g.instant().Time
	}
	if g.chance(10) {
		n.Labels = nil
	}
	if g.chance(5) {
		n.Observed = nil
		return n
	}
	n.Observed = &v1alpha1.NodeCertificatesStatus{}
	if g.chance(90) {
		n.Observed.Serving = &v1alpha1.ServingStatus{
			Mode: pick(g, v1alpha1.ServingModeClusterSigned, v1alpha1.ServingModeClusterSigned,
				v1alpha1.ServingModeSelfSigned, v1alpha1.ServingModeUnknown),
			Outcome: pick(g, v1alpha1.ProbeCertificatePresented, v1alpha1.ProbeCertificatePresented,
				v1alpha1.ProbeUnreachable),
			NameMatch: pick(g, v1alpha1.NameMatches, v1alpha1.NameMatches, v1alpha1.NameMatches, v1alpha1.NameMismatches),
			Since:     g.instant(),
		}
		if g.chance(40) {
			n.Observed.Serving.Mode, n.Observed.Serving.Outcome = v1alpha1.ServingModeNone, v1alpha1.ProbeNoCertificate
		}
	}
	for _, c := range []v1alpha1.CertificateStatus{
		{Purpose: kubeletServing, Source: v1alpha1.SourceHandshake},
		{Purpose: kubeletServing, Source: v1alpha1.SourceSigningRequest},
		{Purpose: kubeletClient, Source: v1alpha1.SourceSigningRequest},
	} {
		if g.chance(70) {
			c.SHA256, c.NotBefore, c.NotAfter = sha(pick(g, "a", "b")), g.instant(), g.instant()
			n.Observed.Certificates = append(n.Observed.Certificates, c)
		}
	}
	if g.chance(50) {
		n.Observed.Kubelet = g.kubelet()
	}
	for _, signer := range []string{servingSigner, clientSigner} {
		if g.chance(30) {
			continue
		}
		r := v1alpha1.SigningRequestStatus{SignerName: signer, Name: "csr", Stage: g.stage(), Created: g.instant()}
		if g.chance(50) {
			decided := g.instant()
			r.Decided = &decided
		}
		if g.chance(50) {
			issued := g.instant()
			r.Issued = &issued
		}
		if g.chance(40) {
			since := g.instant()
			r.Pending, r.PendingSince = int32(1+g.IntN(2)), &since
		}
		if g.chance(40) {
			r.ApprovedSince = new(g.instant())
		}
		r.Malformed = pick(g, "", "", "malformed")
		n.Observed.SigningRequests = append(n.Observed.SigningRequests, r)
	}
	return n
}
