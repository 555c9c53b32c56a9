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
	// nodes and controlPlane say how old certificates may get: those of nodes, and those of the control plane and of
	// trust bundles.
	nodes, controlPlane          expiry
	watched                      watched
	rotation                     v1alpha1.ServingRotation
	clientRotation               v1alpha1.ClientRotation
	label                        *v1alpha1.NodeLabel
	minimumKubelet, minimumImage string
	pendingTimeout, issueTimeout time.Duration
	// tokens says that bootstrap tokens are judged, tokenWarning how long before they expire they are reported.
	tokens       bool
	tokenWarning time.Duration
	// staticMounts says that workloads which mount the static serving certificate are judged.
	staticMounts bool
	// approves says that requests are approved.
	approves bool
}

// expiry is an ExpirySpec.
type expiry struct {
	// field is its place in the spec, for messages.
	field                       string
	warnPercent, overduePercent int32
	minimumRemaining            time.Duration
}

// watched says which parts of the control plane and which trust bundles are judged.
type watched struct {
	clusterCA, apiServer, clientCA, aggregation bool
	apiServices, webhooks, conversionWebhooks   bool
	// approval says that the spec speaks of the approval of signing requests.
	approval bool
}

func rulesOf(spec *v1alpha1.CertificatePolicySpec) rules {
	if spec == nil {
		spec = &v1alpha1.CertificatePolicySpec{}
	}
	serving, requests := &spec.Nodes.ServingCertificate, &spec.Nodes.SigningRequests
	return rules{
		nodes:          nodeExpiry(spec),
		controlPlane:   controlPlaneExpiry(spec),
		watched:        watchedOf(spec),
		rotation:       cmp.Or(serving.Rotation, v1alpha1.ServingRotationRequired),
		clientRotation: cmp.Or(spec.Nodes.ClientCertificate.Rotation, v1alpha1.ClientRotationRequired),
		label:          serving.Label,
		minimumKubelet: serving.MinimumKubeletVersion,
		minimumImage:   serving.MinimumNodeImageVersion,
		pendingTimeout: max(0, duration(requests.PendingTimeout, v1alpha1.DefaultPendingTimeout)),
		issueTimeout:   max(0, duration(requests.IssueTimeout, v1alpha1.DefaultIssueTimeout)),
		tokens:         spec.Nodes.BootstrapTokens.Mode == v1alpha1.WatchWatched,
		tokenWarning:   max(0, duration(spec.Nodes.BootstrapTokens.WarnBefore, v1alpha1.DefaultBootstrapTokenWarnBefore)),
		staticMounts:   WantsWorkloads(spec),
		approves:       WantsApproval(spec),
	}
}

func expiryOf(spec *v1alpha1.ExpirySpec, field string) expiry {
	return expiry{
		field:            field,
		warnPercent:      percent(spec.WarnAtLifetimePercent, v1alpha1.DefaultWarnAtLifetimePercent),
		overduePercent:   percent(spec.OverdueAtLifetimePercent, v1alpha1.DefaultOverdueAtLifetimePercent),
		minimumRemaining: max(0, duration(spec.MinimumRemaining, v1alpha1.DefaultMinimumRemaining)),
	}
}

// nodeExpiry is spec.nodes.expiry, which replaces spec.expiry as a whole.
func nodeExpiry(spec *v1alpha1.CertificatePolicySpec) expiry {
	if spec.Nodes.Expiry != nil {
		return expiryOf(spec.Nodes.Expiry, "spec.nodes.expiry")
	}
	return expiryOf(&spec.Expiry, "spec.expiry")
}

// controlPlaneExpiry is spec.controlPlane.expiry, whose floor is another by default.
func controlPlaneExpiry(spec *v1alpha1.CertificatePolicySpec) expiry {
	of := v1alpha1.ExpirySpec(spec.ControlPlane.Expiry)
	if of.MinimumRemaining == nil {
		of.MinimumRemaining = &metav1.Duration{Duration: v1alpha1.DefaultControlPlaneMinimumRemaining}
	}
	return expiryOf(&of, "spec.controlPlane.expiry")
}

func watchedOf(spec *v1alpha1.CertificatePolicySpec) watched {
	is := func(watch v1alpha1.Watch) bool { return watch != v1alpha1.WatchIgnored }
	return watched{
		clusterCA:          is(spec.ControlPlane.ClusterCA),
		apiServer:          is(spec.ControlPlane.APIServer),
		clientCA:           is(spec.ControlPlane.ClientCA),
		aggregation:        is(spec.ControlPlane.Aggregation),
		apiServices:        is(spec.TrustBundles.APIServices),
		webhooks:           is(spec.TrustBundles.Webhooks),
		conversionWebhooks: is(spec.TrustBundles.ConversionWebhooks),
		approval:           spec.SigningRequestApproval != nil,
	}
}

// anyControlPlane says that any part of the control plane is judged.
func (w watched) anyControlPlane() bool {
	return w.clusterCA || w.apiServer || w.clientCA || w.aggregation
}

// anyTrustBundle says that any trust bundle is judged.
func (w watched) anyTrustBundle() bool {
	return w.apiServices || w.webhooks || w.conversionWebhooks
}

// purpose says whether certificates of the purpose are judged.
func (w watched) purpose(purpose v1alpha1.CertificatePurpose) bool {
	switch purpose {
	case v1alpha1.PurposeClusterCA, v1alpha1.PurposeClusterTrustBundle:
		return w.clusterCA
	case v1alpha1.PurposeAPIServer:
		return w.apiServer
	case v1alpha1.PurposeClientCA:
		return w.clientCA
	case v1alpha1.PurposeAggregationCA:
		return w.aggregation
	case v1alpha1.PurposeAPIServiceCA:
		return w.apiServices
	case v1alpha1.PurposeWebhookCA:
		return w.webhooks
	case v1alpha1.PurposeConversionWebhookCA:
		return w.conversionWebhooks
	case v1alpha1.PurposeKubeletServing, v1alpha1.PurposeKubeletClient:
	}
	return false
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
