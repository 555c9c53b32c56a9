// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/notafter/notafter/controllers/internal/observe/dns"
	"github.com/notafter/notafter/hack/dnsserver"
)

const (
	// soon is how long anything may take on a busy machine.
	soon = time.Minute
	// timeout of lookups that nobody answers: longer than the resolver's patience, and no longer than a test likes to wait.
	timeout = time.Second
	asker   = "node-1"
)

var (
	start   = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	first   = netip.MustParseAddr("192.0.2.1")
	second  = netip.MustParseAddr("2001:db8::1")
	compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmp.Transformer("text", text)}
)

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// bench is a resolver and what there is to know of it.
type bench struct {
	*dns.Resolver
	clock *testingclock.FakeClock
	woken chan string
}

func newBench(lookup dns.LookupFunc) bench {
	b := bench{clock: testingclock.NewFakeClock(start), woken: make(chan string, 10_000)}
	b.Resolver = dns.New(dns.Options{Clock: b.clock, Lookup: lookup, Wake: func(who string) { b.woken <- who }})
	return b
}

// answer asks, waits until it is woken, and asks again.
func (b bench) answer(t *testing.T, name string) dns.Answer {
	t.Helper()
	return b.answerWithin(t, name, soon)
}

// answerWithin does so with a timeout of the lookup.
func (b bench) answerWithin(t *testing.T, name string, within time.Duration) dns.Answer {
	t.Helper()
	if known, ok := b.Resolve(t.Context(), asker, []string{name}, within)[name]; ok {
		return known
	}
	b.await(t, asker)
	known, ok := b.Resolve(t.Context(), asker, []string{name}, within)[name]
	if !ok {
		t.Fatalf("%s: no answer is known after the wake", name)
	}
	return known
}

func (b bench) await(t *testing.T, who string) {
	t.Helper()
	select {
	case woken := <-b.woken:
		if woken != who {
			t.Fatalf("woke %s, want %s", woken, who)
		}
	case <-time.After(soon):
		t.Fatal("nobody was woken")
	}
}

func startServer(t *testing.T, reply func(name string) dnsserver.Reply) *dnsserver.Server {
	t.Helper()
	server, err := dnsserver.Start(reply)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func TestAnswers(t *testing.T) {
	server := startServer(t, func(name string) dnsserver.Reply {
		switch name {
		case "both.example.com":
			return dnsserver.Reply{Addresses: []netip.Addr{second, first, first}}
		case "broken.example.com":
			return dnsserver.Reply{Fails: true}
		case "silent.example.com":
			return dnsserver.Reply{BlackHole: true}
		default:
			return dnsserver.Reply{}
		}
	})
	b := newBench(dns.System(server.Addr()))
	for name, want := range map[string]dns.Answer{
		"both.example.com":   {Outcome: dns.Resolved, Addresses: []netip.Addr{first, second}, Until: start.Add(30 * time.Second)},
		"absent.example.com": {Outcome: dns.NotFound, Until: start.Add(5 * time.Second)},
		"broken.example.com": {
			Outcome: dns.Failed, Until: start.Add(5 * time.Second),
			Err: errors.New("looking up broken.example.com: server misbehaving"),
		},
		"silent.example.com": {
			Outcome: dns.TimedOut, Until: start.Add(5 * time.Second),
			Err: errors.New("looking up silent.example.com: no answer within 1s"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			within := soon
			if want.Outcome == dns.TimedOut {
				within = timeout
			}
			if diff := cmp.Diff(want, b.answerWithin(t, name, within), compare); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A short name is what anybody who may create a Service could answer for, by way of a Pod's search domains.
func TestNamesAreFullyQualified(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	b := newBench(func(_ context.Context, name string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, name)
		return []netip.Addr{first}, nil
	})
	b.answer(t, "Node-1")
	b.answer(t, "node-1.example.com.")
	if diff := cmp.Diff([]string{"node-1.", "node-1.example.com."}, asked); diff != "" {
		t.Errorf("names looked up (-want +got):\n%s", diff)
	}
}

func TestUnreachableServer(t *testing.T) {
	server, err := dnsserver.Start(func(string) dnsserver.Reply { return dnsserver.Reply{} })
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	answer := newBench(dns.System(server.Addr())).answer(t, "a.example.com")
	if answer.Outcome != dns.Failed || text(answer.Err) != "looking up a.example.com: the DNS server cannot be reached" {
		t.Errorf("got %s, %v", answer.Outcome, answer.Err)
	}
}

func TestAnswersAreKept(t *testing.T) {
	lookups := 0
	failing := false
	b := newBench(func(context.Context, string) ([]netip.Addr, error) {
		lookups++
		if failing {
			return nil, errors.New("broken")
		}
		return []netip.Addr{first}, nil
	})
	expect := func(step string, outcome dns.Outcome, want int) {
		t.Helper()
		if answer := b.answer(t, "a.example.com"); answer.Outcome != outcome || lookups != want {
			t.Fatalf("%s: got %s after %d lookups, want %s after %d", step, answer.Outcome, lookups, outcome, want)
		}
	}
	expect("at first", dns.Resolved, 1)
	b.clock.Step(29 * time.Second)
	expect("while it is good", dns.Resolved, 1)
	failing = true
	b.clock.Step(time.Second)
	expect("when it is stale", dns.Failed, 2)
	for i, seconds := range []int{5, 10, 20, 40, 80, 160, 300, 300} {
		b.clock.Step(time.Duration(seconds)*time.Second - time.Nanosecond)
		expect(fmt.Sprintf("before retry %d", i), dns.Failed, 2+i)
		b.clock.Step(time.Nanosecond)
		expect(fmt.Sprintf("at retry %d", i), dns.Failed, 3+i)
	}
	failing = false
	b.clock.Step(300 * time.Second)
	expect("when it can be looked up again", dns.Resolved, 11)
}

// Several who ask for a name at the same time cost one lookup, and each is woken.
func TestOneLookupForAll(t *testing.T) {
	release := make(chan struct{})
	lookups := make(chan struct{}, 10)
	b := newBench(func(context.Context, string) ([]netip.Addr, error) {
		lookups <- struct{}{}
		<-release
		return []netip.Addr{first}, nil
	})
	for _, who := range []string{"node-1", "node-2", "node-1"} {
		if known := b.Resolve(t.Context(), who, []string{"a.example.com"}, soon); len(known) > 0 {
			t.Fatalf("%s was told %v before there was an answer", who, known)
		}
	}
	close(release)
	b.await(t, "node-1")
	b.await(t, "node-2")
	if got := len(lookups); got != 1 {
		t.Errorf("%d lookups, want 1", got)
	}
}

// Names that a server does not answer for hold up nobody else: not while they are tried, nor while they are tried again.
func TestBlackHoleDelaysOnlyItself(t *testing.T) {
	const silent, answered = 300, 2000 // more than there are places
	lookup := func(ctx context.Context, name string) ([]netip.Addr, error) {
		if strings.HasPrefix(name, "silent") {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []netip.Addr{first}, nil
	}
	b := newBench(lookup)
	long := 10 * time.Minute
	for i := range silent {
		b.Resolve(t.Context(), fmt.Sprint("silent-", i), []string{fmt.Sprintf("silent-%d.example.com", i)}, long)
	}
	waiting := map[string]bool{}
	for i := range answered {
		waiting[fmt.Sprint("node-", i)] = true
		b.Resolve(t.Context(), fmt.Sprint("node-", i), []string{fmt.Sprintf("answered-%d.example.com", i)}, long)
	}
	for len(waiting) > 0 {
		select {
		case woken := <-b.woken:
			delete(waiting, woken)
		case <-time.After(soon):
			t.Fatalf("%d of %d were not woken", len(waiting), answered)
		}
	}
}

// slowServer answers for the first kind of names at once, for the second after 600 ms, which is longer than a moment, and never for
// any other.
func slowServer(ctx context.Context, name string) ([]netip.Addr, error) {
	var delay <-chan time.Time
	switch {
	case strings.HasPrefix(name, "prompt"):
		return []netip.Addr{first}, nil
	case strings.HasPrefix(name, "slow"):
		delay = time.After(600 * time.Millisecond)
	}
	select {
	case <-delay:
		return []netip.Addr{first}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// named are so many names.
func named(kind string, from, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d.example.com", kind, from+i)
	}
	return names
}

// contest has some ask for names, and then the node B for one; it returns how long B waits. The time is not real.
func contest(t *testing.T, name string, others func(ask func(who string, names []string))) (waited time.Duration) {
	t.Helper()
	const b = "b"
	synctest.Test(t, func(t *testing.T) {
		woken := make(chan time.Time, 1)
		r := dns.New(dns.Options{Clock: clock.RealClock{}, Lookup: slowServer, Wake: func(who string) {
			if who == b {
				woken <- time.Now()
			}
		}})
		others(func(who string, names []string) {
			r.Resolve(t.Context(), who, names, 5*time.Second)
			t.Cleanup(func() { r.Resolve(context.Background(), who, nil, 0) }) // which gives up what runs
		})
		began := time.Now()
		if known := r.Resolve(t.Context(), b, []string{name}, 5*time.Second); len(known) > 0 {
			t.Fatalf("B is told at once: %v", known)
		}
		waited = (<-woken).Sub(began)
		if answer := r.Resolve(t.Context(), b, []string{name}, 5*time.Second)[name]; answer.Outcome != dns.Resolved {
			t.Errorf("B is told: %+v", answer)
		}
	})
	return waited
}

// A node chooses how many names it asks for, and how often. That takes neither room nor time from the others.
func TestOneNodeDoesNotStarveAnother(t *testing.T) {
	const most = 16
	for name, test := range map[string]struct {
		name   string
		within time.Duration
		others func(ask func(who string, names []string))
	}{
		"60,000 names": {"prompt-b.example.com", time.Second, func(ask func(string, []string)) {
			for i := 0; i < 60_000; i += most {
				ask("a", named("prompt-a", i, most))
			}
		}},
		"1,000 names that nobody answers for": {"slow-b.example.com", 2 * time.Second, func(ask func(string, []string)) {
			for i := 0; i < 1_000; i += most {
				ask("a", named("silent", i, most))
			}
		}},
		"all at once": {"slow-b.example.com", 2 * time.Second, func(ask func(string, []string)) { ask("a", named("silent", 0, 1_000)) }},
		// Of 20 nodes with 320 names, that are ten times as many as there are places, each has one looked up before any has a second.
		"many nodes": {"slow-b.example.com", 8 * time.Second, func(ask func(string, []string)) {
			for i := range 20 {
				ask(fmt.Sprint("a-", i), named(fmt.Sprint("silent-", i), 0, most))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if waited := contest(t, test.name, test.others); waited > test.within {
				t.Errorf("B waited for %s, want at most %s", waited, test.within)
			}
		})
	}
}

// What a node asked for before is given up, unless another one asks for it, too.
func TestForgetsNames(t *testing.T) {
	var mu sync.Mutex
	running := map[string]bool{}
	set := func(name string, is bool) {
		mu.Lock()
		defer mu.Unlock()
		running[name] = is
	}
	release := make(chan struct{})
	b := newBench(func(ctx context.Context, name string) ([]netip.Addr, error) {
		set(name, true)
		defer set(name, false)
		select {
		case <-release:
			return []netip.Addr{first}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	eventually := func(want ...string) {
		t.Helper()
		ticks, deadline := time.NewTicker(time.Millisecond), time.After(soon)
		defer ticks.Stop()
		for {
			mu.Lock()
			var got []string
			for name, is := range running {
				if is {
					got = append(got, name)
				}
			}
			mu.Unlock()
			slices.Sort(got)
			if slices.Equal(got, want) {
				return
			}
			select {
			case <-ticks.C:
			case <-deadline:
				t.Fatalf("looking up %v, want %v", got, want)
			}
		}
	}
	long := time.Hour
	b.Resolve(t.Context(), "node-1", []string{"a.", "b.", "c."}, long)
	b.Resolve(t.Context(), "node-2", []string{"b."}, long)
	eventually("a.", "b.", "c.")
	b.Resolve(t.Context(), "node-1", []string{"c.", "d."}, long)
	eventually("b.", "c.", "d.")
	close(release)
	b.Resolve(t.Context(), "node-3", []string{"a."}, long)
	for woken := map[string]bool{}; len(woken) < 3; {
		woken[<-b.woken] = true
	}
	if answer := b.Resolve(t.Context(), "node-3", []string{"a."}, long)["a."]; answer.Outcome != dns.Resolved {
		t.Errorf("asked for again: %+v", answer)
	}
}

func TestTooManyNames(t *testing.T) {
	b := newBench(func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{first}, nil })
	names := named("name", 0, 17)
	for i, name := range names {
		answer, known := b.Resolve(t.Context(), asker, names, timeout)[name]
		if tooMany := known && answer.Outcome == dns.Failed; tooMany != (i == 16) {
			t.Errorf("%s: %+v", name, answer)
		}
	}
}
