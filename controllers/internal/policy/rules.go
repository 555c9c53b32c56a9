// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// rules are a spec with every default filled in. The CRD refuses values out of range; an object stored before its rule
// existed is judged by the nearest value that makes sense.
type rules struct {
	warnPercent, overduePercent  int32
	minimumRemaining             time.Duration
	rotation                     v1alpha1.ServingRotation
	label                        *v1alpha1.NodeLabel
	minimumKubelet, minimumImage string
	pendingTimeout, issueTimeout time.Duration
}

func rulesOf(spec *v1alpha1.CertificatePolicySpec) rules {
	if spec == nil {
		spec = &v1alpha1.CertificatePolicySpec{}
	}
	serving, requests := &spec.Nodes.ServingCertificate, &spec.Nodes.SigningRequests
	return rules{
		warnPercent:      percent(spec.Expiry.WarnAtLifetimePercent, v1alpha1.DefaultWarnAtLifetimePercent),
		overduePercent:   percent(spec.Expiry.OverdueAtLifetimePercent, v1alpha1.DefaultOverdueAtLifetimePercent),
		minimumRemaining: max(0, duration(spec.Expiry.MinimumRemaining, v1alpha1.DefaultMinimumRemaining)),
		rotation:         cmp.Or(serving.Rotation, v1alpha1.ServingRotationRequired),
		label:            serving.Label,
		minimumKubelet:   serving.MinimumKubeletVersion,
		minimumImage:     serving.MinimumNodeImageVersion,
		pendingTimeout:   max(0, duration(requests.PendingTimeout, v1alpha1.DefaultPendingTimeout)),
		issueTimeout:     max(0, duration(requests.IssueTimeout, v1alpha1.DefaultIssueTimeout)),
	}
}

// percent is the value, or the default for none.
func percent(value, otherwise int32) int32 {
	if value <= 0 {
		return otherwise
	}
	return value
}

func duration(value *metav1.Duration, otherwise time.Duration) time.Duration {
	if value == nil {
		return otherwise
	}
	return value.Duration
}
