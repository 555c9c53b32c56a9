// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

var (
	planeNotAfterDesc = prometheus.NewDesc("notafter_control_plane_certificate_not_after_timestamp_seconds",
		"When the certificate of this purpose and source expires, in seconds since the epoch; of several in a bundle, the last.",
		[]string{"purpose", "source"}, nil)
	planeNotBeforeDesc = prometheus.NewDesc("notafter_control_plane_certificate_not_before_timestamp_seconds",
		"When that certificate starts to be valid, in seconds since the epoch.",
		[]string{"purpose", "source"}, nil)
)

// ControlPlane is what is known of the control plane; the first result is nil until anything is.
type ControlPlane interface {
	Snapshot() (*policy.ControlPlane, []policy.Denial)
}

type planeCollector struct{ known ControlPlane }

// NewControlPlane returns the collector of the certificates of the control plane.
func NewControlPlane(known ControlPlane) prometheus.Collector {
	return planeCollector{known}
}

// Describe implements prometheus.Collector.
func (planeCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- planeNotAfterDesc
	descs <- planeNotBeforeDesc
}

// Collect implements prometheus.Collector. A bundle works for as long as its last certificate does, so that is the one that
// it has a series of; a series for each would need its serial number as a label, and an old CA next to a new one would
// alert for as long as it stays there.
func (c planeCollector) Collect(metrics chan<- prometheus.Metric) {
	known, _ := c.known.Snapshot()
	if known == nil {
		return
	}
	type place struct {
		purpose v1alpha1.CertificatePurpose
		source  string
	}
	last := map[place]*policy.Certificate{}
	for i := range known.Certificates {
		certificate := &known.Certificates[i]
		at := place{certificate.Purpose, certificate.Source}
		if last[at] == nil || certificate.NotAfter.After(last[at].NotAfter) {
			last[at] = certificate
		}
	}
	send := gauges(metrics)
	for _, at := range slices.SortedFunc(maps.Keys(last), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.purpose, b.purpose), cmp.Compare(a.source, b.source))
	}) {
		send(planeNotBeforeDesc, float64(last[at].NotBefore.Unix()), string(at.purpose), at.source)
		send(planeNotAfterDesc, float64(last[at].NotAfter.Unix()), string(at.purpose), at.source)
	}
}
