// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
)

// probeMetrics count the probes. They carry no node: a series per node belongs to the state metrics.
type probeMetrics struct {
	duration prometheus.Histogram
	total    *prometheus.CounterVec
	reads    *prometheus.CounterVec
}

// newProbeMetrics registers the metrics, that of when the next probe is due among them, which the records say.
func newProbeMetrics(registerer prometheus.Registerer, probed *records) (*probeMetrics, error) {
	m := &probeMetrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "notafter_probe_duration_seconds",
			Help:    "How long the TLS handshakes with kubelets took, connecting included.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notafter_probes_total",
			Help: "TLS handshakes with kubelets, by outcome.",
		}, []string{"outcome"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notafter_kubelet_reads_total",
			Help: "Attempts to read what kubelets say of themselves, by outcome.",
		}, []string{"outcome"}),
	}
	if err := errors.Join(
		registerer.Register(m.duration), registerer.Register(m.total), registerer.Register(m.reads),
		registerer.Register(dueCollector{probed}),
	); err != nil {
		return nil, fmt.Errorf("registering the metrics of the prober: %w", err)
	}
	// From the start, so that a first failure is an increase.
	for _, outcome := range []v1alpha1.ProbeOutcome{
		v1alpha1.ProbeCertificatePresented, v1alpha1.ProbeNoCertificate, v1alpha1.ProbeUnreachable, v1alpha1.ProbeHandshakeFailed,
	} {
		m.total.WithLabelValues(string(outcome))
	}
	for _, outcome := range []v1alpha1.KubeletOutcome{
		v1alpha1.KubeletRead, v1alpha1.KubeletAccessDenied, v1alpha1.KubeletUnverified, v1alpha1.KubeletFailed,
	} {
		m.reads.WithLabelValues(string(outcome))
	}
	return m, nil
}

var dueDesc = prometheus.NewDesc("notafter_probe_due_timestamp_seconds",
	"When the node that is due first is due for its next TLS handshake, in seconds since the epoch. While it is in the past, "+
		"the probes are behind. Missing while no node was probed. Leader only.", nil, nil)

// dueCollector tells when the next probe is due.
type dueCollector struct{ records *records }

// Describe implements prometheus.Collector.
func (dueCollector) Describe(descs chan<- *prometheus.Desc) { descs <- dueDesc }

// Collect implements prometheus.Collector.
func (c dueCollector) Collect(metrics chan<- prometheus.Metric) {
	if due := c.records.firstDue(); !due.IsZero() {
		metrics <- prometheus.MustNewConstMetric(dueDesc, prometheus.GaugeValue, float64(due.UnixMilli())/1e3)
	}
}

func (m *probeMetrics) observe(result tlsprobe.Result) {
	m.duration.Observe(result.Duration.Seconds())
	m.total.WithLabelValues(string(result.Outcome)).Inc()
}
