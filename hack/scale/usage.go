// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"

	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

// usage is what the manager says that it did.
type usage struct {
	probes float64
	// requests to the API server, by method and status code.
	requests map[string]float64
}

func read(ctx context.Context, manager *operator.Operator) (usage, error) {
	families, err := manager.Metrics(ctx)
	if err != nil {
		return usage{}, err
	}
	u := usage{requests: map[string]float64{}}
	for _, metric := range families["notafter_probes_total"].GetMetric() {
		u.probes += metric.GetCounter().GetValue()
	}
	for _, metric := range families["rest_client_requests_total"].GetMetric() {
		u.requests[label(metric, "method")+" "+label(metric, "code")] += metric.GetCounter().GetValue()
	}
	return u, nil
}

func label(metric *dto.Metric, name string) string {
	for _, pair := range metric.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func (u usage) since(before usage) usage {
	difference := usage{probes: u.probes - before.probes, requests: map[string]float64{}}
	for what, count := range u.requests {
		if more := count - before.requests[what]; more != 0 {
			difference.requests[what] = more
		}
	}
	return difference
}

func printUsage(manager *operator.Operator, when string, u usage) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", manager.PID()))
	if err != nil {
		return fmt.Errorf("reading the manager's memory: %w", err)
	}
	var memory []string
	for line := range strings.Lines(string(status)) {
		if key, value, _ := strings.Cut(line, ":"); key == "VmRSS" || key == "VmHWM" {
			memory = append(memory, key+" "+strings.TrimSpace(value))
		}
	}
	fmt.Printf("%9s  %s: %s; %v probes; requests:", "", when, strings.Join(memory, ", "), u.probes)
	for _, what := range slices.Sorted(maps.Keys(u.requests)) {
		fmt.Printf(" %s: %v,", what, u.requests[what])
	}
	fmt.Println()
	return nil
}

// bareLoop makes one handshake with every kubelet and nothing else: what a probe costs at the least.
func bareLoop(ctx context.Context, fleet *kubelet.Fleet) error {
	var group errgroup.Group
	group.SetLimit(concurrency)
	began := time.Now()
	kubelets := fleet.Kubelets()
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // what is measured is the handshake
	for _, k := range kubelets {
		group.Go(func() error {
			connection, err := dialer.DialContext(ctx, "tcp", k.Addr().String())
			if err != nil {
				return err
			}
			return connection.Close()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	report("a bare loop of %d handshakes, %d at a time", time.Since(began), len(kubelets), concurrency)
	return nil
}
