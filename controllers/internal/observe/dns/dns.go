// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dns resolves the names that nodes ask certificates for, and never lets anybody wait for it: who asks is told what is
// known, and is woken when there is more.
//
// A server that hangs must not delay the names that it answers for. So every lookup gets a moment first; what takes longer is
// tried once more, with all its time, in a share of the places that no other lookup needs. Answers are kept for a while.
package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// concurrency is how many lookups run at once, and slowConcurrency how many more of those that did not answer in a moment.
	// One lookup is two small packets and their answers; a thousand a second are little to a cluster's DNS server.
	concurrency, slowConcurrency = 128, 32
	// patience is the moment.
	patience = 500 * time.Millisecond
	// goodFor is how long an answer is taken for granted. The system's resolver does not say how long it may be.
	goodFor = 30 * time.Second
	// firstRetry is how long a name that was not found, or could not be looked up, is left alone at least; each further failure
	// doubles it, up to maxRetry.
	firstRetry, maxRetry = 5 * time.Second, 5 * time.Minute
	// maxNames bounds what is remembered: it is nodes that choose the names.
	maxNames = 50_000
)

// Outcome is what became of a lookup.
type Outcome string

const (
	// Resolved says that the name has addresses.
	Resolved Outcome = "Resolved"
	// NotFound says that the name does not exist or has no addresses. That is an answer, too.
	NotFound Outcome = "NotFound"
	// TimedOut says that no answer came in time.
	TimedOut Outcome = "TimedOut"
	// Failed says that the name could not be looked up for another reason.
	Failed Outcome = "Failed"
)

// Outcomes are all of them.
var Outcomes = []Outcome{Resolved, NotFound, TimedOut, Failed}

// errTooManyNames is the error of names that there is no room for.
var errTooManyNames = fmt.Errorf("more than %d names are being looked up", maxNames)

// Answer is what is known of a name.
type Answer struct {
	// Outcome is what became of the last lookup.
	Outcome Outcome
	// Addresses are the name's, without duplicates, in order. Empty unless the outcome is Resolved.
	Addresses []netip.Addr
	// Err says what went wrong if the outcome is TimedOut or Failed. It holds no number that moves by itself.
	Err error
	// Until is how long the answer holds. Whoever asks after it starts another lookup.
	Until time.Time
}

// LookupFunc looks up the addresses of a fully qualified name.
type LookupFunc func(ctx context.Context, name string) ([]netip.Addr, error)

// Options are what a Resolver is made of.
type Options struct {
	// Clock tells until when answers hold. Lookups are timed by the real one.
	Clock clock.PassiveClock
	// Lookup looks names up. It must heed its context.
	Lookup LookupFunc
	// Wake is told who asked for a name that there is an answer for now.
	Wake func(who string)
	// Observe is told of every lookup that ended.
	Observe func(Outcome, time.Duration)
}

// Resolver looks names up in the background. It may be used by several goroutines at once.
type Resolver struct {
	options Options

	mu         sync.Mutex
	names      map[string]*entry
	sweepAt    int
	fast, slow lane
}

// entry is what is known of one name.
type entry struct {
	// answer is the last one; its Outcome is empty before the first.
	answer Answer
	// pending says that a lookup waits or runs.
	pending bool
	// timeout is the longest that somebody who waits is ready to wait.
	timeout time.Duration
	// waiting are those to wake.
	waiting map[string]struct{}
	// failures counts the lookups in a row that brought no address.
	failures int
	// suspect says that the last lookup did not answer in a moment.
	suspect bool
}

// lane is a queue of names, and how many of its lookups run.
type lane struct {
	queue          []string
	running, limit int
}

// New returns a Resolver.
func New(o Options) *Resolver {
	if o.Wake == nil {
		o.Wake = func(string) {}
	}
	if o.Observe == nil {
		o.Observe = func(Outcome, time.Duration) {}
	}
	return &Resolver{
		options: o, names: map[string]*entry{}, sweepAt: concurrency,
		fast: lane{limit: concurrency}, slow: lane{limit: slowConcurrency},
	}
}

// System looks names up as the machine is configured to, or at the given server, an address with port. A name for which only
// one of its two kinds of addresses could be looked up counts as failed: the other one may be what it is looked up for.
func System(server string) LookupFunc {
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true}
	if server != "" {
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		}
	}
	return func(ctx context.Context, name string) ([]netip.Addr, error) {
		return resolver.LookupNetIP(ctx, "ip", name)
	}
}

// Resolve returns what is known of the names, and nothing of those that are only being looked up from now on: who is woken when
// there is an answer. It never waits. A lookup takes no longer than the timeout, and outlives ctx.
func (r *Resolver) Resolve(ctx context.Context, who string, names []string, timeout time.Duration) map[string]Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.options.Clock.Now()
	r.sweep(now)
	answers := make(map[string]Answer, len(names))
	for _, name := range names {
		key := canonical(name)
		known := r.names[key]
		switch {
		case known == nil && len(r.names) >= maxNames:
			answers[name] = Answer{Outcome: Failed, Err: errTooManyNames, Until: now.Add(firstRetry)}
			continue
		case known == nil:
			known = &entry{waiting: map[string]struct{}{}}
			r.names[key] = known
		case !known.pending && known.answer.Until.After(now):
			answers[name] = known.answer
			continue
		}
		known.waiting[who] = struct{}{}
		known.timeout = max(known.timeout, timeout)
		if !known.pending {
			known.pending = true
			r.start(ctx, key, known)
		}
	}
	return answers
}

// canonical is the name, fully qualified. Without the dot at its end a resolver would try the search domains of its
// configuration too, and in a Pod those are the names of Services: everybody who may create one could make up an answer.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + "."
}

// start has a name looked up. The caller holds the lock.
func (r *Resolver) start(ctx context.Context, name string, known *entry) {
	place := &r.fast
	if known.suspect {
		place = &r.slow
	}
	place.queue = append(place.queue, name)
	if place.running < place.limit {
		place.running++
		go r.work(context.WithoutCancel(ctx), place)
	}
}

// work looks up what is in the lane's queue until there is no more.
func (r *Resolver) work(ctx context.Context, place *lane) {
	for {
		name, timeout, ok := r.next(place)
		if !ok {
			return
		}
		r.lookUp(ctx, name, timeout, place == &r.slow)
	}
}

func (r *Resolver) next(place *lane) (name string, timeout time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(place.queue) == 0 {
		place.running--
		return "", 0, false
	}
	name, place.queue = place.queue[0], place.queue[1:]
	return name, r.names[name].timeout, true
}

func (r *Resolver) lookUp(ctx context.Context, name string, timeout time.Duration, slow bool) {
	limit := timeout
	if !slow {
		limit = min(limit, patience)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := r.options.Clock.Now()
	addresses, err := r.options.Lookup(limited, name)
	if timedOut(err) && limit < timeout {
		r.again(ctx, name)
		return
	}
	answer := newAnswer(strings.TrimSuffix(name, "."), addresses, err, limit)
	r.options.Observe(answer.Outcome, r.options.Clock.Since(began))
	for _, who := range r.settle(name, answer) {
		r.options.Wake(who)
	}
}

// again has a name looked up once more that gave no answer in a moment.
func (r *Resolver) again(ctx context.Context, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.names[name]
	known.suspect = true
	r.start(ctx, name, known)
}

// settle keeps the answer and returns who waited for it.
func (r *Resolver) settle(name string, answer Answer) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.names[name]
	known.suspect = answer.Outcome == TimedOut
	if answer.Outcome == Resolved {
		known.failures, answer.Until = 0, r.options.Clock.Now().Add(goodFor)
	} else {
		answer.Until = r.options.Clock.Now().Add(min(firstRetry<<min(known.failures, 20), maxRetry))
		known.failures++
	}
	who := slices.Sorted(maps.Keys(known.waiting))
	clear(known.waiting)
	known.answer, known.pending, known.timeout = answer, false, 0
	return who
}

func newAnswer(name string, addresses []netip.Addr, err error, timeout time.Duration) Answer {
	failure, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case err == nil && len(addresses) > 0:
		for i := range addresses {
			addresses[i] = addresses[i].Unmap().WithZone("")
		}
		slices.SortFunc(addresses, netip.Addr.Compare)
		return Answer{Outcome: Resolved, Addresses: slices.Compact(addresses)}
	case err == nil, isDNS && failure.IsNotFound:
		return Answer{Outcome: NotFound}
	case timedOut(err):
		return Answer{Outcome: TimedOut, Err: fmt.Errorf("looking up %s: no answer within %s", name, timeout)}
	case isDNS && strings.Contains(failure.Err, ":"):
		// Connecting failed, or reading. The rest of the text has an ephemeral port in it, and one of several servers.
		return Answer{Outcome: Failed, Err: fmt.Errorf("looking up %s: the DNS server cannot be reached", name)}
	case isDNS:
		return Answer{Outcome: Failed, Err: fmt.Errorf("looking up %s: %s", name, failure.Err)}
	default:
		return Answer{Outcome: Failed, Err: fmt.Errorf("looking up %s: %w", name, err)}
	}
}

func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// sweep forgets names that nobody waits for and whose answers are of no use any more, once there are twice as many as after
// the last time. The caller holds the lock.
func (r *Resolver) sweep(now time.Time) {
	if len(r.names) < min(r.sweepAt, maxNames) {
		return
	}
	maps.DeleteFunc(r.names, func(_ string, known *entry) bool {
		// The failures are remembered for a while longer.
		return !known.pending && known.answer.Until.Add(maxRetry).Before(now)
	})
	r.sweepAt = max(2*len(r.names), concurrency)
}
