// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/operator"
)

// measurement runs the manager and reads off what it takes.
type measurement struct {
	options   options
	cluster   *cluster.Cluster
	objects   client.Client
	dir       string
	audit     audit
	addresses []string
	sweep     *sweep
	manager   *operator.Operator
}

// run measures the manager from its start until every node has been judged, then again from a restart, which finds the facts
// that the first run stored, and at last while nothing happens.
func (m *measurement) run(ctx context.Context) error {
	if err := m.life(ctx, "first start, which stores the facts about every node"); err != nil {
		return err
	}
	return m.life(ctx, "restart, which finds them stored", m.evaluations, m.sizes, m.idle)
}

func (m *measurement) life(ctx context.Context, name string, phases ...func(context.Context) error) (err error) {
	report("\n%s; load average %s", name, loadAverage())
	bareBefore, _, err := m.bareLoop(ctx)
	if err != nil {
		return err
	}
	asked, err := m.audit.read()
	if err != nil {
		return err
	}
	m.sweep.begin()
	began := time.Now()
	m.manager, err = operator.Start(ctx, m.cluster, m.options.binary, m.dir, fmt.Sprintf("--probe-concurrency=%d", concurrency))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.manager.Stop()) }()
	swept, err := m.awaitVerdict(ctx)
	if err != nil {
		return fmt.Errorf("%w; the end of the manager's log:\n%s", err, m.manager.LogTail())
	}
	reportTime(time.Since(began), "all %d nodes probed and judged compliant, since the start", m.options.nodes)
	if err := m.usage(ctx, asked); err != nil {
		return err
	}
	if err := m.calm(ctx); err != nil {
		return err
	}
	bareAfter, cpu, err := m.bareLoop(ctx)
	if err != nil {
		return err
	}
	reportTime(swept, "sweep, from the first handshake to the last: %.2f times a bare loop with the same concurrency, "+
		"which took %.2f s before and %.2f s after, and %.2f s of CPU time", 2*float64(swept)/float64(bareBefore+bareAfter),
		bareBefore.Seconds(), bareAfter.Seconds(), cpu.Seconds())
	for _, phase := range phases {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitVerdict waits until this manager has probed every node and the policy says that all comply.
func (m *measurement) awaitVerdict(ctx context.Context) (swept time.Duration, err error) {
	const interval = 100 * time.Millisecond
	if swept, err = m.sweep.await(ctx, m.options.nodes); err != nil {
		return 0, err
	}
	policy := &v1alpha1.CertificatePolicy{}
	err = wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		if err := m.objects.Get(ctx, client.ObjectKey{Name: policyName}, policy); err != nil {
			return false, err
		}
		counts := policy.Status.Nodes
		return counts != nil && counts.Compliant != nil && *counts.Compliant == int32(m.options.nodes), nil
	})
	if err != nil {
		return 0, fmt.Errorf("waiting until %d nodes are judged compliant: %w; the policy's conditions are %+v",
			m.options.nodes, err, policy.Status.Conditions)
	}
	return swept, nil
}

// evaluations has the policy evaluated while nothing else happens: each change of a label asks for it.
func (m *measurement) evaluations(ctx context.Context) error {
	const count, pause = 20, 250 * time.Millisecond
	before, err := readUsage(ctx, m.manager)
	if err != nil {
		return err
	}
	for i := range count {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(0)}}
		patch := fmt.Sprintf(`{"metadata":{"labels":{"scale":"%d"}}}`, i)
		if err := m.objects.Patch(ctx, node, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			return err
		}
		if err := pauseFor(ctx, pause); err != nil {
			return err
		}
	}
	after, err := readUsage(ctx, m.manager)
	if err != nil {
		return err
	}
	n := after.evaluations - before.evaluations
	if n == 0 {
		return errors.New("no evaluation was counted while a Node's labels changed")
	}
	report("%9s  load average %s", "", loadAverage())
	report("%9s  %.1f ms for an evaluation of the policy, the mean of %v",
		"", 1000*(after.evaluating-before.evaluating)/n, n)
	return nil
}

// calm waits until the manager has done what there was to do: a sweep is over once every kubelet was looked at, but then each
// is asked about itself.
func (m *measurement) calm(ctx context.Context) error {
	const interval, little = 5 * time.Second, 0.75 // reading its metrics costs it some, too
	before := math.Inf(-1)
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		u, err := readUsage(ctx, m.manager)
		done := u.cpu-before < little
		before = u.cpu
		return done, err
	})
	if err != nil {
		return fmt.Errorf("waiting until the manager rests: %w", err)
	}
	return nil
}

// sizes tells how large what the manager wrote is.
func (m *measurement) sizes(ctx context.Context) error {
	policy := &v1alpha1.CertificatePolicy{}
	if err := m.objects.Get(ctx, client.ObjectKey{Name: policyName}, policy); err != nil {
		return err
	}
	status, err := json.Marshal(policy.Status)
	if err != nil {
		return err
	}
	var facts v1alpha1.NodeCertificatesList
	if err := m.objects.List(ctx, &facts); err != nil {
		return err
	}
	total, largest := 0, 0
	for i := range facts.Items {
		fact, err := json.Marshal(facts.Items[i].Status)
		if err != nil {
			return err
		}
		total, largest = total+len(fact), max(largest, len(fact))
	}
	report("%9s  %d bytes of status in the policy; in a NodeCertificates %d on average, %d at most",
		"", len(status), total/max(1, len(facts.Items)), largest)
	return nil
}

// idle watches while nothing happens but probes that are due.
func (m *measurement) idle(ctx context.Context) error {
	asked, err := m.audit.read()
	if err != nil {
		return err
	}
	report("\nidle for %s; load average %s", m.options.idle, loadAverage())
	if err := pauseFor(ctx, m.options.idle); err != nil {
		return err
	}
	return m.usage(ctx, asked)
}

// usage prints what the manager takes now, and what it has asked of the API server since.
func (m *measurement) usage(ctx context.Context, since requests) error {
	memory, err := processMemory(m.manager.PID())
	if err != nil {
		return err
	}
	u, err := readUsage(ctx, m.manager)
	if err != nil {
		return err
	}
	asked, err := m.audit.read()
	if err != nil {
		return err
	}
	asked = asked.since(since)
	report("%9s  memory: %s; Go heap %.0f MiB in use, %.0f MiB live after the last collection", "", memory,
		u.heapInUse/(1<<20), u.heapLive/(1<<20))
	report("%9s  since its start: %v probes, %v evaluations, %.1f s of CPU time", "", u.probes, u.evaluations, u.cpu)
	report("%9s  %d writes; requests: %s", "", asked.writes(), asked)
	return nil
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func loadAverage() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(load))[:3], " ")
}
