// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/kubelet"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// asked is a bench whose kubelets answer what the test says.
type asked struct {
	*bench
	says     kubelet.Result
	timeouts []time.Duration
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	a := &asked{bench: newBench(t, nodeOne(), policyNamed("a")), says: kubelet.Result{Outcome: v1alpha1.KubeletRead}}
	a.ask = func(_ context.Context, target kubelet.Target, timeout time.Duration) kubelet.Result {
		a.timeouts = append(a.timeouts, timeout)
		if target.Address != somewhere || target.Trust == nil {
			t.Errorf("asked %+v", target)
		}
		a.says.At = a.clock.Now()
		return a.says
	}
	return a
}

// step looks, and lets pass the time until the next look.
func (a *asked) step() time.Duration {
	a.t.Helper()
	wait := a.look()
	a.pass(wait)
	return wait
}

func (a *asked) answers() *answers {
	found, _ := a.records.get("one", "uid-1")
	return found.answers
}

func TestKubeletIsAskedAfterItVerified(t *testing.T) {
	a := newAsked(t)
	a.answer = tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable}
	a.step()
	if got := a.answers(); len(a.timeouts) != 0 || got.outcome != v1alpha1.KubeletFailed {
		t.Errorf("answers = %+v after %v", got, a.timeouts)
	}
	other := pkitest.NewCA("cluster-ca").Leaf(pkitest.IPAddresses("10.0.0.1"))
	misnamed := testCA.Leaf(pkitest.IPAddresses("10.0.0.2"))
	expired, early := leafFrom(noon.Add(-48*time.Hour)), leafFrom(noon.Add(48*time.Hour))
	for _, leaf := range []*pkitest.Certificate{other, misnamed, pkitest.KubeletSelfSigned("one"), early, expired} {
		a.answer = presented(leaf.Chain())
		a.step()
		if got := a.answers(); len(a.timeouts) != 0 || got.outcome != v1alpha1.KubeletUnverified {
			t.Errorf("answers = %+v after %v", got, a.timeouts)
		}
	}
	a.answer = presented(leafFrom(pkitest.Start()).Chain())
	if wait := a.step(); wait != enqueue.NoDelay {
		t.Errorf("asked after %v, want at once", wait)
	}
	a.step()
	if got := a.answers(); len(a.timeouts) != 1 || got.outcome != v1alpha1.KubeletRead {
		t.Errorf("answers = %+v after %v", got, a.timeouts)
	}
	if got := testutil.ToFloat64(a.metrics.reads.WithLabelValues("Read")); got != 1 {
		t.Errorf("%v reads counted", got)
	}
}

// A kubelet is asked in every third interval, and sooner after a failure, but no more often than it is probed.
func TestKubeletIsAskedLessOften(t *testing.T) {
	a := newAsked(t)
	began := a.clock.Now()
	var at []time.Duration
	for len(a.timeouts) < 4 {
		before := len(a.timeouts)
		wait := a.look()
		if len(a.timeouts) > before {
			at = append(at, a.clock.Now().Sub(began).Truncate(time.Second))
		}
		if len(a.timeouts) == 2 {
			a.says = kubelet.Result{Outcome: v1alpha1.KubeletAccessDenied, Message: "no"}
		}
		a.pass(wait)
	}
	want := []time.Duration{0, 30 * time.Minute, 60 * time.Minute, 60*time.Minute + firstBackoff}
	if diff := cmp.Diff(want, at); diff != "" {
		t.Error(diff)
	}
}

func TestKubeletIsNotAskedForNothing(t *testing.T) {
	t.Run("no account", func(t *testing.T) {
		b := newBench(t, nodeOne(), policyNamed("a"))
		b.look()
		found, _ := b.records.get("one", "uid-1")
		if found.answers.outcome != v1alpha1.KubeletNotAsked || !strings.Contains(found.answers.message, "--kubelet-reader-service-account") {
			t.Errorf("answers = %+v", found.answers)
		}
	})
	t.Run("no policy wants to know", func(t *testing.T) {
		a := newAsked(t)
		policy := policyNamed("a")
		if err := a.client.Get(t.Context(), requestFor("a").NamespacedName, policy); err != nil {
			t.Fatal(err)
		}
		policy.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored
		policy.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationDisabled
		if err := a.client.Update(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			a.step()
		}
		if len(a.timeouts) > 0 || a.answers().outcome != "" {
			t.Errorf("asked %d times: %+v", len(a.timeouts), a.answers())
		}
	})
}

func TestNeedsKubelet(t *testing.T) {
	for _, test := range []struct {
		client  v1alpha1.ClientRotation
		serving v1alpha1.ServingRotation
		want    bool
	}{
		{"", "", true},
		{v1alpha1.ClientRotationIgnored, "", true},
		{"", v1alpha1.ServingRotationIgnored, true},
		{v1alpha1.ClientRotationIgnored, v1alpha1.ServingRotationIgnored, false},
		{v1alpha1.ClientRotationIgnored, v1alpha1.ServingRotationDisabled, false},
	} {
		policy := policyFor("", nil, nil)
		policy.Spec.Nodes.ClientCertificate.Rotation = test.client
		policy.Spec.Nodes.ServingCertificate.Rotation = test.serving
		policy.Spec.Expiry.WarnAtLifetimePercent = 50
		policy.Spec.Nodes.Expiry = &v1alpha1.ExpirySpec{WarnAtLifetimePercent: 60}
		got := demandOn(labels.Set{}, []v1alpha1.CertificatePolicy{policy})
		if got.kubelet != test.want || got.expiry[0].WarnAtLifetimePercent != 60 {
			t.Errorf("%s and %s: %+v", test.client, test.serving, got)
		}
	}
}

// A kubelet that verified and then hangs is as slow as one that hangs in the handshake.
func TestSlowAnswersWaitAmongTheSuspects(t *testing.T) {
	a := newAsked(t)
	a.says = kubelet.Result{Outcome: v1alpha1.KubeletFailed, TimedOut: true}
	a.step()
	a.take(a.places.slow)
	if wait := a.step(); wait > 5*time.Second {
		t.Errorf("looks again after %v, want shortly", wait)
	}
	if diff := cmp.Diff([]time.Duration{patience}, a.timeouts); diff != "" {
		t.Error(diff)
	}
	a.places.slow.Release(1)
	a.step()
	if diff := cmp.Diff([]time.Duration{patience, 5 * time.Second}, a.timeouts); diff != "" {
		t.Error(diff)
	}
}

func TestKubeletIsNotJudgedByAnAnswerThatWasCutShort(t *testing.T) {
	a := newAsked(t)
	a.answer = presented(leafFrom(pkitest.Start()).Chain())
	a.step()
	ctx, cancel := context.WithCancel(t.Context())
	a.ask = func(context.Context, kubelet.Target, time.Duration) kubelet.Result {
		cancel()
		return kubelet.Result{Outcome: v1alpha1.KubeletFailed}
	}
	if result, err := a.Reconcile(ctx, requestFor("one")); err != nil || result.RequeueAfter != enqueue.NoDelay {
		t.Errorf("result %v and error %v, want that it is due, and no complaint about being stopped", result, err)
	}
	if got := a.answers(); got != nil {
		t.Errorf("answers = %+v", got)
	}
}

func TestKubeletIsAskedWhenAClientCertificateWasIssued(t *testing.T) {
	a := newAsked(t)
	older, newer := leafFrom(pkitest.Start()), leafFrom(noon)
	left := older.X509.NotAfter.Sub(noon)
	a.says.Metrics = &kubelet.Metrics{ClientRemaining: &left}
	known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	if err := a.client.Create(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	known.Status.Certificates = []v1alpha1.CertificateStatus{
		certificateStatus(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, newer.X509),
	}
	if err := a.client.Status().Update(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	a.step()
	var waits []time.Duration
	for range 3 {
		waits = append(waits, a.step())
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, waits); diff != "" {
		t.Error(diff)
	}
	left = newer.X509.NotAfter.Sub(a.clock.Now())
	if wait := a.step(); wait < time.Minute {
		t.Errorf("asks again after %v though it is in use", wait)
	}
}

// read is what a kubelet said at noon and so long after: that its client certificate has left so long, and so many errors.
func readAfter(after, left time.Duration, errorsUntilThen int64, previous *answers) *answers {
	return newAnswers(kubelet.Result{
		Outcome: v1alpha1.KubeletRead, At: noon.Add(after), Config: &kubelet.Config{RotateCertificates: true, TLSCertFile: "/a"},
		Metrics: &kubelet.Metrics{ClientRemaining: &left, ClientErrors: &errorsUntilThen, ServingErrors: &errorsUntilThen},
	}, somewhere, previous)
}

// told is a node that was asked at noon for the first time.
type told struct {
	t      *testing.T
	served *evidence
	first  *answers
	status v1alpha1.NodeCertificatesStatus
}

func newTold(t *testing.T) *told {
	t.Helper()
	n := &told{t: t, served: servedBy(t, leafFrom(pkitest.Start())), first: readAfter(0, 1000*time.Hour, 3, nil)}
	n.status = statusOf(t, facts{now: noon, evidence: n.served, answers: n.first})
	return n
}

// then is the status so long after noon, with these answers.
func (n *told) then(change *answers, after time.Duration) *v1alpha1.KubeletStatus {
	n.t.Helper()
	got := statusOf(n.t, facts{previous: n.status, now: noon.Add(after), evidence: n.served, answers: change})
	// Whoever works it out again comes to the same.
	again := statusOf(n.t, facts{previous: got, now: noon.Add(2 * after), evidence: n.served, answers: change})
	if diff := cmp.Diff(got, again); diff != "" {
		n.t.Errorf("the status moves by itself: %s", diff)
	}
	return got.Kubelet
}

func TestKubeletStatus(t *testing.T) {
	n := newTold(t)
	next, first := n.then, n.first
	at := metav1.NewTime(noon.Truncate(time.Second))
	want := &v1alpha1.KubeletStatus{
		Outcome: v1alpha1.KubeletRead, Since: at, ClientRotation: v1alpha1.KubeletSettingEnabled,
		ServingBootstrap: v1alpha1.KubeletSettingDisabled, TLSCertFile: "/a",
		ClientExpires: new(metav1.NewTime(at.Add(1000 * time.Hour))),
		ClientRenewal: &v1alpha1.RenewalStatus{Errors: new(int64(3))}, ServingRenewal: &v1alpha1.RenewalStatus{Errors: new(int64(3))},
	}
	if diff := cmp.Diff(want, n.status.Kubelet); diff != "" {
		t.Fatal(diff)
	}
	t.Run("nothing new", func(t *testing.T) {
		again := readAfter(time.Hour, 999*time.Hour+9*time.Second, 3, first)
		if !again.sameFacts(first) {
			t.Error("the same, a few seconds off, is news")
		}
		if diff := cmp.Diff(want, next(again, time.Hour)); diff != "" {
			t.Error(diff)
		}
		// After a restart nothing but the status is remembered.
		if diff := cmp.Diff(want, next(readAfter(time.Hour, 999*time.Hour-9*time.Second, 3, nil), time.Hour)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, next(nil, time.Hour)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("it cannot be asked", func(t *testing.T) {
		got := next(settled(v1alpha1.KubeletUnverified, "why"), time.Hour)
		if got.Outcome != v1alpha1.KubeletUnverified || got.Message != "why" || !got.Since.Time.Equal(at.Add(time.Hour)) ||
			!got.ClientExpires.Equal(want.ClientExpires) || got.ClientRotation != want.ClientRotation {
			t.Errorf("kubelet = %+v", got)
		}
	})
	t.Run("nobody asks", func(t *testing.T) {
		if got := next(&answers{}, time.Hour); got != nil {
			t.Errorf("kubelet = %+v", got)
		}
		off := settled(v1alpha1.KubeletNotAsked, "off")
		off.forget = true
		if got := next(off, time.Hour); got.ClientExpires != nil || got.ClientRotation != "" {
			t.Errorf("kubelet = %+v", got)
		}
	})
}

// What /configz does not say, the metrics show.
func TestSettingsThatMetricsShow(t *testing.T) {
	n := newTold(t)
	refused := func(shown kubelet.Metrics) *answers {
		return newAnswers(kubelet.Result{
			Outcome: v1alpha1.KubeletAccessDenied, At: noon.Add(time.Hour), Missing: []string{"get nodes/configz"}, Metrics: &shown,
		}, somewhere, n.first)
	}
	on := kubelet.Metrics{RotateCertificates: true, ServerTLSBootstrap: true}
	got := n.then(refused(on), time.Hour)
	if got.ClientRotation != v1alpha1.KubeletSettingEnabled || got.ServingBootstrap != v1alpha1.KubeletSettingEnabled {
		t.Errorf("kubelet = %+v", got)
	}
	if got.TLSCertFile != "/a" {
		t.Errorf("forgot the file that it was told of: %+v", got)
	}
	if diff := cmp.Diff([]string{"get nodes/configz"}, got.MissingPermissions); diff != "" {
		t.Error(diff)
	}
	got = n.then(refused(kubelet.Metrics{}), time.Hour)
	if got.ClientRotation != v1alpha1.KubeletSettingDisabled || got.ServingBootstrap != v1alpha1.KubeletSettingDisabled {
		t.Errorf("kubelet = %+v", got)
	}
	if refused(on).sameFacts(refused(kubelet.Metrics{})) {
		t.Error("other settings are no news")
	}
	if got := n.then(n.first, time.Hour); got.MissingPermissions != nil {
		t.Errorf("kubelet = %+v", got)
	}
	other := refused(on)
	other.missing = []string{"get nodes/metrics"}
	if other.sameFacts(refused(on)) {
		t.Error("another permission is no news")
	}
}

func TestRenewalErrors(t *testing.T) {
	n := newTold(t)
	next, first, before := n.then, n.first, n.status.Kubelet
	t.Run("errors rise", func(t *testing.T) {
		got := next(readAfter(time.Hour, 999*time.Hour, 4, first), time.Hour)
		rose := metav1.NewTime(noon.Add(time.Hour).Truncate(time.Second))
		if !got.ClientRenewal.Rose.Equal(&rose) || !got.ServingRenewal.Rose.Equal(&rose) || *got.ClientRenewal.Errors != 4 {
			t.Errorf("renewals = %+v and %+v", got.ClientRenewal, got.ServingRenewal)
		}
	})
	t.Run("it was started anew", func(t *testing.T) {
		if got := next(readAfter(time.Hour, 999*time.Hour, 0, first), time.Hour); got.ClientRenewal.Rose != nil {
			t.Errorf("renewal = %+v", got.ClientRenewal)
		}
		if got := next(readAfter(time.Hour, 999*time.Hour, 1, first), time.Hour); got.ClientRenewal.Rose == nil {
			t.Errorf("renewal = %+v", got.ClientRenewal)
		}
	})
	t.Run("errors rose, and it was renewed", func(t *testing.T) {
		got := next(readAfter(time.Hour, 2000*time.Hour, 4, first), time.Hour)
		if got.ClientRenewal.Rose != nil || *got.ClientRenewal.Errors != 4 || got.ClientExpires.Equal(before.ClientExpires) {
			t.Errorf("kubelet = %+v", got)
		}
		renewed := servedBy(t, leafFrom(noon.Add(30*time.Minute)))
		change := readAfter(time.Hour, 999*time.Hour, 4, first)
		status := statusOf(t, facts{previous: n.status, now: noon.Add(time.Hour), evidence: renewed, answers: change})
		if status.Kubelet.ServingRenewal.Rose != nil {
			t.Errorf("renewal = %+v", status.Kubelet.ServingRenewal)
		}
	})
	t.Run("it has no certificate any more", func(t *testing.T) {
		infinite := newAnswers(kubelet.Result{Outcome: v1alpha1.KubeletRead, At: noon.Add(time.Hour), Metrics: &kubelet.Metrics{}}, somewhere, first)
		if got := next(infinite, time.Hour); got.ClientExpires != nil || got.ClientRenewal != nil || got.ClientRotation == "" {
			t.Errorf("kubelet = %+v", got)
		}
	})
}

func TestSettledWithoutAnAddress(t *testing.T) {
	a := newAsked(t)
	r := record{evidence: noAddress(errors.New("none"))}
	if a.settle(question{wanted: demand{kubelet: true}}, &r) || r.answers.outcome != v1alpha1.KubeletFailed {
		t.Errorf("answers = %+v", r.answers)
	}
}
