// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki"
)

const (
	// lookInterval is the time between two looks at an API server while nothing happens.
	lookInterval = 10 * time.Minute
	// lookTimeout bounds one look. They are made at the same time, at most lookConcurrency of them.
	lookTimeout     = 5 * time.Second
	lookConcurrency = 8
	// lookJitter is the share by which the interval varies either way.
	lookJitter = 0.1
	// firstBackoff is the wait after a first failure, such as a certificate that does not fit the Cluster CA; each further one
	// doubles it, up to the interval.
	firstBackoff = 15 * time.Second
	// maxLead is how long before a threshold a certificate is looked at once more, and leadShare the share of its lifetime
	// that is the lead of one that does not live long.
	maxLead   = 30 * time.Second
	leadShare = 100
	// afterExpiry is the wait from a certificate's last valid second to the look at what is served then.
	afterExpiry = time.Second
	// maxEndpoints bounds the endpoints that are looked at. The API server of a cluster has up to nine.
	maxEndpoints = 32
	// schemePort is the port of a URL without one.
	schemePort = 443
)

// look is when something was looked at last, and how that went.
type look struct {
	at       time.Time
	jitter   float64
	failures int
}

func (l look) after(failed bool, now time.Time, jitter float64) look {
	next := look{at: now, jitter: jitter}
	if failed {
		next.failures = l.failures + 1
	}
	return next
}

// next is when it is time for another look: at once when there was none.
func (l look) next() time.Time {
	if l.at.IsZero() {
		return l.at
	}
	pause := lookInterval
	if l.failures > 0 {
		pause = min(pause, firstBackoff<<min(l.failures-1, 10))
	}
	return l.at.Add(pause + time.Duration(l.jitter*lookJitter*float64(pause)))
}

// endpoint is what is known of one endpoint of the API server.
type endpoint struct {
	look   look
	result tlsprobe.Result
	// chain is what the latest handshake that showed one showed; empty after one that says that there is no certificate.
	chain []*x509.Certificate
}

// next is when it is time for another look at the endpoint: when its certificate is about to cross a threshold as well, so
// that one that was renewed in time is not reported.
func (e *endpoint) next(expiry []v1alpha1.ControlPlaneExpirySpec) time.Time {
	next := e.look.next()
	if e.look.at.IsZero() || len(e.chain) == 0 {
		return next
	}
	life := pki.LifetimeOf(e.chain[0])
	lead := min(life.Duration()/leadShare, maxLead)
	moments := []time.Time{life.NotAfter.Add(-lead), life.NotAfter.Add(afterExpiry)}
	for _, each := range expiry {
		moments = append(moments,
			life.At(cmp.Or(each.WarnAtLifetimePercent, v1alpha1.DefaultWarnAtLifetimePercent)).Add(-lead),
			life.At(cmp.Or(each.OverdueAtLifetimePercent, v1alpha1.DefaultOverdueAtLifetimePercent)).Add(-lead),
			life.NotAfter.Add(-floor(each)-lead))
	}
	for _, moment := range moments {
		if moment.After(e.look.at) && moment.Before(next) {
			next = moment
		}
	}
	return next
}

// floor is the minimum remaining time, which may be zero.
func floor(e v1alpha1.ControlPlaneExpirySpec) time.Duration {
	if e.MinimumRemaining == nil {
		return v1alpha1.DefaultControlPlaneMinimumRemaining
	}
	return e.MinimumRemaining.Duration
}

// apiServers looks at the endpoints of the API server. It is used by one goroutine at a time.
type apiServers struct {
	probe  func(ctx context.Context, target tlsprobe.Target, timeout time.Duration) tlsprobe.Result
	clock  clock.PassiveClock
	random func() float64
	// own is the address by which this process reaches the API server.
	own   target
	known map[string]*endpoint
	// trusted is the Cluster CA that was known last.
	trusted *pki.TrustBundle
}

// trust takes up the Cluster CA. When it is another one, what an endpoint served before says nothing about the two together,
// so all are due.
func (a *apiServers) trust(bundle *pki.TrustBundle) {
	if bundle == nil {
		return
	}
	if a.trusted != nil && a.trusted.Fingerprint() != bundle.Fingerprint() {
		for _, each := range a.known {
			each.look = look{}
		}
	}
	a.trusted = bundle
}

// fits says whether a certificate was presented, and one of the Cluster CA, as far as that is known.
func (a *apiServers) fits(result tlsprobe.Result, now time.Time) bool {
	return result.Outcome == v1alpha1.ProbeCertificatePresented &&
		(a.trusted == nil || a.trusted.VerifyServing(result.Chain, now) == nil)
}

// target is an endpoint to look at.
type target struct {
	// address is how it is called: host and port.
	address string
	probe   tlsprobe.Target
}

// ownTarget is the API server as this process reaches it: in a cluster through the Service kubernetes.default, or by the name
// that the platform gave it. A proxy in between, if the client is configured for one, is not gone through.
func ownTarget(config *rest.Config) (target, error) {
	address, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return target{}, fmt.Errorf("address of the API server %q: %w", config.Host, err)
	}
	port, err := portOf(address)
	if err != nil {
		return target{}, fmt.Errorf("address of the API server %q: %w", config.Host, err)
	}
	result := target{address: net.JoinHostPort(address.Hostname(), strconv.Itoa(int(port)))}
	if ip, err := netip.ParseAddr(address.Hostname()); err == nil {
		return addressTarget(netip.AddrPortFrom(ip, port)), nil
	}
	result.probe = tlsprobe.Target{Host: address.Hostname(), Address: netip.AddrPortFrom(netip.Addr{}, port)}
	return result, nil
}

func portOf(address *url.URL) (uint16, error) {
	if address.Port() == "" {
		return schemePort, nil
	}
	port, err := strconv.ParseUint(address.Port(), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port: %w", err)
	}
	return uint16(port), nil
}

func addressTarget(address netip.AddrPort) target {
	return target{address: address.String(), probe: tlsprobe.Target{Address: address}}
}

// targets are the endpoints in the slices and the address of this process' own, each once, in order. omitted says how many
// there were no room for.
func (a *apiServers) targets(slicesOfService []*discoveryv1.EndpointSlice) (found []target, omitted int) {
	byAddress := map[string]target{a.own.address: a.own}
	for _, slice := range slicesOfService {
		for _, address := range addresses(slice) {
			t := addressTarget(address)
			byAddress[t.address] = t
		}
	}
	for _, t := range byAddress {
		found = append(found, t)
	}
	slices.SortFunc(found, func(a, b target) int { return cmp.Compare(a.address, b.address) })
	if len(found) > maxEndpoints {
		return found[:maxEndpoints], len(found) - maxEndpoints
	}
	return found, 0
}

// addresses are those of the endpoints that are in use.
func addresses(slice *discoveryv1.EndpointSlice) []netip.AddrPort {
	var found []netip.AddrPort
	for _, port := range slice.Ports {
		if port.Port == nil || *port.Port < 1 || *port.Port > 1<<16-1 {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, address := range e.Addresses {
				if ip, err := netip.ParseAddr(address); err == nil { // the API refuses others, names apart
					found = append(found, netip.AddrPortFrom(ip, uint16(*port.Port)))
				}
			}
		}
	}
	return found
}

// look makes the handshakes that are due, forgets the endpoints that are gone, and says when the next look is due.
func (a *apiServers) look(ctx context.Context, targets []target, expiry []v1alpha1.ControlPlaneExpirySpec) (time.Time, error) {
	known := make(map[string]*endpoint, len(targets))
	group := errgroup.Group{}
	group.SetLimit(lookConcurrency)
	now := a.clock.Now()
	for _, t := range targets {
		current := a.known[t.address]
		if current == nil {
			current = &endpoint{}
		}
		known[t.address] = current
		if current.next(expiry).After(now) {
			continue
		}
		jitter := 2*a.random() - 1
		group.Go(func() error {
			result := a.probe(ctx, t.probe, lookTimeout)
			if err := ctx.Err(); err != nil {
				// It was cut short, and says nothing about the API server.
				return fmt.Errorf("looking at the API server %s: %w", t.address, err)
			}
			taken := a.clock.Now()
			current.take(result, current.look.after(!a.fits(result, taken), taken, jitter))
			return nil
		})
	}
	err := group.Wait()
	a.known = known
	var next time.Time
	for _, each := range known {
		if due := each.next(expiry); next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next, err
}

func (e *endpoint) take(result tlsprobe.Result, taken look) {
	e.result, e.look = result, taken
	switch result.Outcome {
	case v1alpha1.ProbeCertificatePresented, v1alpha1.ProbeNoCertificate:
		e.chain = result.Chain
	case v1alpha1.ProbeHandshakeFailed, v1alpha1.ProbeUnreachable, v1alpha1.ProbeNoAddress:
		// What it served before is the best that is known.
	}
}
