// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/controllers/internal/policy"
)

func TestOwnTarget(t *testing.T) {
	for host, want := range map[string]target{
		"https://10.0.0.1:443":   {"10.0.0.1:443", tlsprobe.Target{Address: netip.MustParseAddrPort("10.0.0.1:443")}},
		"https://[fd00::1]:6443": {"[fd00::1]:6443", tlsprobe.Target{Address: netip.MustParseAddrPort("[fd00::1]:6443")}},
		"https://api.example.com": {"api.example.com:443", tlsprobe.Target{
			Host: "api.example.com", Address: netip.AddrPortFrom(netip.Addr{}, 443),
		}},
	} {
		got, err := ownTarget(&rest.Config{Host: host})
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", host, got, err, want)
		}
	}
	if got, err := ownTarget(&rest.Config{Host: "https://10.0.0.1:99999"}); err == nil {
		t.Errorf("a port out of range is taken: %+v", got)
	}
}

func slice(port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Port: new(port)}}, Endpoints: endpoints}
}

func at(addresses ...string) discoveryv1.Endpoint { return discoveryv1.Endpoint{Addresses: addresses} }

func TestTargets(t *testing.T) {
	servers := apiServers{own: addressTarget(netip.MustParseAddrPort("10.0.0.1:443"))}
	unready := at("10.1.0.9")
	unready.Conditions.Ready = new(false)
	found, omitted := servers.targets([]*discoveryv1.EndpointSlice{
		slice(6443, at("10.1.0.2"), at("10.1.0.1"), unready), slice(6443, at("fd00::1")), slice(443, at("10.0.0.1")),
		{Endpoints: []discoveryv1.Endpoint{at("10.1.0.3")}}, // without a port
	})
	var got []string
	for _, each := range found {
		got = append(got, each.address)
	}
	if diff := cmp.Diff([]string{"10.0.0.1:443", "10.1.0.1:6443", "10.1.0.2:6443", "[fd00::1]:6443"}, got); diff != "" || omitted > 0 {
		t.Errorf("%d omitted, targets (-want +got):\n%s", omitted, diff)
	}

	many := slice(6443)
	for i := range 100 {
		many.Endpoints = append(many.Endpoints, at(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}).String()))
	}
	found, omitted = servers.targets([]*discoveryv1.EndpointSlice{many})
	if len(found) != maxEndpoints || omitted != 101-maxEndpoints {
		t.Errorf("%d targets and %d omitted of 101", len(found), omitted)
	}
}

// fakeServers answer handshakes as they are told.
type fakeServers struct {
	mu      sync.Mutex
	answers map[string]tlsprobe.Result
	asked   []string
}

func (f *fakeServers) probe(_ context.Context, target tlsprobe.Target, _ time.Duration) tlsprobe.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	address := target.Address.String()
	f.asked = append(f.asked, address)
	return f.answers[address]
}

// takeAsked returns who was asked since it was last called.
func (f *fakeServers) takeAsked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	slices.Sort(asked)
	return asked
}

func middle() float64 { return 0.5 }

// A rotation replaces the Cluster CA and the certificates of the API servers, in some order. No mix of what was and what is may
// be judged, nor may a mix that is real be believed for long.
func TestLookWhenTheClusterCAChanges(t *testing.T) {
	const address = "10.1.0.1:6443"
	before, after := pkitest.NewCA("ca"), pkitest.NewCA("ca")
	presented := func(ca *pkitest.CA) tlsprobe.Result {
		return tlsprobe.Result{Outcome: v1alpha1.ProbeCertificatePresented, Chain: ca.Leaf().Chain()}
	}
	fake := &fakeServers{answers: map[string]tlsprobe.Result{address: presented(before)}}
	clock := clocktesting.NewFakePassiveClock(pkitest.Start().Add(time.Hour))
	servers := &apiServers{probe: fake.probe, clock: clock, random: middle}
	for _, step := range []struct {
		name   string
		serves *pkitest.CA
		trusts []*pkitest.CA
		passed time.Duration
		looks  bool
		next   time.Duration
	}{
		{"at first", before, []*pkitest.CA{before}, 0, true, lookInterval},
		{"the same", before, []*pkitest.CA{before}, time.Minute, false, lookInterval - time.Minute},
		{"both trusted, the old one served", before, []*pkitest.CA{before, after}, 0, true, lookInterval},
		{"both trusted, the new one served, unseen", after, []*pkitest.CA{before, after}, time.Minute, false, lookInterval - time.Minute},
		{"the old one dropped", after, []*pkitest.CA{after}, time.Minute, true, lookInterval},
		{"a server that is left behind", before, []*pkitest.CA{before, after}, 0, true, lookInterval},
		{"and does not fit", before, []*pkitest.CA{after}, 0, true, firstBackoff},
		{"still", before, []*pkitest.CA{after}, firstBackoff, true, 2 * firstBackoff},
		{"until it does", after, []*pkitest.CA{after}, 2 * firstBackoff, true, lookInterval},
	} {
		clock.SetTime(clock.Now().Add(step.passed))
		fake.answers[address] = presented(step.serves)
		var bundle []byte
		for _, ca := range step.trusts {
			bundle = append(bundle, ca.PEM()...)
		}
		trusted, err := pki.NewTrustBundle(bundle)
		if err != nil {
			t.Fatal(err)
		}
		servers.trust(trusted)
		servers.trust(nil) // not readable for a moment
		next, err := servers.look(t.Context(), []target{addressTarget(netip.MustParseAddrPort(address))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if looked := len(fake.takeAsked()) > 0; looked != step.looks {
			t.Errorf("%s: looked %t", step.name, looked)
		}
		if got := next.Sub(clock.Now()); got != step.next {
			t.Errorf("%s: next look in %s, want %s", step.name, got, step.next)
		}
	}
}

func TestLook(t *testing.T) {
	const one, other = "10.1.0.1:6443", "10.1.0.2:6443"
	ca := pkitest.NewCA("ca")
	leaf := ca.Leaf() // 100 days: 80 % of it are over after 80
	presented := tlsprobe.Result{Outcome: v1alpha1.ProbeCertificatePresented, Chain: leaf.Chain()}
	failed := tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable, Message: "connecting: connection refused"}
	fake := &fakeServers{answers: map[string]tlsprobe.Result{one: presented, other: failed}}
	clock := clocktesting.NewFakePassiveClock(pkitest.Start().AddDate(0, 0, 80).Add(-5 * time.Minute))
	servers := &apiServers{probe: fake.probe, clock: clock, random: middle}
	targets := []target{addressTarget(netip.MustParseAddrPort(one)), addressTarget(netip.MustParseAddrPort(other))}
	expiry := []v1alpha1.ControlPlaneExpirySpec{{WarnAtLifetimePercent: 80, MinimumRemaining: &metav1.Duration{Duration: time.Hour}}}
	look := func(after, wantNext time.Duration, want ...string) {
		t.Helper()
		clock.SetTime(clock.Now().Add(after))
		next, err := servers.look(t.Context(), targets, expiry)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, fake.takeAsked()); diff != "" {
			t.Errorf("looked at (-want +got):\n%s", diff)
		}
		if got := next.Sub(clock.Now()); got != wantNext {
			t.Errorf("next look in %s, want %s", got, wantNext)
		}
	}
	look(0, 15*time.Second, one, other)
	look(time.Second, 14*time.Second)
	look(14*time.Second, 30*time.Second, other)
	fake.answers[other] = presented
	// Both are looked at again shortly before they cross 80 %.
	look(30*time.Second, 5*time.Minute-45*time.Second-30*time.Second, other)
	look(4*time.Minute-15*time.Second, 0+10*time.Minute, one, other)
	// One that stops answering keeps the certificate it had, unless it says that it has none.
	fake.answers[one] = failed
	look(10*time.Minute, 15*time.Second, one, other)
	if servers.known[one].chain == nil {
		t.Error("the certificate of an API server that does not answer is forgotten")
	}
	fake.answers[one] = tlsprobe.Result{Outcome: v1alpha1.ProbeNoCertificate}
	look(15*time.Second, 30*time.Second, one)
	if servers.known[one].chain != nil {
		t.Error("the certificate of an API server that has none is still known")
	}
	targets = targets[1:]
	look(0, 10*time.Minute-15*time.Second)
	if len(servers.known) != 1 {
		t.Errorf("an endpoint that is gone is still known: %v", servers.known)
	}
}

func TestLookIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy, busiest atomic.Int32
		servers := &apiServers{
			probe: func(context.Context, tlsprobe.Target, time.Duration) tlsprobe.Result {
				busiest.Store(max(busiest.Load(), busy.Add(1)))
				<-time.After(time.Second) // every look that may be under way is, before one ends
				busy.Add(-1)
				return tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable}
			},
			clock: clocktesting.NewFakePassiveClock(pkitest.Start()), random: middle,
		}
		var targets []target
		for i := range maxEndpoints {
			targets = append(targets, addressTarget(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 443)))
		}
		if _, err := servers.look(t.Context(), targets, nil); err != nil {
			t.Fatal(err)
		}
		if busiest.Load() != lookConcurrency {
			t.Errorf("%d looks at once, want %d", busiest.Load(), lookConcurrency)
		}
	})
}

func TestLookCutShort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	servers := &apiServers{
		probe: func(context.Context, tlsprobe.Target, time.Duration) tlsprobe.Result {
			cancel()
			return tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable}
		},
		clock: clocktesting.NewFakePassiveClock(pkitest.Start()), random: middle,
	}
	targets := []target{addressTarget(netip.MustParseAddrPort("10.1.0.1:443"))}
	if _, err := servers.look(ctx, targets, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
}

func TestObserveAPIServers(t *testing.T) {
	ca := pkitest.NewCA("kubernetes", years(0, 1))
	leaf := ca.Leaf(years(0, 2))
	other := pkitest.NewCA("other").Leaf()
	seen := look{at: pkitest.Start()}
	presented := func(cert *pkitest.Certificate) *endpoint {
		result := tlsprobe.Result{Outcome: v1alpha1.ProbeCertificatePresented, Chain: cert.Chain()}
		return &endpoint{look: seen, result: result, chain: result.Chain}
	}
	for name, test := range map[string]struct {
		endpoint *endpoint
		trusted  bool
		want     []policy.Endpoint
		issuer   time.Time
		says     string
	}{
		"verified": {
			presented(leaf), true, []policy.Endpoint{{Outcome: v1alpha1.ProbeCertificatePresented, Verified: true}},
			pkitest.Start().AddDate(1, 0, 0), "",
		},
		"of another CA": {
			presented(other), true, []policy.Endpoint{{Outcome: v1alpha1.ProbeCertificatePresented}}, time.Time{}, "issuer",
		},
		"down, with the certificate from before": {
			&endpoint{look: seen, chain: leaf.Chain(), result: tlsprobe.Result{
				Outcome: v1alpha1.ProbeUnreachable, Message: "connecting: timed out",
			}},
			true, []policy.Endpoint{{Outcome: v1alpha1.ProbeUnreachable, Verified: true}}, pkitest.Start().AddDate(1, 0, 0), "timed out",
		},
		"without the Cluster CA nothing is said of who signed it": {presented(leaf), false, nil, time.Time{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := &observation{now: pkitest.Start(), trustErr: errors.New("no Cluster CA"), trustSource: "kube-system/ca"}
			if test.trusted {
				o.trusted, o.trustErr = bundleOf(t, ca.X509), nil
			}
			o.apiServers(&apiServers{known: map[string]*endpoint{"10.1.0.1:443": test.endpoint}})
			for i := range test.want {
				test.want[i].Address = "10.1.0.1:443"
			}
			got := slices.Clone(o.found.Endpoints)
			for i := range got {
				if (test.says == "") != (got[i].Message == "") {
					t.Errorf("message %q, want one with %q", got[i].Message, test.says)
				}
				got[i].Message = ""
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if len(o.found.Certificates) != 1 || !o.found.Certificates[0].IssuerNotAfter.Equal(test.issuer) {
				t.Errorf("got certificates %+v, want one with issuer until %s", o.found.Certificates, test.issuer)
			}
			if unreadable := len(o.found.Unreadable); (unreadable > 0) == test.trusted {
				t.Errorf("%d unreadable", unreadable)
			}
		})
	}
}
