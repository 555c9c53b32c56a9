// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/observe/dns"
)

// decisionMetrics count what became of requests. They carry no node: a series per node belongs to the state metrics.
type decisionMetrics struct {
	decisions *prometheus.CounterVec
	delay     prometheus.Histogram
	suspended prometheus.Gauge
	lookups   *prometheus.CounterVec
	lookup    prometheus.Histogram
}

// newDecisionMetrics registers the metrics.
func newDecisionMetrics(registerer prometheus.Registerer) (*decisionMetrics, error) {
	m := &decisionMetrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notafter_signing_request_decisions_total",
			Help: "Requests for kubelet serving certificates that were decided on, by decision and reason. Approve and Deny were " +
				"written, once each; any other counts whenever that is, or becomes, what is found of a request. Leader only.",
		}, []string{"decision", "reason"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "notafter_signing_request_decision_delay_seconds",
			Help:    "How old requests for kubelet serving certificates were when they were approved or denied. Leader only.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
		}),
		suspended: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "notafter_signing_request_approval_suspended",
			Help: "1 while nothing is approved because too many nodes wait for a serving certificate. Leader only.",
		}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "notafter_dns_lookups_total",
			Help: "Names in requests for kubelet serving certificates that were looked up, by outcome. Leader only.",
		}, []string{"outcome"}),
		lookup: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "notafter_dns_lookup_duration_seconds",
			Help:    "How long looking up a name took. Leader only.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}),
	}
	if err := errors.Join(
		registerer.Register(m.decisions), registerer.Register(m.delay), registerer.Register(m.suspended),
		registerer.Register(m.lookups), registerer.Register(m.lookup),
	); err != nil {
		return nil, fmt.Errorf("registering the metrics of controller %s: %w", controllerName, err)
	}
	for _, outcome := range dns.Outcomes {
		// From the start, so that a first failure is an increase.
		m.lookups.WithLabelValues(string(outcome))
	}
	return m, nil
}

// judged counts what was found about a request. What is to be written counts once it is.
func (m *decisionMetrics) judged(d csr.Decision) {
	if d.Verdict != csr.Approve && d.Verdict != csr.Deny {
		m.decisions.WithLabelValues(string(d.Verdict), string(d.Reason)).Inc()
	}
}

// written counts a decision that was written on a request of that age.
func (m *decisionMetrics) written(d csr.Decision, age time.Duration) {
	m.decisions.WithLabelValues(string(d.Verdict), string(d.Reason)).Inc()
	m.delay.Observe(age.Seconds())
}

func (m *decisionMetrics) suspend(suspended bool) {
	m.suspended.Set(0)
	if suspended {
		m.suspended.Set(1)
	}
}

func (m *decisionMetrics) lookedUp(outcome dns.Outcome, took time.Duration) {
	m.lookups.WithLabelValues(string(outcome)).Inc()
	m.lookup.Observe(took.Seconds())
}
