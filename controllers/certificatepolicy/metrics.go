// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// newEvaluationDuration registers the histogram of evaluations.
func newEvaluationDuration(registerer prometheus.Registerer) (prometheus.Observer, error) {
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "notafter_evaluation_duration_seconds",
		Help:    "How long one evaluation of a policy took: gathering the evidence from the caches and judging it.",
		Buckets: []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5},
	})
	if err := registerer.Register(duration); err != nil {
		return nil, fmt.Errorf("registering the metrics of evaluations: %w", err)
	}
	return duration, nil
}
