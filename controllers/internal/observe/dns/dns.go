// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dns resolves the names that nodes ask certificates for, and never lets anybody wait for it: who asks is told what is
// known, and is woken when there is more.
//
// A server that hangs must not delay the names that it answers for. So every lookup gets a moment first; what takes longer is
// tried once more, with all its time, in a share of the places that no other lookup needs. Answers are kept for a while.
//
// Nor may one node delay another. So those who ask take turns, and of each no more is known than what it asked for last: a name
// that nobody asks for any more is forgotten, and a lookup of it that runs is given up.
package dns

import (
	"context"
	"errors"
	"fmt"
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
	// maxNames is how many names one who asks may ask for at a time: it is nodes that choose them.
	maxNames = 16
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

// errTooManyNames is the error of names that are more than are looked up.
var errTooManyNames = fmt.Errorf("more than %d names were asked for at once", maxNames)

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

	mu      sync.Mutex
	names   map[string]*entry
	askers  map[string]*asker
	sweepAt int
	// fast and slow are where lookups run: for a moment, and with all their time.
	fast, slow lane
}

// asker is somebody who asks, and what for: each name once, in order, at most maxNames.
type asker struct {
	who   string
	names []*entry
}

// entry is what is known of one name that somebody asks for.
type entry struct {
	name string
	// answer is the last one; its Outcome is empty before the first.
	answer Answer
	// pending says that a lookup waits or runs. giveUp ends one that runs; it is nil while none does.
	pending bool
	giveUp  context.CancelFunc
	// timeout is the longest that somebody who waits is ready to wait.
	timeout time.Duration
	// askers are all who ask for the name, and waiting those of them who are to be woken.
	askers, waiting map[*asker]struct{}
	// failures counts the lookups in a row that brought no address.
	failures int
	// suspect says that the last lookup did not answer in a moment.
	suspect bool
}

// lane is who takes turns to have a name looked up, and how many lookups run.
type lane struct {
	turns          []*asker
	queued         map[*asker]struct{}
	running, limit int
}

func newLane(limit int) lane { return lane{queued: map[*asker]struct{}{}, limit: limit} }

// enter gives the asker a turn, after all others.
func (l *lane) enter(a *asker) {
	if _, ok := l.queued[a]; !ok {
		l.queued[a] = struct{}{}
		l.turns = append(l.turns, a)
	}
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
		options: o, names: map[string]*entry{}, askers: map[string]*asker{}, sweepAt: concurrency,
		fast: newLane(concurrency), slow: newLane(slowConcurrency),
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
// there is an answer. It never waits. A lookup takes no longer than the timeout, and outlives ctx. What the same one asked for
// before, and does not any more, is forgotten.
func (r *Resolver) Resolve(ctx context.Context, who string, names []string, timeout time.Duration) map[string]Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.options.Clock.Now()
	r.sweep(now)
	answers := make(map[string]Answer, len(names))
	a := r.askers[who]
	if a == nil {
		a = &asker{who: who}
		r.askers[who] = a
	}
	before := a.names
	a.names = nil
	for _, name := range names {
		known := r.ask(a, canonical(name))
		switch {
		case known == nil:
			answers[name] = Answer{Outcome: Failed, Err: errTooManyNames, Until: now.Add(firstRetry)}
			continue
		case !known.pending && known.answer.Until.After(now):
			answers[name] = known.answer
			continue
		}
		known.waiting[a] = struct{}{}
		known.timeout = max(known.timeout, timeout)
		known.pending = true
	}
	for _, known := range before {
		if !slices.Contains(a.names, known) {
			r.drop(a, known)
		}
	}
	for _, known := range a.names {
		if known.pending && known.giveUp == nil {
			r.start(ctx, known)
		}
	}
	return answers
}

// ask notes that the asker asks for a name; nil says that it asks for too many. The caller holds the lock.
func (r *Resolver) ask(a *asker, name string) *entry {
	known := r.names[name]
	switch {
	case known != nil && slices.Contains(a.names, known):
		return known
	case len(a.names) >= maxNames:
		return nil
	case known == nil:
		known = &entry{name: name, askers: map[*asker]struct{}{}, waiting: map[*asker]struct{}{}}
		r.names[name] = known
	}
	known.askers[a] = struct{}{}
	a.names = append(a.names, known)
	return known
}

// drop forgets a name that the asker does not ask for any more, if nobody else does. The caller holds the lock.
func (r *Resolver) drop(a *asker, known *entry) {
	delete(known.askers, a)
	delete(known.waiting, a)
	if len(known.askers) > 0 {
		return
	}
	delete(r.names, known.name)
	if known.giveUp != nil {
		known.giveUp()
	}
}

// canonical is the name, fully qualified. Without the dot at its end a resolver would try the search domains of its
// configuration too, and in a Pod those are the names of Services: everybody who may create one could make up an answer.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + "."
}

// start has a name looked up, at a turn of any who asks for it. The caller holds the lock.
func (r *Resolver) start(ctx context.Context, known *entry) {
	place := r.laneOf(known)
	for a := range known.askers {
		place.enter(a)
	}
	if place.running < place.limit {
		place.running++
		go r.work(context.WithoutCancel(ctx), place)
	}
}

func (r *Resolver) laneOf(known *entry) *lane {
	if known.suspect {
		return &r.slow
	}
	return &r.fast
}

// work looks up what there is to look up in a lane until there is no more.
func (r *Resolver) work(ctx context.Context, place *lane) {
	for {
		limited, l, ok := r.next(ctx, place)
		if !ok {
			return
		}
		if r.lookUp(limited, l) {
			r.again(ctx, l.entry)
		}
		l.cancel()
	}
}

// lookup is one that runs.
type lookup struct {
	*entry

	cancel context.CancelFunc
	// limit is how long it takes at most, and total how long it may take when it is tried once more.
	limit, total time.Duration
}

// next is the lookup whose turn it is, and its context, which also ends when nobody asks for the name any more.
func (r *Resolver) next(ctx context.Context, place *lane) (limited context.Context, l lookup, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.turn(place)
	if known == nil {
		place.running--
		return ctx, lookup{}, false
	}
	l = lookup{entry: known, limit: known.timeout, total: known.timeout}
	if place == &r.fast {
		l.limit = min(l.limit, patience)
	}
	limited, l.cancel = context.WithTimeout(ctx, l.limit)
	known.giveUp = l.cancel
	return limited, l, true
}

// turn is a name of the one whose turn it is, and who then has to wait for all others; nil if nobody waits for any in this lane.
// The caller holds the lock.
func (r *Resolver) turn(place *lane) *entry {
	for len(place.turns) > 0 {
		a := place.turns[0]
		place.turns = place.turns[1:]
		for _, known := range a.names {
			if known.pending && known.giveUp == nil && r.laneOf(known) == place {
				place.turns = append(place.turns, a)
				return known
			}
		}
		delete(place.queued, a)
	}
	return nil
}

// lookUp looks a name up, and says whether to try once more, with all the time that there is.
func (r *Resolver) lookUp(ctx context.Context, l lookup) (more bool) {
	began := r.options.Clock.Now()
	addresses, err := r.options.Lookup(ctx, l.name)
	if timedOut(err) && l.limit < l.total {
		return true
	}
	answer := newAnswer(strings.TrimSuffix(l.name, "."), addresses, err, l.limit)
	who, ok := r.settle(l.entry, answer)
	if !ok {
		return false
	}
	r.options.Observe(answer.Outcome, r.options.Clock.Since(began))
	for _, each := range who {
		r.options.Wake(each)
	}
	return false
}

// again has a name looked up once more that gave no answer in a moment.
func (r *Resolver) again(ctx context.Context, known *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known.suspect, known.giveUp = true, nil
	if len(known.askers) > 0 {
		r.start(ctx, known)
	}
}

// settle keeps the answer and returns who waited for it, or false if nobody asks for the name any more.
func (r *Resolver) settle(known *entry, answer Answer) (who []string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(known.askers) == 0 {
		return nil, false
	}
	known.suspect = answer.Outcome == TimedOut
	if answer.Outcome == Resolved {
		known.failures, answer.Until = 0, r.options.Clock.Now().Add(goodFor)
	} else {
		answer.Until = r.options.Clock.Now().Add(min(firstRetry<<min(known.failures, 20), maxRetry))
		known.failures++
	}
	for a := range known.waiting {
		who = append(who, a.who)
	}
	slices.Sort(who)
	clear(known.waiting)
	known.answer, known.pending, known.giveUp, known.timeout = answer, false, nil, 0
	return who, true
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

// sweep forgets those who wait for nothing, and whose answers are of no use any more, once there are twice as many as after the
// last time. The caller holds the lock.
func (r *Resolver) sweep(now time.Time) {
	if len(r.askers) < r.sweepAt {
		return
	}
	for who, a := range r.askers {
		if slices.ContainsFunc(a.names, func(known *entry) bool {
			// The failures are remembered for a while longer.
			return known.pending || !known.answer.Until.Add(maxRetry).Before(now)
		}) {
			continue
		}
		for _, known := range a.names {
			r.drop(a, known)
		}
		delete(r.askers, who)
	}
	r.sweepAt = max(2*len(r.askers), concurrency)
}
