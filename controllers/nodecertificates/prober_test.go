// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/semaphore"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// bench is a prober with a fake clock, and kubelets that answer what a test says.
type bench struct {
	*prober
	t      *testing.T
	clock  *clocktesting.FakePassiveClock
	client client.WithWatch

	mu     sync.Mutex
	answer tlsprobe.Result
	probes []time.Duration // the timeouts
	woken  []string
}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	bundle := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-root-ca.crt"},
		Data:       map[string]string{"ca.crt": string(testCA.PEM())},
	}
	b := &bench{
		t: t, clock: clocktesting.NewFakePassiveClock(noon), answer: presented(leafFrom(pkitest.Start()).Chain()),
		client: fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeCertificates{}).
			WithObjects(append(objects, bundle)...).Build(),
	}
	counts, err := newProbeMetrics(prometheus.NewRegistry(), newRecords())
	if err != nil {
		t.Fatal(err)
	}
	b.prober = &prober{
		client:  b.client,
		trust:   trust.New(configMaps{b.client}, client.ObjectKeyFromObject(bundle), "ca.crt"),
		clock:   b.clock,
		records: newRecords(),
		sweep:   newSweep(b.client),
		places:  places{fast: semaphore.NewWeighted(1), slow: semaphore.NewWeighted(1)},
		wake:    func(node string) { b.woken = append(b.woken, node) },
		random:  func() float64 { return 0.5 },
		metrics: counts,
		probe: func(_ context.Context, _ tlsprobe.Target, timeout time.Duration) tlsprobe.Result {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.probes = append(b.probes, timeout)
			return b.answer
		},
	}
	return b
}

// take takes the one place.
func (b *bench) take(place *semaphore.Weighted) {
	b.t.Helper()
	if !place.TryAcquire(1) {
		b.t.Fatal("the place is held")
	}
}

// configMaps reads ConfigMaps from the fake API server.
type configMaps struct{ reader client.Reader }

func (c configMaps) Get(name types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	configMap := &corev1.ConfigMap{}
	err := c.reader.Get(context.Background(), name, configMap)
	return configMap, err == nil, client.IgnoreNotFound(err)
}

func nodeOne() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", UID: "uid-1", Labels: map[string]string{"pool": "a"}}}
	node.Status.Addresses = []corev1.NodeAddress{address(corev1.NodeInternalIP, "10.0.0.1")}
	return node
}

func policyNamed(name string) *v1alpha1.CertificatePolicy {
	policy := policyFor("a", nil, nil)
	policy.Name = name
	return &policy
}

// look reconciles the node and returns when it is due next; zero is never.
func (b *bench) look() time.Duration {
	b.t.Helper()
	result, err := b.Reconcile(b.t.Context(), requestFor("one"))
	if err != nil {
		b.t.Fatal(err)
	}
	return result.RequeueAfter
}

func (b *bench) expect(probes, wakes int) {
	b.t.Helper()
	if len(b.probes) != probes || len(b.woken) != wakes {
		b.t.Errorf("%d probes and %d wakes, want %d and %d", len(b.probes), len(b.woken), probes, wakes)
	}
}

func (b *bench) pass(d time.Duration) { b.clock.SetTime(b.clock.Now().Add(d)) }

func TestProberProbesWhatIsDue(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	if wait := b.look(); wait != 10*time.Minute {
		t.Errorf("due after %v, want the interval", wait)
	}
	b.expect(1, 1)
	// A call is no reason to probe.
	b.pass(4 * time.Minute)
	if wait := b.look(); wait != 6*time.Minute {
		t.Errorf("due after %v, want the rest of the interval", wait)
	}
	b.expect(1, 1)
	// The same answer is no news.
	b.pass(6 * time.Minute)
	b.look()
	b.expect(2, 1)
	b.answer = tlsprobe.Result{Outcome: v1alpha1.ProbeNoCertificate}
	b.pass(10 * time.Minute)
	b.look()
	b.expect(3, 2)
	if got := testutil.ToFloat64(b.metrics.total.WithLabelValues("CertificatePresented")); got != 2 {
		t.Errorf("%v probes counted as CertificatePresented", got)
	}
}

func TestProberLeavesUnselectedNodesAlone(t *testing.T) {
	b := newBench(t, nodeOne())
	if wait := b.look(); wait != 0 {
		t.Errorf("due after %v", wait)
	}
	// It is told once, because of what an earlier process may have seen.
	b.look()
	b.expect(0, 1)
	policy := policyNamed("a")
	if err := b.client.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	b.look()
	b.expect(1, 2)
	if err := b.client.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Hour)
	if wait := b.look(); wait != 0 {
		t.Errorf("due after %v", wait)
	}
	b.expect(1, 3)
}

func TestProberProbesAtOnce(t *testing.T) {
	change := func(b *bench, object client.Object, change func(), update func(client.Object) error) {
		b.t.Helper()
		if err := b.client.Get(b.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			b.t.Fatal(err)
		}
		change()
		if err := update(object); err != nil {
			b.t.Fatal(err)
		}
	}
	whole := func(b *bench) func(client.Object) error {
		return func(o client.Object) error { return b.client.Update(b.t.Context(), o) }
	}
	status := func(b *bench) func(client.Object) error {
		return func(o client.Object) error { return b.client.Status().Update(b.t.Context(), o) }
	}
	t.Run("at another address", func(t *testing.T) {
		b, node := newBench(t, nodeOne(), policyNamed("a")), nodeOne()
		b.look()
		change(b, node, func() { node.Status.Addresses[0].Address = "10.0.0.2" }, status(b))
		b.look()
		b.look()
		b.expect(2, 2)
	})
	t.Run("at another port", func(t *testing.T) {
		b, node := newBench(t, nodeOne(), policyNamed("a")), nodeOne()
		b.look()
		change(b, node, func() { node.Status.DaemonEndpoints.KubeletEndpoint.Port = 10251 }, status(b))
		b.look()
		b.look()
		b.expect(2, 2)
	})
	t.Run("with another trust bundle", func(t *testing.T) {
		b := newBench(t, nodeOne(), policyNamed("a"))
		b.look()
		bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-root-ca.crt"}}
		change(b, bundle, func() { bundle.Data["ca.crt"] = string(pkitest.NewCA("cluster-ca").PEM()) }, whole(b))
		b.look()
		b.look()
		b.expect(2, 2)
		found, _ := b.records.get("one", "uid-1")
		if found.evidence.serving.Mode != v1alpha1.ServingModeExternallyManaged {
			t.Errorf("mode = %s", found.evidence.serving.Mode)
		}
		// One that cannot be read makes every verdict unknown, once.
		change(b, bundle, func() { bundle.Data["ca.crt"] = "garbage" }, whole(b))
		b.look()
		b.look()
		b.expect(3, 3)
	})
	t.Run("as another Node of that name", func(t *testing.T) {
		b, node := newBench(t, nodeOne(), policyNamed("a")), nodeOne()
		b.look()
		change(b, node, func() { node.UID = types.UID("uid-2") }, whole(b))
		b.look()
		b.expect(2, 2)
	})
}

func TestProberWaitsForWhatWasIssued(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	b.look()
	b.expect(1, 1)

	issued := leafFrom(noon)
	known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	if err := b.client.Create(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	known.Status.Certificates = []v1alpha1.CertificateStatus{
		certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, issued.X509),
	}
	if err := b.client.Status().Update(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	var waits []time.Duration
	for range 5 {
		wait := b.look()
		waits = append(waits, wait)
		b.pass(wait)
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("probed again after %v, want %v", waits, want)
	}
	b.expect(6, 1)
	b.answer = presented(issued.Chain())
	if wait := b.look(); wait != 10*time.Minute {
		t.Errorf("due after %v once the certificate is served, want the interval", wait)
	}
	b.expect(7, 2)
}

func TestProberBacksOff(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	b.answer = tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable, Message: "refused"}
	var waits []time.Duration
	for range 8 {
		wait := b.look()
		waits = append(waits, wait)
		b.pass(wait)
	}
	s := time.Second
	if want := []time.Duration{15 * s, 30 * s, 60 * s, 120 * s, 240 * s, 480 * s, 600 * s, 600 * s}; !slices.Equal(waits, want) {
		t.Errorf("probed again after %v, want %v", waits, want)
	}
	b.expect(8, 1)
}

func TestProberHasPatienceForSuspectsOnlyWherePlacesAreFree(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	b.answer = tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable, TimedOut: true}

	// No place is free: the worker waits a second, and the node comes back for a place.
	b.take(b.places.slow)
	if wait := b.look(); wait <= 0 || wait > 5*time.Second {
		t.Errorf("due after %v, want shortly", wait)
	}
	if !slices.Equal(b.probes, []time.Duration{time.Second}) {
		t.Errorf("timeouts = %v", b.probes)
	}
	b.look()
	b.expect(1, 0)

	// A place is free: the node gets the time the policy gives it.
	b.places.slow.Release(1)
	if wait := b.look(); wait != 15*time.Second {
		t.Errorf("due after %v, want the backoff", wait)
	}
	if !slices.Equal(b.probes, []time.Duration{time.Second, 5 * time.Second}) {
		t.Errorf("timeouts = %v", b.probes)
	}
	b.expect(2, 1)

	// The place was given back, and a node that answers is no suspect any more.
	b.answer = presented(leafFrom(pkitest.Start()).Chain())
	b.pass(15 * time.Second)
	b.look()
	b.take(b.places.slow)
	b.pass(10 * time.Minute)
	b.look()
	if want := []time.Duration{time.Second, 5 * time.Second, 5 * time.Second, time.Second}; !slices.Equal(b.probes, want) {
		t.Errorf("timeouts = %v, want %v", b.probes, want)
	}
}

func TestProberWaitsForAPlaceUntilItIsStopped(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	b.take(b.places.fast)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result, err := b.Reconcile(ctx, requestFor("one")); err != nil || result.RequeueAfter != enqueue.NoDelay {
		t.Errorf("result %v and error %v, want that it is due, and no complaint about being stopped", result, err)
	}
	b.expect(0, 0)
	b.places.fast.Release(1)
	b.look()
	b.expect(1, 1)
	b.take(b.places.fast)
	b.take(b.places.slow)
}

func TestProberRemembersSuspectsAcrossARestart(t *testing.T) {
	known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	known.Status.Serving = &v1alpha1.ServingStatus{Outcome: v1alpha1.ProbeUnreachable}
	b := newBench(t, nodeOne(), policyNamed("a"), known)
	b.take(b.places.slow)
	b.look()
	b.expect(0, 0)
}

func TestProberWithoutAnAddress(t *testing.T) {
	node := nodeOne()
	node.Status.Addresses = nil
	b := newBench(t, node, policyNamed("a"))
	if wait := b.look(); wait != 0 {
		t.Errorf("due after %v, want to wait for the Node to change", wait)
	}
	b.look()
	b.expect(0, 1)
	node.Status.Addresses = nodeOne().Status.Addresses
	if err := b.client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	b.look()
	b.expect(1, 2)
}

func TestProberForgetsDeletedNodes(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	b.look()
	if err := b.client.Delete(t.Context(), nodeOne()); err != nil {
		t.Fatal(err)
	}
	b.look()
	if len(b.records.byName) != 0 {
		t.Errorf("remembers %v", b.records.byName)
	}
}

// Whether the probes keep up shows in when the first of them is due.
func TestProberTellsWhenItIsDue(t *testing.T) {
	policy := policyNamed("a")
	b := newBench(t, nodeOne(), policy)
	collector := dueCollector{b.records}
	due := func() float64 {
		t.Helper()
		if testutil.CollectAndCount(collector) == 0 {
			return 0
		}
		return testutil.ToFloat64(collector)
	}
	expect := func(when string, want float64) {
		t.Helper()
		if got := due(); got != want {
			t.Errorf("%s, a probe is due at %v, want %v", when, got, want)
		}
	}
	at := func(d time.Duration) float64 { return float64(noon.Add(d).UnixMilli()) / 1e3 }

	expect("before the first", 0)
	b.look()
	expect("after one", at(10*time.Minute))
	b.pass(time.Hour)
	expect("late", at(10*time.Minute))
	b.look()
	expect("once it was made up for", at(70*time.Minute))
	policy.Spec.Nodes.Probe.Interval = &metav1.Duration{Duration: time.Minute}
	if err := b.client.Update(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	b.pass(30 * time.Second)
	b.look()
	expect("with a shorter interval", at(61*time.Minute))
	if err := b.client.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	b.look()
	expect("of a node that no policy selects", 0)
}

func TestProberForgetsNodesThatNoPolicySelects(t *testing.T) {
	policy := policyNamed("a")
	b := newBench(t, nodeOne(), policy)
	b.look()
	b.expect(1, 1)
	if err := b.client.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	b.look()
	b.look()
	b.expect(1, 2)
	if found, _ := b.records.get("one", "uid-1"); !found.evidence.unwanted {
		t.Errorf("evidence %+v, want none", found.evidence)
	}
	if err := b.client.Create(t.Context(), policyNamed("b")); err != nil {
		t.Fatal(err)
	}
	b.look()
	b.expect(2, 3)
}

func TestProberLearnsNothingFromItsOwnEnd(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	ctx, cancel := context.WithCancel(t.Context())
	probed := 0
	b.probe = func(context.Context, tlsprobe.Target, time.Duration) tlsprobe.Result {
		probed++
		cancel()
		return tlsprobe.Result{Outcome: v1alpha1.ProbeHandshakeFailed}
	}
	result, err := b.Reconcile(ctx, requestFor("one"))
	if err != nil {
		t.Errorf("being stopped is complained about: %v", err)
	}
	if result.RequeueAfter != enqueue.NoDelay {
		t.Errorf("the node is tried again after %s, want at once", result.RequeueAfter)
	}
	if found, ok := b.records.get("one", "uid-1"); ok {
		t.Errorf("record = %+v", found)
	}
	if probed != 1 {
		t.Errorf("%d probes, want one that was cut short", probed)
	}
	b.expect(0, 0)
}

func TestProberReportsAReconciliationThatTookTooLong(t *testing.T) {
	b := newBench(t, nodeOne(), policyNamed("a"))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := b.Reconcile(ctx, requestFor("one")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that the time is over", err)
	}
	if found, ok := b.records.get("one", "uid-1"); ok {
		t.Errorf("record = %+v", found)
	}
}

func TestProbeMetricsAreRegistered(t *testing.T) {
	registry, probed := prometheus.NewPedanticRegistry(), newRecords()
	probed.put("one", record{due: noon})
	counts, err := newProbeMetrics(registry, probed)
	if err != nil {
		t.Fatal(err)
	}
	counts.observe(tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable, Duration: time.Second})
	for name, want := range map[string]int{
		"notafter_probe_duration_seconds": 1, "notafter_probes_total": 4, "notafter_kubelet_reads_total": 4,
		"notafter_probe_due_timestamp_seconds": 1,
	} {
		if got, err := testutil.GatherAndCount(registry, name); err != nil || got != want {
			t.Errorf("%s: %d series, %v, want %d", name, got, err, want)
		}
	}
	if _, err := newProbeMetrics(registry, probed); err == nil {
		t.Error("names that are taken are not reported")
	}
}
