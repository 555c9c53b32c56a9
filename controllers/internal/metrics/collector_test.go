// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

var start = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, certificatesv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

func certificate(purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource, lifetime time.Duration) v1alpha1.CertificateStatus {
	return v1alpha1.CertificateStatus{
		Purpose: purpose, Source: source, NotBefore: metav1.NewTime(start), NotAfter: metav1.NewTime(start.Add(lifetime)),
	}
}

func request(name, signer string, conditions ...certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{
		Name: name, CreationTimestamp: metav1.Unix(int64(1_767_225_600+len(name)), 0),
	}}
	r.Spec.SignerName = signer
	for _, c := range conditions {
		r.Status.Conditions = append(r.Status.Conditions,
			certificatesv1.CertificateSigningRequestCondition{Type: c, Status: corev1.ConditionTrue})
	}
	return r
}

func node(name string, certificates ...v1alpha1.CertificateStatus) *v1alpha1.NodeCertificates {
	return &v1alpha1.NodeCertificates{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeCertificatesStatus{Certificates: certificates},
	}
}

func report() Report {
	onNode := func(name string) v1alpha1.Subject { return v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: name} }
	return Report{
		Findings: []v1alpha1.Finding{
			{
				Reason: v1alpha1.ReasonExpired, Severity: v1alpha1.SeverityViolation, Subject: onNode("a"),
				Certificate: v1alpha1.PurposeKubeletServing,
			},
			{Reason: v1alpha1.ReasonExpired, Severity: v1alpha1.SeverityViolation, Subject: onNode("b")},
			{
				Reason: v1alpha1.ReasonAccessDenied, Severity: v1alpha1.SeverityUnknown,
				Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: "list secrets"},
			},
			{Reason: v1alpha1.ReasonRotationDue, Severity: v1alpha1.SeverityInfo, Subject: onNode("c")},
		},
		Nodes: &v1alpha1.NodeCounts{
			Selected: ptr.To[int32](3), Compliant: ptr.To[int32](1), Violating: ptr.To[int32](2), Unknown: ptr.To[int32](0),
		},
		Certificates: &v1alpha1.CertificateCounts{
			Total: ptr.To[int32](3), Current: ptr.To[int32](0), RotationDue: ptr.To[int32](1), Overdue: ptr.To[int32](0),
			Expired: ptr.To[int32](2), Unknown: ptr.To[int32](0),
		},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue},
			{Type: v1alpha1.ConditionCompliant, Status: metav1.ConditionFalse},
		},
		Evaluated: start, Next: start.Add(10*time.Minute + 50*time.Millisecond),
	}
}

// world is a cluster with two nodes, three requests, one policy with a verdict and one that could not be evaluated.
func world(t *testing.T) (client.WithWatch, map[string]SigningRequests, *Verdicts) {
	t.Helper()
	objects := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(
		node("aks-pool-000001",
			certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, time.Hour),
			certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, 2*time.Hour)),
		node("not-seen-yet"),
	).Build()
	issued := request("issued", certificatesv1.KubeletServingSignerName, certificatesv1.CertificateApproved)
	issued.Status.Certificate = []byte("a certificate")
	serving := requests{
		issued,
		request("pending", certificatesv1.KubeletServingSignerName),
		request("denied", certificatesv1.KubeletServingSignerName, certificatesv1.CertificateDenied),
	}
	verdicts := NewVerdicts()
	verdicts.Set("cluster", report())
	verdicts.Set("broken", Report{Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionCompliant, Status: metav1.ConditionUnknown},
	}})
	return objects, map[string]SigningRequests{certificatesv1.KubeletServingSignerName: serving}, verdicts
}

// requests are signing requests that can be read.
type requests []*certificatesv1.CertificateSigningRequest

func (r requests) List() ([]*certificatesv1.CertificateSigningRequest, error) { return r, nil }

// denied are signing requests that can't be read.
type denied struct{}

func (denied) List() ([]*certificatesv1.CertificateSigningRequest, error) {
	return nil, errors.New("may not be listed")
}

// blocked is a cache that does not sync.
type blocked struct{ client.Reader }

func (blocked) List(ctx context.Context, _ client.ObjectList, _ ...client.ListOption) error {
	<-ctx.Done()
	return ctx.Err()
}

func compare(t *testing.T, collector prometheus.Collector, golden string, names ...string) {
	t.Helper()
	expected, err := os.Open("testdata/" + golden)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = expected.Close() })
	if err := testutil.CollectAndCompare(collector, expected, names...); err != nil {
		t.Error(err)
	}
}

func TestEverySeries(t *testing.T) {
	collector := New(world(t))
	compare(t, collector, "world.prom")
	problems, err := testutil.CollectAndLint(collector)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

func TestNoSeriesOutlivesItsObject(t *testing.T) {
	objects, requests, verdicts := world(t)
	collector := New(objects, requests, verdicts)
	names := []string{"notafter_findings", "notafter_finding_info", "notafter_certificate_not_after_timestamp_seconds"}
	if before := testutil.CollectAndCount(collector, names...); before != 8 {
		t.Fatalf("%d series of findings and certificates, want 8", before)
	}
	if err := objects.Delete(t.Context(), node("aks-pool-000001")); err != nil {
		t.Fatal(err)
	}
	verdicts.Delete("cluster")
	verdicts.Delete("broken")
	compare(t, collector, "without_objects.prom")
}

func TestFindingGoneFromTheVerdictIsGoneFromTheSeries(t *testing.T) {
	verdicts := NewVerdicts()
	verdicts.Set("cluster", report())
	collector := New(blocked{}, nil, verdicts)
	better := report()
	better.Findings = better.Findings[3:]
	verdicts.Set("cluster", better)
	expected := `
# HELP notafter_findings Findings of a policy, by reason and severity, including those its status has no room for. Leader only.
# TYPE notafter_findings gauge
notafter_findings{policy="cluster",reason="RotationDue",severity="Info"} 1
`
	if err := testutil.CollectAndCompare(collector, strings.NewReader(expected), "notafter_findings"); err != nil {
		t.Error(err)
	}
}

// Anybody who may file a signing request chooses its name. Two that look the same when printed must not stop all metrics.
func TestRequestsWithNamesThatLookTheSame(t *testing.T) {
	var filed []policy.Request
	for _, name := range []string{"csr\u202e", "csr\u200b"} {
		filed = append(filed, policy.Request{
			Name: name, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, NodeName: "gone",
			Stage: v1alpha1.StagePending, Created: start,
		})
	}
	verdict := policy.Evaluate(policy.Input{Requests: filed, Now: start.Add(time.Hour)})
	verdicts := NewVerdicts()
	verdicts.Set("cluster", Report{Findings: verdict.Findings})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(blocked{}, nil, verdicts))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
	if len(verdict.Findings) == 0 {
		t.Error("nothing was found")
	}
}

// When all nodes break at once, the number of series has a bound, and all findings are counted all the same.
func TestSeriesOfFindingsAreBounded(t *testing.T) {
	const nodes = 5 * maxFindingSeries
	broken := Report{Findings: make([]v1alpha1.Finding, nodes)}
	for i := range broken.Findings {
		broken.Findings[i] = v1alpha1.Finding{
			Reason: v1alpha1.ReasonExpired, Severity: v1alpha1.SeverityViolation,
			Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: fmt.Sprintf("node-%04d", i)},
		}
	}
	verdicts := NewVerdicts()
	verdicts.Set("cluster", broken)
	collector := New(blocked{}, nil, verdicts)
	if count := testutil.CollectAndCount(collector, "notafter_finding_info"); count != maxFindingSeries {
		t.Errorf("%d series, want %d", count, maxFindingSeries)
	}
	text, err := testutil.CollectAndFormat(collector, expfmt.TypeTextPlain, "notafter_findings")
	if want := fmt.Sprintf("} %d\n", nodes); err != nil || !strings.HasSuffix(string(text), want) {
		t.Errorf("%s, %v; want%s", text, err, want)
	}
}

// A scrape right after the start must not hang until every cache is synced, and says what it leaves out.
func TestUnsyncedCacheDoesNotHoldUpTheScrape(t *testing.T) {
	_, _, verdicts := world(t)
	collector := New(blocked{}, map[string]SigningRequests{certificatesv1.KubeletServingSignerName: denied{}}, verdicts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		compare(t, collector, "unsynced.prom",
			"notafter_source_readable", "notafter_signing_requests", "notafter_certificate_not_after_timestamp_seconds")
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the scrape hangs")
	}
}
