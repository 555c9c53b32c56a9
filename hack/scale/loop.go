// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
)

// bareLoopFlag makes this program the bare loop: a process of its own, as the manager is one.
const bareLoopFlag = "bare-loop"

// sweep measures a sweep over the kubelets as they see it: from the first handshake with one of them until the last of them
// had its first. The manager and the bare loop are so measured alike, and neither is disturbed.
type sweep struct {
	mu          sync.Mutex
	seen        map[string]struct{}
	first, last time.Time
}

func (s *sweep) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.first, s.last = map[string]struct{}{}, time.Time{}, time.Time{}
}

// note is told of every handshake.
func (s *sweep) note(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[node]; ok || s.seen == nil {
		return
	}
	s.last = time.Now()
	if s.first.IsZero() {
		s.first = s.last
	}
	s.seen[node] = struct{}{}
}

func (s *sweep) state() (nodes int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen), s.last.Sub(s.first)
}

// await waits until every node had its handshake.
func (s *sweep) await(ctx context.Context, nodes int) (time.Duration, error) {
	const interval = 50 * time.Millisecond
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(context.Context) (bool, error) {
		seen, _ := s.state()
		return seen == nodes, nil
	})
	seen, took := s.state()
	if err != nil {
		return took, fmt.Errorf("waiting for a handshake with each of %d nodes (%d so far): %w", nodes, seen, err)
	}
	return took, nil
}

// bareLoop makes one handshake with every kubelet and nothing else: what a sweep costs at the least.
func (m *measurement) bareLoop(ctx context.Context) (took, cpu time.Duration, err error) {
	m.sweep.begin()
	loop := exec.CommandContext(ctx, os.Args[0], "-"+bareLoopFlag) //nolint:gosec // this program itself
	loop.Stdin = strings.NewReader(strings.Join(m.addresses, "\n"))
	if out, err := loop.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("the bare loop: %w: %s", err, out)
	}
	took, err = m.sweep.await(ctx, m.options.nodes)
	return took, loop.ProcessState.UserTime() + loop.ProcessState.SystemTime(), err
}

// shakeHands is the bare loop. It connects, makes the handshake, in which the chain is parsed, and hangs up.
func shakeHands(ctx context.Context, list io.Reader) error {
	var group errgroup.Group
	group.SetLimit(concurrency)
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // what is measured is the handshake
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		address := lines.Text()
		group.Go(func() error {
			connection, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return connection.Close()
		})
	}
	return errors.Join(lines.Err(), group.Wait())
}
