// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// kstatusOf is what Flux, Argo CD's health check and others make of the object.
func kstatusOf(t *testing.T, p *v1alpha1.CertificatePolicy) status.Status {
	t.Helper()
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		t.Fatal(err)
	}
	result, err := status.Compute(&unstructured.Unstructured{Object: object})
	if err != nil {
		t.Fatal(err)
	}
	return result.Status
}

func violated(reason string, severity v1alpha1.Severity) policy.Verdict {
	finding := onNode(reason, "a", "")
	finding.Severity = severity
	return policy.Verdict{
		Findings: []v1alpha1.Finding{finding},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionCompliant, Status: metav1.ConditionFalse, Reason: reason, Message: "Why."},
		},
	}
}

func TestConditionsAndKstatus(t *testing.T) {
	compliant := policy.Verdict{Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionCompliant, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAsExpected},
	}}
	for name, test := range map[string]struct {
		evidence *evidence
		verdict  *policy.Verdict // nil: the judge's own
		want     map[string]string
		kstatus  status.Status
	}{
		"compliant": {&evidence{}, &compliant,
			map[string]string{"Ready": "True Evaluated", "Compliant": "True AsExpected"}, status.CurrentStatus},
		"violated but evaluated": {&evidence{}, new(violated(v1alpha1.ReasonExpired, v1alpha1.SeverityViolation)),
			map[string]string{"Ready": "True Evaluated", "Compliant": "False Expired"}, status.CurrentStatus},
		"spec cannot be evaluated": {&evidence{invalid: errors.New("spec.nodes.selector: no")}, nil,
			map[string]string{
				"Ready": "False InvalidSpec", "Stalled": "True InvalidSpec", "Compliant": "Unknown NotEvaluated",
				"CertificatesCurrent": "Unknown NotEvaluated", "ServingRotationEnabled": "Unknown NotEvaluated",
				"BootstrapHealthy": "Unknown NotEvaluated", "ControlPlaneHealthy": "Unknown NotEvaluated",
				"TrustBundlesHealthy": "Unknown NotEvaluated",
			}, status.FailedStatus},
		"no Cluster CA": {&evidence{input: policy.Input{TrustError: "there is none", TrustSource: "a"}},
			new(violated(v1alpha1.ReasonTrustBundleUnavailable, v1alpha1.SeverityUnknown)),
			map[string]string{
				"Ready": "False TrustBundleUnavailable", "Reconciling": "True TrustBundleUnavailable",
				"Compliant": "False TrustBundleUnavailable",
			}, status.InProgressStatus},
		"another bundle that cannot be read": {&evidence{input: policy.Input{TrustSource: "kube-system/kube-root-ca.crt"}},
			new(violated(v1alpha1.ReasonTrustBundleUnavailable, v1alpha1.SeverityUnknown)),
			map[string]string{"Ready": "True Evaluated", "Compliant": "False TrustBundleUnavailable"}, status.CurrentStatus},
		"no Cluster CA, and none needed": {&evidence{input: policy.Input{TrustError: "there is none"}}, &compliant,
			map[string]string{"Ready": "True Evaluated", "Compliant": "True AsExpected"}, status.CurrentStatus},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPolicy()
			p.Generation = 3
			// What an earlier evaluation said must not stay.
			p.Status.Conditions = []metav1.Condition{
				{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.NewTime(start)},
				{Type: v1alpha1.ConditionReconciling, Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.NewTime(start)},
			}
			verdict := test.verdict
			if verdict == nil {
				verdict = new(test.evidence.judge())
			}
			test.evidence.input.Now = start
			p.Status = newStatus(p, test.evidence, verdict)
			got := map[string]string{}
			for _, condition := range p.Status.Conditions {
				got[condition.Type] = fmt.Sprintf("%s %s", condition.Status, condition.Reason)
				if condition.ObservedGeneration != 3 || condition.LastTransitionTime.IsZero() {
					t.Errorf("condition %s lacks its generation or time: %+v", condition.Type, condition)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("conditions %v, want %v", got, test.want)
			}
			if p.Status.ObservedGeneration != 3 {
				t.Errorf("observedGeneration %d, want 3", p.Status.ObservedGeneration)
			}
			if got := kstatusOf(t, p); got != test.kstatus {
				t.Errorf("kstatus says %s, want %s", got, test.kstatus)
			}
		})
	}
}

func TestUnreconciledIsInProgress(t *testing.T) {
	p := newPolicy()
	p.Status.ObservedGeneration = -1 // the schema's default
	if got := kstatusOf(t, p); got != status.InProgressStatus {
		t.Errorf("kstatus says %s of a policy that nothing has seen, want %s", got, status.InProgressStatus)
	}
}

func TestLastTransitionTimeMovesWithTheStatusOnly(t *testing.T) {
	p := newPolicy()
	verdict := violated(v1alpha1.ReasonExpired, v1alpha1.SeverityViolation)
	p.Status = newStatus(p, &evidence{input: policy.Input{Now: start}}, &verdict)
	verdict.Conditions[0].Reason = v1alpha1.ReasonRotationOverdue
	p.Status = newStatus(p, &evidence{input: policy.Input{Now: start.Add(time.Hour)}}, &verdict)
	condition := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionCompliant)
	if !condition.LastTransitionTime.Time.Equal(start) || condition.Reason != v1alpha1.ReasonRotationOverdue {
		t.Errorf("after another reason: %+v, want the time of the first", condition)
	}
	verdict.Conditions[0].Status = metav1.ConditionTrue
	p.Status = newStatus(p, &evidence{input: policy.Input{Now: start.Add(2 * time.Hour)}}, &verdict)
	condition = meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionCompliant)
	if !condition.LastTransitionTime.Time.Equal(start.Add(2 * time.Hour)) {
		t.Errorf("after another status: %+v, want a new time", condition)
	}
}

func TestStatusHasRoomForSomeFindings(t *testing.T) {
	var verdict policy.Verdict
	for i := range 250 {
		verdict.Findings = append(verdict.Findings, onNode(v1alpha1.ReasonExpired, fmt.Sprint(i), ""))
	}
	got := newStatus(newPolicy(), &evidence{input: policy.Input{Now: start}}, &verdict)
	if len(got.Findings) != 100 || got.OmittedFindings != 150 || got.Findings[0].Subject.Name != "0" {
		t.Errorf("%d findings listed and %d omitted, want the first 100 and 150", len(got.Findings), got.OmittedFindings)
	}
}

func TestStatusDescribesTheControlPlane(t *testing.T) {
	var verdict policy.Verdict
	for i := range 70 {
		verdict.ControlPlane = append(verdict.ControlPlane, v1alpha1.ControlPlaneCertificate{
			Purpose: v1alpha1.PurposeClientCA, Source: fmt.Sprint(i),
		})
	}
	got := newStatus(newPolicy(), &evidence{input: policy.Input{Now: start}}, &verdict).ControlPlane
	if len(got) != 64 || got[0].Source != "0" || got[63].Source != "63" {
		t.Errorf("%d certificates of the control plane listed, want the first 64", len(got))
	}
	if got := newStatus(newPolicy(), &evidence{input: policy.Input{Now: start}}, &policy.Verdict{}).ControlPlane; got != nil {
		t.Errorf("an empty list, which the schema refuses: %v", got)
	}
}

// A concern that the policy ignores has no condition, nor does the one stay that it had while it was watched.
func TestIgnoredConcernHasNoCondition(t *testing.T) {
	p := newPolicy()
	input := policy.Input{Spec: &p.Spec, Now: start}
	p.Status = newStatus(p, &evidence{input: policy.Input{Now: start}}, new((&evidence{input: input}).judge()))
	if meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionTrustBundlesHealthy) == nil {
		t.Fatal("TrustBundlesHealthy is missing while they are watched")
	}
	const ignored = v1alpha1.WatchIgnored
	p.Spec.TrustBundles = v1alpha1.TrustBundlesSpec{APIServices: ignored, Webhooks: ignored, ConversionWebhooks: ignored}
	for name, invalid := range map[string]error{"valid": nil, "invalid": errors.New("spec.nodes.selector: no")} {
		e := &evidence{input: input, invalid: invalid}
		status := newStatus(p, e, new(e.judge()))
		if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionTrustBundlesHealthy); c != nil {
			t.Errorf("%s: %+v", name, c)
		}
		if meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionControlPlaneHealthy) == nil {
			t.Errorf("%s: ControlPlaneHealthy is missing", name)
		}
	}
}

func TestNextEvaluationIsNeverEarly(t *testing.T) {
	var never time.Time
	for name, test := range map[string]struct {
		due  []time.Time
		want time.Duration
	}{
		"nothing due":  {[]time.Time{never, never}, 0},
		"one due":      {[]time.Time{never, start.Add(time.Minute)}, time.Minute},
		"first of two": {[]time.Time{start.Add(2 * time.Minute), start.Add(time.Minute)}, time.Minute},
		"overdue":      {[]time.Time{start.Add(-time.Minute), never}, 0},
		"far off":      {[]time.Time{start.AddDate(7900, 0, 0)}, longestSleep},
	} {
		got := untilDue(start, test.due...)
		if name == "nothing due" {
			if got != 0 {
				t.Errorf("%s: after %s", name, got)
			}
			continue
		}
		if got < test.want+checkDelay || got > test.want+2*checkDelay {
			t.Errorf("%s: after %s, want %s and a little more", name, got, test.want)
		}
	}
}
