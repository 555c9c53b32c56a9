// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics reports the state of certificates, signing requests and policies to Prometheus. Everything is collected at
// scrape time from what is known then, so a series is gone as soon as its object is.
//
// Series about policies come from the leader only, because only the leader judges. Series about certificates and signing
// requests come from every replica, each from its own caches: aggregate them with max, not with sum.
package metrics

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// readTimeout bounds what one scrape waits for caches that are not synced yet. Reading a synced cache takes no time.
const readTimeout = 250 * time.Millisecond

// maxFindingSeries bounds the series of one policy's findings. When everything breaks at once, that is when monitoring must
// not break as well.
const maxFindingSeries = 1000

// sourceNodeCertificates is the source label of the NodeCertificates cache; the others are named by their signer.
const sourceNodeCertificates = "NodeCertificates"

var (
	notAfterDesc = prometheus.NewDesc("notafter_certificate_not_after_timestamp_seconds",
		"When the newest known certificate of this node, purpose and source expires, in seconds since the epoch.",
		[]string{"node", "purpose", "source"}, nil)
	notBeforeDesc = prometheus.NewDesc("notafter_certificate_not_before_timestamp_seconds",
		"When the newest known certificate of this node, purpose and source starts to be valid, in seconds since the epoch.",
		[]string{"node", "purpose", "source"}, nil)
	requestsDesc = prometheus.NewDesc("notafter_signing_requests",
		"CertificateSigningRequests of kubelets that exist now, by signer and by how far they have come.",
		[]string{"signer", "stage"}, nil)
	oldestPendingDesc = prometheus.NewDesc("notafter_signing_requests_oldest_pending_timestamp_seconds",
		"When the oldest CertificateSigningRequest of a kubelet that nobody has decided on was created, by signer, in seconds since "+
			"the epoch.",
		[]string{"signer"}, nil)
	findingsDesc = prometheus.NewDesc("notafter_findings",
		"Findings of a policy, by reason and severity, including those its status has no room for. Leader only.",
		[]string{"policy", "reason", "severity"}, nil)
	findingDesc = prometheus.NewDesc("notafter_finding_info",
		"The findings of a policy that say Violation or Unknown, 1 each, for alerts to name their subject; at most the "+
			strconv.Itoa(maxFindingSeries)+" worst. node is the subject if that is a Node. Leader only.",
		[]string{"policy", "reason", "severity", "kind", "subject", "node", "certificate"}, nil)
	evaluatedDesc = prometheus.NewDesc("notafter_policy_last_evaluation_timestamp_seconds",
		"When a policy was last evaluated, in seconds since the epoch. Leader only.",
		[]string{"policy"}, nil)
	nextDesc = prometheus.NewDesc("notafter_policy_next_evaluation_timestamp_seconds",
		"When a policy is evaluated again at the latest, in seconds since the epoch; missing while only a change can make it "+
			"due. Leader only.",
		[]string{"policy"}, nil)
	conditionDesc = prometheus.NewDesc("notafter_policy_condition",
		"Conditions of a policy: 1 for the status (True, False or Unknown) that the condition has, 0 for the two others. Leader only.",
		[]string{"policy", "type", "status"}, nil)
	nodesDesc = prometheus.NewDesc("notafter_policy_nodes",
		"Nodes that a policy selects, by verdict. Leader only.",
		[]string{"policy", "state"}, nil)
	certificatesDesc = prometheus.NewDesc("notafter_policy_certificates",
		"Certificates that a policy judges, by state. Leader only.",
		[]string{"policy", "state"}, nil)
	readableDesc = prometheus.NewDesc("notafter_source_readable",
		"Whether the cache behind a source's series could be read: 0 means that they are missing from this scrape.",
		[]string{"source"}, nil)
)

// stages are those a request that exists can be in.
var stages = []v1alpha1.SigningStage{
	v1alpha1.StagePending, v1alpha1.StageApproved, v1alpha1.StageIssued, v1alpha1.StageDenied, v1alpha1.StageFailed,
}

// SigningRequests are those to one signer.
type SigningRequests interface {
	// List returns them all; it fails while they can't be read.
	List() ([]*certificatesv1.CertificateSigningRequest, error)
}

type collector struct {
	reader          client.Reader
	signingRequests map[string]SigningRequests
	verdicts        *Verdicts
}

// New returns the collector of what is known of each node and policy: certificates from the NodeCertificates that reader
// holds, signing requests from signingRequests, by signer name, and the verdicts. While one can't be read, its series are left
// out and notafter_source_readable says so.
func New(reader client.Reader, signingRequests map[string]SigningRequests, verdicts *Verdicts) prometheus.Collector {
	return &collector{reader: reader, signingRequests: signingRequests, verdicts: verdicts}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		notAfterDesc, notBeforeDesc, requestsDesc, oldestPendingDesc, findingsDesc, findingDesc, evaluatedDesc, nextDesc,
		conditionDesc, nodesDesc, certificatesDesc, readableDesc,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	send := gauges(metrics)
	for _, report := range c.verdicts.all() {
		collectReport(send, report)
	}
	send(readableDesc, number(c.collectCertificates(ctx, send)), sourceNodeCertificates)
	for _, signer := range slices.Sorted(maps.Keys(c.signingRequests)) {
		send(readableDesc, number(c.collectRequests(send, signer)), signer)
	}
}

// sendFunc sends one sample.
type sendFunc func(desc *prometheus.Desc, value float64, labels ...string)

func gauges(metrics chan<- prometheus.Metric) sendFunc {
	return func(desc *prometheus.Desc, value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		metrics <- metric
	}
}

// collectCertificates reports whether the cache could be read.
func (c *collector) collectCertificates(ctx context.Context, send sendFunc) bool {
	var list v1alpha1.NodeCertificatesList
	if err := c.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return false
	}
	for i := range list.Items {
		node := list.Items[i].Name
		for j := range list.Items[i].Status.Certificates {
			certificate := &list.Items[i].Status.Certificates[j]
			labels := []string{node, string(certificate.Purpose), string(certificate.Source)}
			send(notBeforeDesc, float64(certificate.NotBefore.Unix()), labels...)
			send(notAfterDesc, float64(certificate.NotAfter.Unix()), labels...)
		}
	}
	return true
}

// collectRequests reports whether the cache could be read. Every stage has a series, so that a count falls to 0 and does not
// vanish.
func (c *collector) collectRequests(send sendFunc, signer string) bool {
	requests, err := c.signingRequests[signer].List()
	if err != nil {
		return false
	}
	count := map[v1alpha1.SigningStage]int{}
	var oldest *metav1.Time
	for _, request := range requests {
		stage := csr.Stage(request)
		count[stage]++
		if stage == v1alpha1.StagePending && (oldest == nil || request.CreationTimestamp.Before(oldest)) {
			oldest = &request.CreationTimestamp
		}
	}
	if oldest != nil {
		send(oldestPendingDesc, float64(oldest.Unix()), signer)
	}
	for _, stage := range stages {
		send(requestsDesc, float64(count[stage]), signer, string(stage))
	}
	return true
}

func collectReport(send sendFunc, report namedReport) {
	type kind struct{ reason, severity string }
	count := map[kind]int{}
	for i := range report.Findings {
		count[kind{report.Findings[i].Reason, string(report.Findings[i].Severity)}]++
	}
	for k, n := range count {
		send(findingsDesc, float64(n), report.policy, k.reason, k.severity)
	}
	collectFindings(send, report)
	for desc, instant := range map[*prometheus.Desc]time.Time{evaluatedDesc: report.Evaluated, nextDesc: report.Next} {
		if !instant.IsZero() {
			send(desc, float64(instant.UnixMilli())/1e3, report.policy)
		}
	}
	for _, condition := range report.Conditions {
		for _, status := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
			send(conditionDesc, number(condition.Status == status), report.policy, condition.Type, string(status))
		}
	}
	counts := func(desc *prometheus.Desc, states map[string]*int32) {
		for state, n := range states {
			if n != nil {
				send(desc, float64(*n), report.policy, state)
			}
		}
	}
	// The label values are the names of the status fields; totals are left out, because a sum of these would count twice.
	if n := report.Nodes; n != nil {
		counts(nodesDesc, map[string]*int32{"compliant": n.Compliant, "violating": n.Violating, "unknown": n.Unknown})
	}
	if n := report.Certificates; n != nil {
		counts(certificatesDesc, map[string]*int32{
			"current": n.Current, "rotationDue": n.RotationDue, "overdue": n.Overdue, "expired": n.Expired, "unknown": n.Unknown,
		})
	}
}

// collectFindings sends the findings that somebody has to act upon. They come with the worst first.
func collectFindings(send sendFunc, report namedReport) {
	room := maxFindingSeries
	for i := range report.Findings {
		finding := &report.Findings[i]
		if finding.Severity == v1alpha1.SeverityInfo {
			continue
		}
		if room--; room < 0 {
			return
		}
		node := ""
		if finding.Subject.Kind == v1alpha1.SubjectNode {
			node = finding.Subject.Name
		}
		send(findingDesc, 1, report.policy, finding.Reason, string(finding.Severity), string(finding.Subject.Kind),
			finding.Subject.Name, node, string(finding.Certificate))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
