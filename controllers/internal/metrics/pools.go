// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

const (
	// maxPools bounds the series: a node may label itself, and so make pools.
	maxPools = 100
	// noPool and otherPools stand for the nodes of no pool, and of those that are left when there are too many. No label
	// has a value like these.
	noPool, otherPools = "(none)", "(others)"
)

var usedDesc = prometheus.NewDesc("notafter_certificate_lifetime_used_ratio",
	"How much of their lifetimes the newest known certificates of a node pool have used at the time of the scrape: 0 is "+
		"notBefore, 1 notAfter. A histogram of what is there now, so its quantiles need no rate.",
	[]string{"node_pool", "purpose"}, nil)

// usedBuckets have bounds where kubelets begin and end to renew, 0.7 and 0.9, and at the expiry.
var usedBuckets = []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1}

type poolCollector struct {
	reader client.Reader
	clock  clock.PassiveClock
}

// NewPools returns the collector of the ages of the nodes' certificates, by node pool. It reads Nodes and NodeCertificates.
// It has a few series where those of each certificate are thousands.
func NewPools(reader client.Reader, now clock.PassiveClock) prometheus.Collector {
	return poolCollector{reader, now}
}

// Describe implements prometheus.Collector.
func (poolCollector) Describe(descs chan<- *prometheus.Desc) { descs <- usedDesc }

// Collect implements prometheus.Collector. While a cache can't be read, there is nothing; notafter_source_readable says so.
func (c poolCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	var nodes corev1.NodeList
	if err := c.reader.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	var facts v1alpha1.NodeCertificatesList
	if err := c.reader.List(ctx, &facts, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	pools := poolsOf(nodes.Items)
	type key struct {
		pool    string
		purpose v1alpha1.CertificatePurpose
	}
	histograms := map[key]*usage{}
	for i := range facts.Items {
		pool, ok := pools[facts.Items[i].Name]
		if !ok {
			continue // its Node is gone, and it goes, too
		}
		for j := range facts.Items[i].Status.Certificates {
			certificate := &facts.Items[i].Status.Certificates[j]
			if !inUse(certificate) || certificate.NotBefore.IsZero() {
				continue
			}
			at := key{pool, certificate.Purpose}
			if histograms[at] == nil {
				histograms[at] = newUsage()
			}
			histograms[at].add(c.used(certificate))
		}
	}
	for at, h := range histograms {
		metric, err := prometheus.NewConstHistogram(usedDesc, h.count, h.sum, h.buckets, at.pool, string(at.purpose))
		if err != nil {
			metric = prometheus.NewInvalidMetric(usedDesc, err)
		}
		metrics <- metric
	}
}

// inUse says whether the certificate is, of those known of a node, the one in use as far as anybody knows: the serving
// certificate that a handshake showed, and the client certificate that was issued last.
func inUse(certificate *v1alpha1.CertificateStatus) bool {
	return (certificate.Source == v1alpha1.SourceHandshake) == (certificate.Purpose == v1alpha1.PurposeKubeletServing)
}

func (c poolCollector) used(certificate *v1alpha1.CertificateStatus) float64 {
	// In seconds, because a time.Duration holds 292 years at most.
	begin, end := certificate.NotBefore.Unix(), certificate.NotAfter.Unix()
	if end <= begin {
		return 1
	}
	return float64(c.clock.Now().Unix()-begin) / float64(end-begin)
}

// poolsOf returns the pool of each node, by the node's name. Of too many pools, the smallest are taken together.
func poolsOf(nodes []corev1.Node) map[string]string {
	pools := make(map[string]string, len(nodes))
	sizes := map[string]int{}
	for i := range nodes {
		pool, label := policy.NodePool(nodes[i].Labels)
		if label == "" {
			pool = noPool
		}
		pools[nodes[i].Name] = pool
		sizes[pool]++
	}
	if len(sizes) <= maxPools {
		return pools
	}
	largest := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	for _, small := range largest[maxPools-1:] {
		sizes[small] = 0
	}
	for node, pool := range pools {
		if sizes[pool] == 0 {
			pools[node] = otherPools
		}
	}
	return pools
}

// usage is a histogram that is being counted.
type usage struct {
	count   uint64
	sum     float64
	buckets map[float64]uint64
}

func newUsage() *usage {
	u := &usage{buckets: make(map[float64]uint64, len(usedBuckets))}
	for _, bound := range usedBuckets {
		u.buckets[bound] = 0
	}
	return u
}

func (u *usage) add(used float64) {
	u.count++
	u.sum += used
	for _, bound := range usedBuckets {
		if used <= bound {
			u.buckets[bound]++
		}
	}
}
