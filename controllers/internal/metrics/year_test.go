// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
	promtool "github.com/notafter/notafter/hack/prometheus"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
	// scrapeEvery is coarser than a real Prometheus, which would take as many minutes as this takes seconds. What happens in
	// between is judged all the same, and an alert may not even be pending.
	scrapeEvery = time.Hour
	scrapes     = int(year/scrapeEvery) + 1
	// backdated is how much earlier than now the signer lets a certificate start, and servedAfter how long it takes until a
	// handshake shows it.
	backdated, servedAfter = 5 * time.Minute, 3 * time.Second
	stuck                  = "stuck"
)

// rotation is a certificate of a kubelet and its successors.
type rotation struct {
	purpose   v1alpha1.CertificatePurpose
	lifetime  time.Duration
	notBefore time.Time
	renewal   time.Time
	// serves is when the certificate is seen in a handshake.
	serves time.Time
	old    v1alpha1.CertificateStatus
	serial int
}

func (r *rotation) current() v1alpha1.CertificateStatus {
	return v1alpha1.CertificateStatus{
		Purpose: r.purpose, SHA256: fmt.Sprintf("%064d", r.serial), Issuer: "CN=ca", IPAddresses: []string{"10.0.0.4"},
		NotBefore: metav1.NewTime(r.notBefore), NotAfter: metav1.NewTime(r.notBefore.Add(r.lifetime)),
	}
}

// renew begins another certificate, which client-go renews at a random point between 70 and 90 % of its life.
func (r *rotation) renew(now time.Time, random *rand.Rand) {
	r.old = r.current()
	r.notBefore, r.serves = now.Add(-backdated), now.Add(servedAfter)
	r.serial++
	r.renewal = r.notBefore.Add(time.Duration((0.7 + 0.2*random.Float64()) * float64(r.lifetime)))
}

// certificates are what is known at the time.
func (r *rotation) certificates(now time.Time) []v1alpha1.CertificateStatus {
	issued, served := r.current(), r.current()
	if now.Before(r.serves) {
		served = r.old
	}
	issued.Source, served.Source = v1alpha1.SourceSigningRequest, v1alpha1.SourceHandshake
	if r.purpose == v1alpha1.PurposeKubeletClient {
		return []v1alpha1.CertificateStatus{issued}
	}
	return []v1alpha1.CertificateStatus{issued, served}
}

// simulated is a node with its kubelet.
type simulated struct {
	name      string
	rotations []*rotation
}

func newSimulated(name string, lifetime time.Duration, random *rand.Rand) *simulated {
	s := &simulated{name: name}
	for _, purpose := range []v1alpha1.CertificatePurpose{v1alpha1.PurposeKubeletClient, v1alpha1.PurposeKubeletServing} {
		r := &rotation{purpose: purpose, lifetime: lifetime}
		r.renew(start, random)
		// As if it had been there before, for less than what it is renewed at.
		age := time.Duration(0.7 * random.Float64() * float64(lifetime))
		r.notBefore, r.renewal, r.serves = r.notBefore.Add(-age), r.renewal.Add(-age), r.serves.Add(-age)
		s.rotations = append(s.rotations, r)
	}
	return s
}

// pass renews what is due, and returns when something happens next.
func (s *simulated) pass(now time.Time, random *rand.Rand) (next time.Time) {
	for _, r := range s.rotations {
		if !now.Before(r.renewal) {
			r.renew(now, random)
		}
		for _, instant := range []time.Time{r.serves, r.renewal} {
			if instant.After(now) && (next.IsZero() || instant.Before(next)) {
				next = instant
			}
		}
	}
	return next
}

func (s *simulated) observed(now time.Time) policy.Node {
	status := &v1alpha1.NodeCertificatesStatus{Serving: &v1alpha1.ServingStatus{
		Mode: v1alpha1.ServingModeClusterSigned, Outcome: v1alpha1.ProbeCertificatePresented, Address: "10.0.0.4:10250",
		NameMatch: v1alpha1.NameMatches, Since: metav1.NewTime(start),
	}, Kubelet: &v1alpha1.KubeletStatus{
		Outcome: v1alpha1.KubeletRead, Since: metav1.NewTime(start),
		ClientRotation: v1alpha1.KubeletSettingEnabled, ServingBootstrap: v1alpha1.KubeletSettingEnabled,
	}}
	for _, r := range s.rotations {
		status.Certificates = append(status.Certificates, r.certificates(now)...)
	}
	return policy.Node{
		Name: s.name, Created: start.Add(-year), KubeletVersion: "v1.37.2", HasAddress: true,
		Ready: corev1.ConditionTrue, ReadySince: start.Add(-year), Observed: status,
	}
}

// fleet is what one policy judges.
type fleet struct {
	policy string
	spec   v1alpha1.CertificatePolicySpec
	nodes  []*simulated
}

// judge evaluates, and returns when the verdict changes by itself.
func (f *fleet) judge(t *testing.T, now time.Time, verdicts *Verdicts) time.Time {
	t.Helper()
	in := policy.Input{Spec: &f.spec, Now: now, TrustSource: "kube-system/kube-root-ca.crt"}
	for _, node := range f.nodes {
		in.Nodes = append(in.Nodes, node.observed(now))
	}
	verdict := policy.Evaluate(in)
	for i := range verdict.Findings {
		if f := &verdict.Findings[i]; f.Severity != v1alpha1.SeverityInfo && f.Subject.Name != stuck {
			t.Fatalf("a healthy kubelet is found to be otherwise at %s: %+v", now, f)
		}
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}
	verdicts.Set(f.policy, Report{
		Findings: verdict.Findings, Nodes: &verdict.Nodes, Certificates: &verdict.Certificates,
		Conditions: append(verdict.Conditions, ready),
	})
	return verdict.NextCheck
}

// recording is a number of series, in the notation of promtool.
type recording struct {
	scrapes int
	series  map[string]*recorded
}

type recorded struct {
	values []string
	last   string
	times  int
}

func (r *recorded) add(value string, times int) {
	if value == r.last {
		r.times += times
		return
	}
	r.flush()
	r.last, r.times = value, times
}

func (r *recorded) flush() {
	switch {
	case r.times == 0:
	case r.last == "_":
		r.values = append(r.values, fmt.Sprintf("_x%d", r.times))
	default: // the first is not counted as one of the times
		r.values = append(r.values, fmt.Sprintf("%sx%d", r.last, r.times-1))
	}
	r.times = 0
}

// scrape adds a value to each series, for so many scrapes.
func (r *recording) scrape(families []*dto.MetricFamily, times int) {
	seen := map[string]bool{}
	put := func(name, value string) {
		seen[name] = true
		if r.series[name] == nil {
			r.series[name] = &recorded{last: "_", times: r.scrapes}
		}
		r.series[name].add(value, times)
	}
	put(`up{job="notafter-metrics"}`, "1")
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, pair := range metric.GetLabel() {
				if pair.GetValue() != "" {
					labels = append(labels, fmt.Sprintf("%s=%q", pair.GetName(), pair.GetValue()))
				}
			}
			put(family.GetName()+"{"+strings.Join(labels, ",")+"}", fmt.Sprint(metric.GetGauge().GetValue()))
		}
	}
	for name, series := range r.series {
		if !seen[name] {
			series.add("_", times)
		}
	}
	r.scrapes += times
}

// write makes a test for promtool of the series and what is expected.
func (r *recording) write(t *testing.T, path, expectations string) {
	t.Helper()
	rules, err := filepath.Abs("../../../config/components/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	minutes := int(scrapeEvery.Minutes())
	var file strings.Builder
	fmt.Fprintf(&file, "rule_files: [%s]\nevaluation_interval: %dm\ntests:\n  - interval: %[2]dm\n    input_series:\n", rules, minutes)
	for name, series := range r.series {
		series.flush()
		fmt.Fprintf(&file, "      - series: '%s'\n        values: '%s'\n", name, strings.Join(series.values, " "))
	}
	file.WriteString(expectations)
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// simulateAYear has the fleets live for a year, and returns what Prometheus would have scraped.
func simulateAYear(t *testing.T, fleets []*fleet, random *rand.Rand) *recording {
	t.Helper()
	verdicts := NewVerdicts()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(fake.NewClientBuilder().WithScheme(newScheme(t)).Build(), nil, verdicts))
	r := &recording{series: map[string]*recorded{}}
	for now, end := start, start.Add(year); !now.After(end); {
		next := end.Add(scrapeEvery)
		for _, f := range fleets {
			for _, node := range f.nodes {
				if event := node.pass(now, random); event.Before(next) {
					next = event
				}
			}
		}
		for _, f := range fleets {
			if change := f.judge(t, now, verdicts); !change.IsZero() && change.Before(next) {
				next = change
			}
		}
		// Nothing changes until then, so all scrapes in between are alike.
		until := min(scrapes, int((next.Sub(start)+scrapeEvery-1)/scrapeEvery))
		if times := until - r.scrapes; times > 0 {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			r.scrape(families, times)
		}
		now = next
	}
	if r.scrapes != scrapes {
		t.Fatalf("%d scrapes, want %d", r.scrapes, scrapes)
	}
	return r
}

// A year in the life of kubelets that renew at random points between 70 and 90 % of their certificates' lives, which are a
// year or a day, alerts nobody. One that is stuck alerts once, and is silent when it is repaired.
func TestAYearWithoutFalseAlerts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const ignored = v1alpha1.WatchIgnored
	nodesOnly := v1alpha1.CertificatePolicySpec{
		ControlPlane: v1alpha1.ControlPlaneSpec{ClusterCA: ignored, APIServer: ignored, ClientCA: ignored, Aggregation: ignored},
		TrustBundles: v1alpha1.TrustBundlesSpec{APIServices: ignored, Webhooks: ignored, ConversionWebhooks: ignored},
	}
	yearly := &fleet{policy: "yearly", spec: nodesOnly}
	for i := range 20 {
		yearly.nodes = append(yearly.nodes, newSimulated(fmt.Sprintf("yearly-%d", i), year, random))
	}
	daily := &fleet{policy: "daily", spec: nodesOnly}
	daily.spec.Expiry.MinimumRemaining = &metav1.Duration{} // with the default of a day, they would be overdue all the time
	for i := range 3 {
		daily.nodes = append(daily.nodes, newSimulated(fmt.Sprintf("daily-%d", i), day, random))
	}
	// The serving certificate of this one is half used at first, and renewed at 95 % of its life.
	broken := newSimulated(stuck, year, random)
	serving := broken.rotations[slices.IndexFunc(broken.rotations, func(r *rotation) bool {
		return r.purpose == v1alpha1.PurposeKubeletServing
	})]
	serving.notBefore = start.Add(-year / 2)
	serving.renewal = serving.notBefore.Add(year / 100 * 95)
	yearly.nodes = append(yearly.nodes, broken)

	dir := t.TempDir()
	simulateAYear(t, []*fleet{yearly, daily}, random).write(t, filepath.Join(dir, "year.yaml"), `
    promql_expr_test:
      - expr: count by (alertname, alertstate, policy, node, certificate) (count_over_time(ALERTS[1y]))
        eval_time: 365d
        exp_samples:
          - {labels: '{alertname="NotafterRotationOverdue", alertstate="pending", policy="yearly", node="stuck", certificate="KubeletServing"}', value: 1}
          - {labels: '{alertname="NotafterRotationOverdue", alertstate="firing", policy="yearly", node="stuck", certificate="KubeletServing"}', value: 1}
      # It holds since when an alert is active, so this is how often that changed.
      - expr: sum(changes(ALERTS_FOR_STATE[1y]))
        eval_time: 365d
        exp_samples: [{labels: '{}', value: 0}]
      # From 90 % of its life on, which is the 146th day.
      - expr: count(ALERTS{alertstate="firing"}) or vector(0)
        eval_time: 145d
        exp_samples: [{labels: '{}', value: 0}]
      - expr: count(ALERTS{alertstate="firing"}) or vector(0)
        eval_time: 147d
        exp_samples: [{labels: '{}', value: 1}]
      - expr: count(ALERTS{alertstate="firing"}) or vector(0)
        eval_time: 164d
        exp_samples: [{labels: '{}', value: 1}]
      - expr: count(ALERTS{alertstate="firing"}) or vector(0)
        eval_time: 165d
        exp_samples: [{labels: '{}', value: 0}]
`)
	output, err := promtool.Promtool(t.Context(), dir, nil, "test", "rules", "year.yaml")
	if err != nil {
		t.Error(err)
	}
	t.Log(output)
}
