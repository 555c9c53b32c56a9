// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/tls"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the series of a kubelet that are about certificates, named as in pkg/kubelet/certificate and
// cmd/kubelet/app of Kubernetes. As there, a rotation that is switched off has no series at all.
type metrics struct {
	registry        *prometheus.Registry
	clientFailures  prometheus.Counter
	servingFailures prometheus.Counter
	servingRotation prometheus.Histogram
}

func newMetrics(p *process) *metrics {
	const (
		minute = 60
		hour   = 60 * minute
		day    = 24 * hour
	)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		clientFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_certificate_manager_client_expiration_renew_errors",
			Help: "[ALPHA] Counter of certificate renewal errors.",
		}),
		servingFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_server_expiration_renew_errors",
			Help: "[ALPHA] Counter of certificate renewal errors.",
		}),
		servingRotation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_certificate_manager_server_rotation_seconds",
			Help: "[ALPHA] Histogram of the number of seconds the previous certificate lived before being rotated.",
			Buckets: []float64{
				minute, hour, 4 * hour, day, 7 * day, 30 * day, 90 * day, 180 * day, 360 * day, 1440 * day,
			},
		}),
	}
	if !p.options.NoClientRotation {
		m.registry.MustRegister(m.clientFailures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_certificate_manager_client_ttl_seconds",
			Help: "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate.",
		}, func() float64 { return ttl(p.client.Current()) }))
	}
	if p.options.Serving == ServingRotation {
		m.registry.MustRegister(m.servingFailures, m.servingRotation, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_certificate_manager_server_ttl_seconds",
			Help: "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate.",
		}, func() float64 { return ttl(p.serving.current()) }))
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// ttl is +Inf without a certificate, and so after it expired: the certificate manager no longer returns it then.
func ttl(pair *tls.Certificate) float64 {
	current := leaf(pair)
	if current == nil {
		return math.Inf(1)
	}
	return math.Trunc(time.Until(current.NotAfter).Seconds())
}
