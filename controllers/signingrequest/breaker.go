// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/controllers/internal/cached"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// breakerInterval is how long a count of those who wait is good for.
const breakerInterval = 100 * time.Millisecond

// recount is the item of work that has those counted who came while a count was good.
var recount reconcile.Request

// breaker stops all approvals while an absurd number of nodes waits for one: somebody makes up nodes, or something is very
// wrong, and people should look first. It counts nodes and not requests, of which each node files another one every quarter of
// an hour: those who wait for long must not be the reason to wait longer. Nor must machines that are gone, whose requests stay
// for a day.
type breaker struct {
	requests requestSource
	nodes    cache.Cache
	store    *Store
	wake     *waker
	metrics  *decisionMetrics

	mu     sync.Mutex
	at     time.Time
	set    *ruleSet
	isOpen bool
	// outdated says that somebody asked since the count, and that it will be made again.
	outdated bool
}

// open says whether approvals are suspended.
func (b *breaker) open(ctx context.Context, set *ruleSet, now time.Time) (bool, error) {
	isOpen, changed, err := b.look(ctx, set, now)
	if changed {
		b.metrics.suspend(isOpen)
		b.wake.all()
		b.wake.after(recount, breakerInterval)
	}
	return isOpen, err
}

func (b *breaker) look(ctx context.Context, set *ruleSet, now time.Time) (isOpen, changed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == set && now.Sub(b.at) < breakerInterval && !now.Before(b.at) {
		if !b.outdated {
			b.outdated = true
			b.wake.after(recount, breakerInterval)
		}
		return b.isOpen, false, nil
	}
	b.outdated = false
	requests, err := b.requests.List()
	if err != nil {
		return b.isOpen, false, err
	}
	nodes, err := cached.Of(ctx, b.nodes, &corev1.Node{})
	if err != nil {
		return b.isOpen, false, err
	}
	isOpen = set.approves() && csr.PendingNodes(requests, now) > csr.PendingLimit(set.all(), len(nodes.List()))
	changed = isOpen != b.isOpen
	b.at, b.set, b.isOpen = now, set, isOpen
	b.store.suspend(isOpen)
	return isOpen, changed, nil
}
