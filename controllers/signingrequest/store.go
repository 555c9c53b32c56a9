// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// readTimeout bounds a look into a cache that is not synced yet.
const readTimeout = time.Second

// Store holds what became of the requests, in memory only: the requests themselves say the rest.
type Store struct {
	requests requestSource
	rules    *rules
	changed  enqueue.Signal

	mu     sync.Mutex
	judged map[string]judged
	// disputed are the nodes that wait because another one claims an address of theirs, by that other one.
	disputed map[string]map[string]struct{}
	denied   []policy.Denial
	// suspended is the breaker's state.
	suspended bool
	// settled are the policies by whose present rules every undecided request was judged once: the version of the rules that they
	// came with, by the policy's UID. settling says that there were others when somebody asked last.
	settled  map[types.UID]int
	settling bool
}

// judged is what was found about the newest undecided request of a node.
type judged struct {
	// uid and resourceVersion are of the request that was judged.
	uid             types.UID
	resourceVersion string
	// version is that of the rules.
	version int
	verdict csr.Verdict
	reason  csr.Reason
	// decided says that this version of the request is past: a decision was written, by us or somebody else.
	decided bool
	// rival is the node that claims an address of this one; empty if that is not what it waits for.
	rival string
	// refused says that the API server refused the decision, and that it is still wanted.
	refused bool
	// report is what a policy reports; nil if there is nothing to report.
	report *policy.JudgedRequest
}

func newStore(requests requestSource, rules *rules) *Store {
	return &Store{
		requests: requests, rules: rules, judged: map[string]judged{}, disputed: map[string]map[string]struct{}{},
		changed: enqueue.NewSignal(),
	}
}

// Snapshot returns what there is to report about requests, and the permissions that are missing to decide on them. The first is
// nil while the requests cannot be read. When a policy changes, what was found about a request stands until that is judged again.
func (s *Store) Snapshot() (*policy.Approvals, []policy.Denial) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	set, err := s.rules.current(ctx)
	if err != nil {
		return nil, nil
	}
	requests, err := s.requests.List()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(set.all()) == 0 {
		s.settled, s.settling = nil, false
		return &policy.Approvals{}, nil
	}
	if err != nil {
		return nil, s.denials()
	}
	known := &policy.Approvals{Suspended: s.suspended, Unjudged: s.settle(set, requests)}
	for _, j := range s.judged {
		if j.report != nil {
			known.Requests = append(known.Requests, *j.report)
		}
	}
	slices.SortFunc(known.Requests, func(a, b policy.JudgedRequest) int { return cmp.Compare(a.Name, b.Name) })
	return known, s.denials()
}

// denials are the permissions that are missing, or that decisions are refused though none is. The caller holds the lock.
func (s *Store) denials() []policy.Denial {
	if len(s.denied) > 0 {
		return s.denied
	}
	for _, j := range s.judged {
		if j.refused {
			return []policy.Denial{denial(permissions[0].name, otherwiseRefused)}
		}
	}
	return nil
}

// settle returns the names of the policies by whose present rules some undecided request has not been judged yet. Requests that
// come later are not waited for. The caller holds the lock.
func (s *Store) settle(set *ruleSet, requests []*certificatesv1.CertificateSigningRequest) []string {
	settled := make(map[types.UID]int, len(set.of))
	var unjudged []string
	everything := sync.OnceValue(func() int { return s.judgedBy(set.version, requests) })
	for i := range set.of {
		p := &set.of[i]
		switch {
		case p.rules == nil:
		case s.settled[p.uid] == p.since || everything() >= p.since:
			settled[p.uid] = p.since
		default:
			unjudged = append(unjudged, p.name)
		}
	}
	s.settled, s.settling = settled, len(unjudged) > 0
	return unjudged
}

// judgedBy is the version of the rules by which, or by a later one, every undecided request was judged. The caller holds the
// lock.
func (s *Store) judgedBy(version int, requests []*certificatesv1.CertificateSigningRequest) int {
	for _, request := range requests {
		if node := csr.NodeName(request); node != "" && isUndecided(request) {
			version = min(version, s.judged[node].version)
		}
	}
	return version
}

// Changed receives an event after every change of the snapshot. It has one receiver.
func (s *Store) Changed() <-chan event.GenericEvent { return s.changed }

// note keeps what was found about a node's newest request, and says whether it is news.
func (s *Store) note(
	node string, version int, request *certificatesv1.CertificateSigningRequest, d csr.Decision,
) (news bool) {
	next := judged{
		uid: request.UID, resourceVersion: request.ResourceVersion, version: version, verdict: d.Verdict, reason: d.Reason,
		rival: d.Rival,
	}
	if d.Violated || len(d.By) > 0 && len(d.Overruled) > 0 {
		next.report = &policy.JudgedRequest{
			Name: request.Name, NodeName: node, Created: request.CreationTimestamp.Time,
			Reason: string(d.Reason), Message: d.Message, Violated: d.Violated, By: d.By, Overruled: d.Overruled,
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.judged[node]
	next.refused = before.refused && before.uid == next.uid && (d.Verdict == csr.Approve || d.Verdict == csr.Deny)
	s.judged[node] = next
	s.dispute(node, before.rival, next.rival)
	if s.settling || before.refused != next.refused || !reflect.DeepEqual(before.report, next.report) {
		s.changed.Send()
	}
	return before.uid != next.uid || before.verdict != next.verdict || before.reason != next.reason
}

// forget drops what is known of a node that waits for nothing.
func (s *Store) forget(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.judged[node]
	delete(s.judged, node)
	s.dispute(node, before.rival, "")
	if ok && (before.report != nil || before.refused || s.settling) {
		s.changed.Send()
	}
}

// decide notes that this version of the request is past.
func (s *Store) decide(node string, request *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.judged[node]
	if !ok || j.uid != request.UID || j.resourceVersion != request.ResourceVersion {
		return
	}
	if j.refused {
		s.changed.Send()
	}
	j.decided, j.refused = true, false
	s.judged[node] = j
}

// refuse notes that the API server refused the decision on a request. That stands until it accepts it, or until it is not wanted
// any more.
func (s *Store) refuse(node string, request *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.judged[node]; ok && j.uid == request.UID && !j.refused {
		j.refused = true
		s.judged[node] = j
		s.changed.Send()
	}
}

// isDecided says whether this version of the request is past.
func (s *Store) isDecided(node string, request *certificatesv1.CertificateSigningRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.judged[node]
	return j.decided && j.uid == request.UID && j.resourceVersion == request.ResourceVersion
}

// dispute keeps which other node claims an address of a node: the one now, and not the one before. Either is empty for none. The
// caller holds the lock.
func (s *Store) dispute(node, before, now string) {
	if before == now {
		return
	}
	if delete(s.disputed[before], node); len(s.disputed[before]) == 0 {
		delete(s.disputed, before)
	}
	if now == "" {
		return
	}
	if s.disputed[now] == nil {
		s.disputed[now] = map[string]struct{}{}
	}
	s.disputed[now][node] = struct{}{}
}

// contestedBy are the nodes that wait because the other one claims an address of theirs.
func (s *Store) contestedBy(other string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.disputed[other]))
}

// suspend keeps the breaker's state.
func (s *Store) suspend(suspended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspended != suspended {
		s.changed.Send()
	}
	s.suspended = suspended
}

// deny keeps which permissions are missing.
func (s *Store) deny(denied []policy.Denial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !reflect.DeepEqual(s.denied, denied) {
		s.denied = denied
		s.changed.Send()
	}
}
