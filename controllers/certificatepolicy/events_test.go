// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

var start = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// recorder writes Events down.
type recorder struct{ events []string }

func (r *recorder) Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any) {
	r.events = append(r.events, fmt.Sprintf("%s<-%s %s %s %s: %s",
		name(regarding), name(related), eventtype, reason, action, fmt.Sprintf(note, args...)))
}

func name(o runtime.Object) string {
	if o == nil {
		return ""
	}
	if ref, ok := o.(*corev1.ObjectReference); ok {
		return strings.TrimPrefix(ref.Namespace+"/"+ref.Name, "/")
	}
	accessor, err := meta.Accessor(o)
	if err != nil {
		return err.Error()
	}
	return accessor.GetName()
}

func (r *recorder) take() []string {
	events := r.events
	r.events = nil
	return events
}

func onNode(reason, node string, purpose v1alpha1.CertificatePurpose) v1alpha1.Finding {
	return v1alpha1.Finding{
		Reason: reason, Severity: v1alpha1.SeverityViolation, Certificate: purpose, Message: "Why.",
		Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: node},
	}
}

// evidenceAt is that of an evaluation so long after the start, of the nodes.
func evidenceAt(after time.Duration, nodes ...string) *evidence {
	return &evidence{input: policy.Input{Now: start.Add(after)}, selected: func(name string) *corev1.Node {
		if !slices.Contains(nodes, name) {
			return nil
		}
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}}
}

func newPolicy(findings ...v1alpha1.Finding) *v1alpha1.CertificatePolicy {
	return &v1alpha1.CertificatePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster", UID: "1", Generation: 1},
		Status:     v1alpha1.CertificatePolicyStatus{Findings: findings},
	}
}

func expectEvents(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Events (-want +got):\n%s", diff)
	}
}

func TestEventsOnTransitionsOnly(t *testing.T) {
	events := &recorder{}
	r, p := &reconciler{recorder: events}, newPolicy()
	m := newMemory(p)
	pending := onNode(v1alpha1.ReasonSigningRequestPending, "a", v1alpha1.PurposeKubeletServing)
	due := onNode(v1alpha1.ReasonRotationDue, "a", v1alpha1.PurposeKubeletClient)
	due.Severity = v1alpha1.SeverityInfo

	r.announce(p, m, evidenceAt(0, "a"), []v1alpha1.Finding{pending, due})
	expectEvents(t, events.take(),
		"cluster<-a Warning SigningRequestPending JudgeKubeletServing: Node a: Why.",
		"a<-cluster Warning SigningRequestPending JudgeKubeletServing: CertificatePolicy cluster: Why.",
		"cluster<-a Normal RotationDue JudgeKubeletClient: Node a: Why.",
		"a<-cluster Normal RotationDue JudgeKubeletClient: CertificatePolicy cluster: Why.")

	pending.Message = "Another why."
	r.announce(p, m, evidenceAt(time.Second, "a"), []v1alpha1.Finding{pending, due})
	expectEvents(t, events.take())

	r.announce(p, m, evidenceAt(2*time.Second, "a"), []v1alpha1.Finding{due})
	expectEvents(t, events.take(),
		"cluster<-a Normal Recovered ClearSigningRequestPendingKubeletServing: SigningRequestPending (KubeletServing) of Node a is over.",
		"a<-cluster Normal Recovered ClearSigningRequestPendingKubeletServing: "+
			"SigningRequestPending (KubeletServing) is over, says CertificatePolicy cluster.")

	// The node is gone: there is no Node to say it of, and nothing got better.
	r.announce(p, m, evidenceAt(3*time.Second), nil)
	expectEvents(t, events.take(),
		"cluster<-a Normal Recovered ClearRotationDueKubeletClient: "+
			"RotationDue (KubeletClient) of Node a is no longer judged: it is gone, or the policy does not select it.")
}

func TestWorseIsNotRecovered(t *testing.T) {
	overdue := onNode(v1alpha1.ReasonRotationOverdue, "a", v1alpha1.PurposeKubeletServing)
	expired := onNode(v1alpha1.ReasonExpired, "a", v1alpha1.PurposeKubeletServing)
	due := onNode(v1alpha1.ReasonRotationDue, "a", v1alpha1.PurposeKubeletServing)
	due.Severity = v1alpha1.SeverityInfo
	otherCertificate := onNode(v1alpha1.ReasonExpired, "a", v1alpha1.PurposeKubeletClient)
	for name, test := range map[string]struct {
		before, after v1alpha1.Finding
		recovers      bool
	}{
		"as bad": {overdue, expired, false}, "worse": {due, overdue, false}, "better": {expired, due, true},
		"another certificate": {overdue, otherCertificate, true},
	} {
		events := &recorder{}
		r, p := &reconciler{recorder: events}, newPolicy(test.before)
		r.announce(p, newMemory(p), evidenceAt(0, "a"), []v1alpha1.Finding{test.after})
		got := strings.Join(events.take(), "\n")
		if !strings.Contains(got, test.after.Reason+" Judge") {
			t.Errorf("%s: %s is not raised: %s", name, test.after.Reason, got)
		}
		if strings.Contains(got, " Recovered ") != test.recovers {
			t.Errorf("%s: %s after %s, want a recovery: %v; got:\n%s", name, test.after.Reason, test.before.Reason, test.recovers, got)
		}
	}
}

// What cannot be seen any more may well go on: only when it is known again is it over.
func TestUnknownIsNotRecovered(t *testing.T) {
	missing := onNode(v1alpha1.ReasonServingCertificateMissing, "a", v1alpha1.PurposeKubeletServing)
	probeFailed := onNode(v1alpha1.ReasonProbeFailed, "a", v1alpha1.PurposeKubeletServing)
	notObserved := onNode(v1alpha1.ReasonNotObserved, "a", "")
	probeFailed.Severity, notObserved.Severity = v1alpha1.SeverityUnknown, v1alpha1.SeverityUnknown
	for _, unknown := range []v1alpha1.Finding{probeFailed, notObserved} {
		events := &recorder{}
		r, p := &reconciler{recorder: events}, newPolicy(missing)
		m := newMemory(p)
		r.announce(p, m, evidenceAt(0, "a"), []v1alpha1.Finding{unknown})
		if got := strings.Join(events.take(), "\n"); strings.Contains(got, "Recovered") {
			t.Errorf("%s: a recovery:\n%s", unknown.Reason, got)
		}
		r.announce(p, m, evidenceAt(time.Second, "a"), nil)
		if got := strings.Join(events.take(), "\n"); !strings.Contains(got, "ServingCertificateMissing (KubeletServing) is over") {
			t.Errorf("%s, then nothing: no recovery:\n%s", unknown.Reason, got)
		}
	}
}

func TestEventsAboutOtherSubjects(t *testing.T) {
	events := &recorder{}
	r, p := &reconciler{recorder: events}, newPolicy()
	r.announce(p, newMemory(p), evidenceAt(0), []v1alpha1.Finding{
		{Reason: v1alpha1.ReasonTrustBundleUnavailable, Severity: v1alpha1.SeverityUnknown, Message: "Why.",
			Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectConfigMap, Name: "kube-system/kube-root-ca.crt"}},
		{Reason: v1alpha1.ReasonSigningRequestDenied, Severity: v1alpha1.SeverityViolation, Message: "Why.",
			Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectSigningRequest, Name: "csr-1"}},
	})
	expectEvents(t, events.take(),
		"cluster<-kube-system/kube-root-ca.crt Warning TrustBundleUnavailable Judge: ConfigMap kube-system/kube-root-ca.crt: Why.",
		"cluster<-csr-1 Warning SigningRequestDenied Judge: CertificateSigningRequest csr-1: Why.")
}

// When a cluster is first looked at, every node is NotObserved for a moment.
func TestNoEventsForNotObserved(t *testing.T) {
	events := &recorder{}
	unseen := onNode(v1alpha1.ReasonNotObserved, "a", "")
	r, p := &reconciler{recorder: events}, newPolicy(unseen)
	m := newMemory(p)
	r.announce(p, m, evidenceAt(0, "a"), nil)
	r.announce(p, m, evidenceAt(time.Second, "a"), []v1alpha1.Finding{unseen})
	expectEvents(t, events.take())
}

func TestRestartRepeatsNoEvent(t *testing.T) {
	listed, other := onNode(v1alpha1.ReasonExpired, "a", ""), onNode(v1alpha1.ReasonExpired, "b", "")
	events := &recorder{}
	r, p := &reconciler{recorder: events}, newPolicy(listed)
	m := newMemory(p)
	r.announce(p, m, evidenceAt(0, "a", "b"), []v1alpha1.Finding{listed, other})
	expectEvents(t, events.take(),
		"cluster<-b Warning Expired Judge: Node b: Why.", "b<-cluster Warning Expired Judge: CertificatePolicy cluster: Why.")

	// b may be one of those for which the status had no room.
	p.Status.OmittedFindings = 1
	m = newMemory(p)
	r.announce(p, m, evidenceAt(time.Second, "a", "b"), []v1alpha1.Finding{listed, other})
	expectEvents(t, events.take())
	r.announce(p, m, evidenceAt(2*time.Second, "a", "b"), []v1alpha1.Finding{listed})
	if got := events.take(); len(got) != 2 || !strings.HasPrefix(got[0], "cluster<-b Normal Recovered ") {
		t.Errorf("the recovery of a finding that the status had no room for gave %q", got)
	}
}

func TestInvalidSpecRaisesAndClearsNothing(t *testing.T) {
	events := &recorder{}
	expired := onNode(v1alpha1.ReasonExpired, "a", "")
	r, p := &reconciler{recorder: events}, newPolicy()
	m := newMemory(p)
	r.announce(p, m, evidenceAt(0, "a"), []v1alpha1.Finding{expired})
	events.take()
	bad := &evidence{input: policy.Input{Now: start}, invalid: errors.New("spec.nodes.selector: no")}
	r.announce(p, m, bad, nil)
	r.announce(p, m, bad, nil)
	expectEvents(t, events.take(), "cluster<- Warning InvalidSpec Evaluate: spec.nodes.selector: no")
	r.announce(p, m, evidenceAt(time.Second, "a"), []v1alpha1.Finding{expired})
	expectEvents(t, events.take(), "cluster<- Normal Evaluated Evaluate: The policy can be evaluated again.")
}

// A node that comes and goes uses up its own share, and nobody else's.
func TestFlappingIsSummedUp(t *testing.T) {
	events := &recorder{}
	r, p := &reconciler{recorder: events}, newPolicy()
	m := newMemory(p)
	failed, expired := onNode(v1alpha1.ReasonProbeFailed, "flaps", ""), onNode(v1alpha1.ReasonExpired, "other", "")
	for i := range 3 * subjectBurst {
		var findings []v1alpha1.Finding
		if i%2 == 0 {
			findings = []v1alpha1.Finding{failed}
		}
		r.announce(p, m, evidenceAt(0, "flaps", "other"), findings)
	}
	if got := events.take(); len(got) != 2*subjectBurst {
		t.Errorf("%d Events of a node that flaps, want %d", len(got), 2*subjectBurst)
	}
	r.announce(p, m, evidenceAt(time.Second, "flaps", "other"), []v1alpha1.Finding{expired})
	if got := events.take(); len(got) != 2 || !strings.HasPrefix(got[0], "cluster<-other Warning Expired ") {
		t.Errorf("Events of another node: %q", got)
	}
	r.announce(p, m, evidenceAt(summaryDelay, "flaps", "other"), []v1alpha1.Finding{expired})
	if got := strings.Join(events.take(), "\n"); !strings.Contains(got, "20 findings raised (20 ProbeFailed); 20 findings over (20 ProbeFailed)") {
		t.Errorf("the summary says %q", got)
	}
	r.announce(p, m, evidenceAt(subjectBurst*subjectInterval, "flaps", "other"), []v1alpha1.Finding{expired})
	if len(m.budget.each) > 0 {
		t.Errorf("%d subjects are remembered, want none", len(m.budget.each))
	}
}

func TestBurstIsSummedUp(t *testing.T) {
	events := &recorder{}
	r, p := &reconciler{recorder: events}, newPolicy()
	m := newMemory(p)
	var nodes []string
	var findings []v1alpha1.Finding
	for i := range 1000 {
		nodes = append(nodes, fmt.Sprintf("node-%04d", i))
		findings = append(findings, onNode(v1alpha1.ReasonExpired, nodes[i], ""))
	}
	r.announce(p, m, evidenceAt(0, nodes...), findings[:600])
	r.announce(p, m, evidenceAt(time.Second, nodes...), findings)
	if got := events.take(); len(got) != eventBurst {
		t.Fatalf("%d Events, want the budget of %d", len(got), eventBurst)
	}
	if due, want := m.suppressed.due(), start.Add(summaryDelay); !due.Equal(want) {
		t.Errorf("summary due at %s, want %s", due, want)
	}
	r.announce(p, m, evidenceAt(summaryDelay, nodes...), findings)
	expectEvents(t, events.take(), "cluster<- Warning FindingsSuppressed SumUp: Without an Event of their own, because too many "+
		"changed at once: 950 findings raised (950 Expired). See the policy's status, and the metric notafter_findings.")
	r.announce(p, m, evidenceAt(2*summaryDelay, nodes...), findings)
	expectEvents(t, events.take())
	if due := m.suppressed.due(); !due.IsZero() {
		t.Errorf("another summary is due at %s", due)
	}

	// Later the budget has room again, but not for everything: what is over is summed up as such.
	r.announce(p, m, evidenceAt(time.Hour, nodes...), nil)
	if got := events.take(); len(got) != eventBurst || !strings.Contains(got[0], " Recovered ") {
		t.Errorf("%d Events for the recovery, want %d", len(got), eventBurst)
	}
	r.announce(p, m, evidenceAt(time.Hour+summaryDelay, nodes...), nil)
	expectEvents(t, events.take(), "cluster<- Normal FindingsSuppressed SumUp: Without an Event of their own, because too many "+
		"changed at once: 950 findings over (950 Expired). See the policy's status, and the metric notafter_findings.")
}

// Events that agree in everything but the note may be taken for one.
func TestEventsOfOneEvaluationDifferInMoreThanTheNote(t *testing.T) {
	var transitions []transition
	for _, purpose := range []v1alpha1.CertificatePurpose{v1alpha1.PurposeKubeletClient, v1alpha1.PurposeKubeletServing} {
		for _, reason := range []string{v1alpha1.ReasonExpired, v1alpha1.ReasonSigningRequestPending} {
			finding := onNode(reason, "a", purpose)
			transitions = append(transitions, raised("cluster", &finding), recovered("cluster", keyOf(&finding), true))
		}
	}
	seen := map[string]bool{}
	for _, each := range transitions {
		key := each.eventType + each.eventReason + each.action
		if seen[key] {
			t.Errorf("the Event %q would be lost in the series of another", each.note)
		}
		seen[key] = true
		if len(each.action) > 128 {
			t.Errorf("action %s is longer than the API server takes", each.action)
		}
	}
}

// A verdict compared with a status from a cache that is behind may be taken for written though another one was written since.
func TestBehind(t *testing.T) {
	for name, test := range map[string]struct {
		written, cached string
		want            bool
	}{
		"nothing written yet":            {"", "7", false},
		"what was written":               {"9", "9", false},
		"before what was written":        {"10", "9", true},
		"somebody wrote since":           {"9", "10", false},
		"versions that can't be ordered": {"b", "a", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{written: test.written}
			p := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{ResourceVersion: test.cached}}
			if got := m.isBehind(p); got != test.want {
				t.Errorf("behind = %v, want %v", got, test.want)
			}
		})
	}
}

func TestWhatEventsReferTo(t *testing.T) {
	e := evidenceAt(0)
	e.orphans = map[string]types.UID{"csr-1": "1"}
	for _, want := range []corev1.ObjectReference{
		{APIVersion: "v1", Kind: "Node", Name: "gone"},
		{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest", Name: "csr-1", UID: "1"},
		{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system", Name: "kube-root-ca.crt"},
		{APIVersion: "apps/v1", Kind: "DaemonSet", Namespace: "kube-system", Name: "agent"},
		{APIVersion: "apiregistration.k8s.io/v1", Kind: "APIService", Name: "v1.example.com"},
		{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration", Name: "hook"},
		{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: "a.example.com"},
		{Kind: "Permission", Name: "list configmaps/kube-root-ca.crt in kube-system"},
	} {
		name := want.Name
		if want.Namespace != "" {
			name = want.Namespace + "/" + name
		}
		got, node := e.object(v1alpha1.Subject{Kind: v1alpha1.SubjectKind(want.Kind), Name: name})
		if ref, ok := got.(*corev1.ObjectReference); !ok || *ref != want || node != nil {
			t.Errorf("%s %s: got %v, want %v", want.Kind, name, got, want)
		}
	}
}
