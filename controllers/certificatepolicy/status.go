// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// maxFindings is how many findings a status has room for, and maxControlPlane how many certificates of the control plane;
// the schema says the same.
const (
	maxFindings     = 100
	maxControlPlane = 64
)

// judge evaluates the evidence. For a spec that cannot be evaluated, the verdict is that there is none.
func (e *evidence) judge() policy.Verdict {
	if e.invalid == nil {
		return policy.Evaluate(e.input)
	}
	var verdict policy.Verdict
	for _, conditionType := range policy.Conditions(e.input.Spec) {
		verdict.Conditions = append(verdict.Conditions, metav1.Condition{
			Type: conditionType, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonNotEvaluated,
			Message: "The policy could not be evaluated: see the Ready condition.",
		})
	}
	return verdict
}

// newStatus is the status that states the verdict. Of the status before, it takes the conditions' lastTransitionTime only.
func newStatus(p *v1alpha1.CertificatePolicy, e *evidence, verdict *policy.Verdict) v1alpha1.CertificatePolicyStatus {
	status := v1alpha1.CertificatePolicyStatus{
		ObservedGeneration: p.Generation,
		Conditions:         slices.Clone(p.Status.Conditions),
		NextExpiration:     verdict.NextExpiration,
	}
	wanted := e.readiness(verdict)
	wanted = slices.Insert(wanted, 1, verdict.Conditions...)
	for _, condition := range wanted {
		condition.ObservedGeneration = p.Generation
		condition.LastTransitionTime = metav1.NewTime(e.input.Now)
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	// Stalled and Reconciling are there only while True, and a concern that the policy ignores as a whole has no condition.
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c metav1.Condition) bool {
		return meta.FindStatusCondition(wanted, c.Type) == nil
	})
	if e.invalid != nil {
		return status
	}
	status.Nodes, status.Certificates = &verdict.Nodes, &verdict.Certificates
	status.ControlPlane = verdict.ControlPlane[:min(len(verdict.ControlPlane), maxControlPlane)]
	status.Findings = verdict.Findings[:min(len(verdict.Findings), maxFindings)]
	status.OmittedFindings = int32(min(len(verdict.Findings)-len(status.Findings), math.MaxInt32))
	return status
}

// readiness is the Ready condition, and Stalled or Reconciling where kstatus needs one to tell why Ready is not True. It is
// the judge who knows whether the policy needs the Cluster CA: it says so by a finding.
func (e *evidence) readiness(verdict *policy.Verdict) []metav1.Condition {
	ready := func(status metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message}
	}
	with := func(ready metav1.Condition, conditionType string) []metav1.Condition {
		why := ready
		why.Type, why.Status = conditionType, metav1.ConditionTrue
		return []metav1.Condition{ready, why}
	}
	switch {
	case e.invalid != nil:
		return with(ready(metav1.ConditionFalse, v1alpha1.ReasonInvalidSpec, e.invalid.Error()), v1alpha1.ConditionStalled)
	case slices.ContainsFunc(verdict.Findings, func(f v1alpha1.Finding) bool {
		return f.Reason == v1alpha1.ReasonTrustBundleUnavailable && f.Subject.Name == e.input.TrustSource &&
			e.input.TrustError != ""
	}):
		return with(ready(metav1.ConditionFalse, v1alpha1.ReasonTrustBundleUnavailable, e.input.TrustError),
			v1alpha1.ConditionReconciling)
	default:
		return []metav1.Condition{ready(metav1.ConditionTrue, v1alpha1.ReasonEvaluated,
			"The policy was evaluated, with everything that takes.")}
	}
}
