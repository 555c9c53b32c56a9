// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"reflect"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// Store holds what is known of the control plane and the trust bundles, in memory only.
type Store struct {
	mu       sync.RWMutex
	snapshot *policy.ControlPlane
	denied   []policy.Denial
	changed  enqueue.Signal
	// settled is closed when it was first set.
	settled     chan struct{}
	settledOnce sync.Once
}

func newStore() *Store {
	return &Store{changed: enqueue.NewSignal(), settled: make(chan struct{})}
}

// Snapshot returns what is known now, and the permissions that are missing to know more. The first is nil until every source
// that a policy asks for was read, or tried, once. Neither may be changed.
func (s *Store) Snapshot() (*policy.ControlPlane, []policy.Denial) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.snapshot, s.denied
}

// Changed receives an event after every change of the snapshot. It has one receiver.
func (s *Store) Changed() <-chan event.GenericEvent { return s.changed }

// Settled is closed when everything that the policies ask for was observed for the first time, or when they ask for nothing.
func (s *Store) Settled() <-chan struct{} { return s.settled }

// set takes over what is known, and says so if it is news.
func (s *Store) set(snapshot *policy.ControlPlane, denied []policy.Denial) {
	news := s.replace(snapshot, denied)
	s.settledOnce.Do(func() { close(s.settled) })
	if news {
		s.changed.Send()
	}
}

func (s *Store) replace(snapshot *policy.ControlPlane, denied []policy.Denial) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// All times are in UTC and in whole seconds, so that equal ones are deeply equal.
	if reflect.DeepEqual(s.snapshot, snapshot) && reflect.DeepEqual(s.denied, denied) {
		return false
	}
	s.snapshot, s.denied = snapshot, denied
	return true
}
