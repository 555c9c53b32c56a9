// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/notafter/notafter/hack/operator"
)

// usage is what the manager says that it did and takes.
type usage struct {
	probes float64
	// evaluations of policies, and the seconds that all of them took.
	evaluations, evaluating float64
	// heapInUse and heapLive are bytes.
	heapInUse, heapLive float64
	// cpu is in seconds.
	cpu float64
}

func readUsage(ctx context.Context, manager *operator.Operator) (usage, error) {
	families, err := manager.Metrics(ctx)
	if err != nil {
		return usage{}, err
	}
	u := usage{
		heapInUse: gauge(families["go_memstats_heap_inuse_bytes"]),
		heapLive:  gauge(families["go_gc_heap_live_bytes"]),
	}
	for _, metric := range families["notafter_probes_total"].GetMetric() {
		u.probes += metric.GetCounter().GetValue()
	}
	for _, metric := range families["process_cpu_seconds_total"].GetMetric() {
		u.cpu += metric.GetCounter().GetValue()
	}
	for _, metric := range families["notafter_evaluation_duration_seconds"].GetMetric() {
		u.evaluations += float64(metric.GetHistogram().GetSampleCount())
		u.evaluating += metric.GetHistogram().GetSampleSum()
	}
	return u, nil
}

func gauge(family *dto.MetricFamily) float64 {
	total := 0.0
	for _, metric := range family.GetMetric() {
		total += metric.GetGauge().GetValue()
	}
	return total
}

// processMemory is the resident memory of a process, now and at its most.
func processMemory(pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", fmt.Errorf("reading the manager's memory: %w", err)
	}
	var memory []string
	for line := range strings.Lines(string(status)) {
		if key, value, _ := strings.Cut(line, ":"); key == "VmRSS" || key == "VmHWM" || key == "RssAnon" {
			memory = append(memory, key+" "+strings.TrimSpace(value))
		}
	}
	return strings.Join(memory, ", "), nil
}
