// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"testing"
	"time"
)

func nodes(n, failingPercent int) []Node {
	all := make([]Node, 0, n)
	for i := range n {
		node := healthy(fmt.Sprintf("aks-pool-%06d", i))
		if i%100 < failingPercent {
			alert(&node)
			pending(servingRequest(&node), -time.Hour)
		}
		all = append(all, node)
	}
	return all
}

func BenchmarkEvaluate(b *testing.B) {
	for _, failing := range []int{0, 10, 100} {
		for _, n := range []int{100, 1000, 5000} {
			in := Input{Spec: aksSpec(), Nodes: nodes(n, failing), Now: now}
			b.Run(fmt.Sprintf("%d/failing=%d%%", n, failing), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Evaluate(in)
				}
			})
		}
	}
}

// A node that is as it should be costs no allocation.
func TestHealthyNodesCostNoAllocation(t *testing.T) {
	allocations := func(n int) float64 {
		in := Input{Spec: aksSpec(), Nodes: nodes(n, 0), Now: now}
		return testing.AllocsPerRun(10, func() { Evaluate(in) })
	}
	// The race detector adds a few, but not one for each node.
	if few, many := allocations(10), allocations(1000); many > few+100 {
		t.Errorf("%v allocations for 10 nodes, %v for 1000", few, many)
	}
}
