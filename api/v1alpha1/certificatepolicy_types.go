// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CertificatePolicy says what must hold of the certificates that a cluster's nodes live by. The controller compares it
// with what it observes and reports the verdict in status. It changes nothing in the cluster, unless
// spec.signingRequestApproval says so.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=certpolicy,categories=notafter
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Compliant",type=string,JSONPath=`.status.conditions[?(@.type=="Compliant")].status`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes.selected`
// +kubebuilder:printcolumn:name="Violating",type=integer,JSONPath=`.status.nodes.violating`
// +kubebuilder:printcolumn:name="Next-Expiry",type=string,JSONPath=`.status.nextExpiration.notAfter`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Compliant")].reason`
// +kubebuilder:printcolumn:name="Unknown",type=integer,priority=1,JSONPath=`.status.nodes.unknown`
// +kubebuilder:printcolumn:name="Certificates",type=integer,priority=1,JSONPath=`.status.certificates.total`
// +kubebuilder:printcolumn:name="Due",type=integer,priority=1,JSONPath=`.status.certificates.rotationDue`
// +kubebuilder:printcolumn:name="Overdue",type=integer,priority=1,JSONPath=`.status.certificates.overdue`
// +kubebuilder:printcolumn:name="Expired",type=integer,priority=1,JSONPath=`.status.certificates.expired`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CertificatePolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is what must hold. Every field has a default, so `spec: {}` is a complete policy.
	// +optional
	// +kubebuilder:default={}
	Spec CertificatePolicySpec `json:"spec,omitempty,omitzero"`

	// status is the controller's latest verdict. The default makes kstatus report an object that no controller has seen
	// yet as InProgress, never as Current.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status CertificatePolicyStatus `json:"status,omitempty,omitzero"`
}

// CertificatePolicyList is a list of CertificatePolicy.
//
// +kubebuilder:object:root=true
type CertificatePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CertificatePolicy `json:"items"`
}

// CertificatePolicySpec is what must hold.
type CertificatePolicySpec struct {
	// expiry says when a certificate's remaining lifetime is reported. It holds for every certificate the policy judges.
	// +optional
	// +kubebuilder:default={}
	Expiry ExpirySpec `json:"expiry,omitempty,omitzero"`

	// nodes says which nodes the policy judges and what must hold on them.
	// +optional
	// +kubebuilder:default={}
	Nodes NodesSpec `json:"nodes,omitempty,omitzero"`

	// controlPlane says which certificates of the control plane are judged.
	// +optional
	// +kubebuilder:default={}
	ControlPlane ControlPlaneSpec `json:"controlPlane,omitempty,omitzero"`

	// trustBundles says which of the CA bundles that the API server verifies others with are judged.
	// +optional
	// +kubebuilder:default={}
	TrustBundles TrustBundlesSpec `json:"trustBundles,omitempty,omitzero"`

	// signingRequestApproval makes notafter the approver of the selected nodes' requests for kubelet serving certificates.
	// Left out, the policy has no say in that.
	// +optional
	SigningRequestApproval *SigningRequestApprovalSpec `json:"signingRequestApproval,omitempty"`
}

// Watch says whether something is judged.
//
// +kubebuilder:validation:Enum=Watched;Ignored
type Watch string

const (
	// WatchWatched judges it. What cannot be read is then reported as unknown.
	WatchWatched Watch = "Watched"
	// WatchIgnored leaves it alone.
	WatchIgnored Watch = "Ignored"
)

// ControlPlaneSpec says which certificates of the control plane are judged.
type ControlPlaneSpec struct {
	// expiry replaces spec.expiry for the certificates of the control plane and for trust bundles.
	// +optional
	// +kubebuilder:default={}
	Expiry ControlPlaneExpirySpec `json:"expiry,omitempty,omitzero"`

	// clusterCA is the CA in the ConfigMap that the manager's flags name, every certificate of the bundle, and what
	// ClusterTrustBundles hold, where they are served.
	// +optional
	// +kubebuilder:default=Watched
	ClusterCA Watch `json:"clusterCA,omitempty"`

	// apiServer is the serving certificate of the API server, as each of its endpoints presents it.
	// +optional
	// +kubebuilder:default=Watched
	APIServer Watch `json:"apiServer,omitempty"`

	// clientCA is the CA that client certificates are verified with, as the ConfigMap
	// kube-system/extension-apiserver-authentication publishes it.
	// +optional
	// +kubebuilder:default=Watched
	ClientCA Watch `json:"clientCA,omitempty"`

	// aggregation is the CA that aggregated API servers verify the API server with (requestheader-client-ca-file), from the
	// same ConfigMap.
	// +optional
	// +kubebuilder:default=Watched
	Aggregation Watch `json:"aggregation,omitempty"`
}

// TrustBundlesSpec says which CA bundles are judged: their expiry, whether they can be parsed, and whether they hold on
// to a Cluster CA that was replaced.
type TrustBundlesSpec struct {
	// apiServices are the caBundles of APIServices, and whether those are available.
	// +optional
	// +kubebuilder:default=Watched
	APIServices Watch `json:"apiServices,omitempty"`

	// webhooks are the caBundles of validating and mutating webhook configurations.
	// +optional
	// +kubebuilder:default=Watched
	Webhooks Watch `json:"webhooks,omitempty"`

	// conversionWebhooks are the caBundles of the conversion webhooks of CustomResourceDefinitions.
	// +optional
	// +kubebuilder:default=Watched
	ConversionWebhooks Watch `json:"conversionWebhooks,omitempty"`
}

// ExpirySpec sets the points in a certificate's life at which it is reported. Percentages count from notBefore (0) to
// notAfter (100), so one policy fits certificates that live minutes and certificates that live years.
//
// +kubebuilder:validation:XValidation:rule="!has(self.warnAtLifetimePercent) || !has(self.overdueAtLifetimePercent) || self.warnAtLifetimePercent < self.overdueAtLifetimePercent",message="expiry.warnAtLifetimePercent must be less than expiry.overdueAtLifetimePercent"
type ExpirySpec struct {
	// warnAtLifetimePercent is the share of its lifetime, in percent, at which a certificate is reported as RotationDue.
	// This informs and violates nothing: a kubelet renews at a random point between 70 % and 90 %, so half of all healthy
	// certificates pass 80 %.
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	WarnAtLifetimePercent int32 `json:"warnAtLifetimePercent,omitempty"`

	// overdueAtLifetimePercent is the share of its lifetime, in percent, at which a certificate violates the policy as
	// RotationOverdue. No healthy kubelet gets to the default of 90 %.
	// +optional
	// +kubebuilder:default=90
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=100
	OverdueAtLifetimePercent int32 `json:"overdueAtLifetimePercent,omitempty"`

	// minimumRemaining is an absolute floor, as a Go duration: a certificate with less time left than this violates the
	// policy as RotationOverdue, whatever share of its life that is. Set it to 0s, the floor's off position, where
	// certificates live for less than a few days; otherwise they are overdue from the start.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('87600h')",message="expiry.minimumRemaining must be at most 87600h (ten years)"
	MinimumRemaining *metav1.Duration `json:"minimumRemaining,omitempty"`
}

// ControlPlaneExpirySpec is an ExpirySpec for certificates that nothing renews by itself. They need a higher floor: 80 % of a
// thirty-year CA leaves six years, and 90 % of a one-year certificate five weeks.
//
// +kubebuilder:validation:XValidation:rule="!has(self.warnAtLifetimePercent) || !has(self.overdueAtLifetimePercent) || self.warnAtLifetimePercent < self.overdueAtLifetimePercent",message="expiry.warnAtLifetimePercent must be less than expiry.overdueAtLifetimePercent"
type ControlPlaneExpirySpec struct {
	// warnAtLifetimePercent is the share of its lifetime, in percent, at which a certificate is reported as RotationDue,
	// which informs and violates nothing.
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	WarnAtLifetimePercent int32 `json:"warnAtLifetimePercent,omitempty"`

	// overdueAtLifetimePercent is the share of its lifetime, in percent, at which a certificate violates the policy as
	// RotationOverdue.
	// +optional
	// +kubebuilder:default=90
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=100
	OverdueAtLifetimePercent int32 `json:"overdueAtLifetimePercent,omitempty"`

	// minimumRemaining is an absolute floor, as a Go duration: a certificate with less time left than this violates the
	// policy as RotationOverdue, whatever share of its life that is. The default is 30 days. 0s switches it off.
	// +optional
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('87600h')",message="expiry.minimumRemaining must be at most 87600h (ten years)"
	MinimumRemaining *metav1.Duration `json:"minimumRemaining,omitempty"`
}

// NodesSpec says which nodes are judged and what must hold on them.
type NodesSpec struct {
	// selector picks the nodes by their labels. Empty selects every node.
	// +optional
	Selector NodeSelector `json:"selector,omitempty,omitzero"`

	// servingCertificate says how the kubelets must come by the certificate they serve on their own port, which
	// `kubectl logs`, `kubectl exec` and metrics scrapes depend on.
	// +optional
	// +kubebuilder:default={}
	ServingCertificate ServingCertificateSpec `json:"servingCertificate,omitempty,omitzero"`

	// expiry replaces spec.expiry for the nodes' certificates. Its fields have the defaults of spec.expiry.
	// +optional
	Expiry *ExpirySpec `json:"expiry,omitempty"`

	// clientCertificate says how the kubelets must come by the certificate with which they authenticate to the API server.
	// +optional
	// +kubebuilder:default={}
	ClientCertificate ClientCertificateSpec `json:"clientCertificate,omitempty,omitzero"`

	// staticServingMounts reports workloads that mount, from the host, the static file that kubelet serving certificate
	// rotation removes.
	// +optional
	// +kubebuilder:default=Watched
	StaticServingMounts Watch `json:"staticServingMounts,omitempty"`

	// bootstrapTokens says whether the expiry of bootstrap tokens is judged.
	// +optional
	// +kubebuilder:default={}
	BootstrapTokens BootstrapTokensSpec `json:"bootstrapTokens,omitempty,omitzero"`

	// signingRequests says how long a kubelet's CertificateSigningRequest may take.
	// +optional
	// +kubebuilder:default={}
	SigningRequests SigningRequestsSpec `json:"signingRequests,omitempty,omitzero"`

	// probe says how often the kubelets' serving certificates are looked at. A node that several policies select is
	// probed at the shortest of their intervals, with the longest of their timeouts.
	// +optional
	// +kubebuilder:default={}
	Probe ProbeSpec `json:"probe,omitempty,omitzero"`
}

// NodeSelector is a metav1.LabelSelector whose mistakes the API server refuses. All requirements must hold.
type NodeSelector struct {
	// matchLabels are label keys and the values they must have.
	// +optional
	// +kubebuilder:validation:MinProperties=0
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() <= 317 && k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="nodes.selector.matchLabels has a key that is not a label key (an optional DNS prefix and a slash, then at most 63 letters, digits, '-', '_' and '.')"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`

	// matchExpressions are requirements on label keys.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=32
	MatchExpressions []NodeSelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label, which may be empty.
//
// +kubebuilder:validation:MinLength=0
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
type LabelValue string

// NodeSelectorRequirement relates a label key to values.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",message="nodes.selector.matchExpressions: values must be given with the operators In and NotIn, and must be left out with Exists and DoesNotExist"
type NodeSelectorRequirement struct {
	// key is the label key that the requirement is about.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self.indexOf('/') <= 253",message="the prefix of a label key has at most 253 characters"
	Key string `json:"key,omitempty"`

	// operator relates the key to the values.
	// +required
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator,omitempty"`

	// values are the label values for In and NotIn.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=64
	Values []LabelValue `json:"values,omitempty"`
}

// ServingRotation says what is expected of kubelet serving certificate rotation.
//
// +kubebuilder:validation:Enum=Required;Disabled;Ignored
type ServingRotation string

const (
	// ServingRotationRequired expects every selected node to serve a certificate that the Cluster CA signed, obtained and
	// renewed through CertificateSigningRequests.
	ServingRotationRequired ServingRotation = "Required"
	// ServingRotationDisabled expects no selected node to take part in serving certificate rotation.
	ServingRotationDisabled ServingRotation = "Disabled"
	// ServingRotationIgnored has no expectation of where the serving certificate comes from. That there is one, and when
	// it expires, is judged all the same.
	ServingRotationIgnored ServingRotation = "Ignored"
)

// ServingCertificateSpec says how kubelets must come by their serving certificates.
//
// +kubebuilder:validation:XValidation:rule="(!has(self.minimumKubeletVersion) && !has(self.minimumNodeImageVersion)) || (has(self.label) && (!has(self.rotation) || self.rotation == 'Required'))",message="nodes.servingCertificate.minimumKubeletVersion and minimumNodeImageVersion explain why label is missing: give label, too, and rotation Required, or leave them out"
type ServingCertificateSpec struct {
	// rotation says whether kubelet serving certificate rotation must be on (Required), must be off (Disabled), or is not
	// judged (Ignored).
	// +optional
	// +kubebuilder:default=Required
	Rotation ServingRotation `json:"rotation,omitempty"`

	// label is the node label by which the platform says that serving rotation is enabled on a node. Leave it out where
	// there is none. On AKS it is kubernetes.azure.com/kubelet-serving-ca=cluster. A kubelet sets its own labels, so the
	// label is a claim: the TLS handshake is the proof.
	// +optional
	Label *NodeLabel `json:"label,omitempty"`

	// minimumKubeletVersion is the lowest kubelet version, like 1.27 or 1.27.3, whose platform enables serving rotation. An
	// older kubelet is named as the likely cause when label is missing. Left out, versions are not considered. It needs label,
	// and the rotation Required.
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^v?[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?$`
	MinimumKubeletVersion string `json:"minimumKubeletVersion,omitempty"`

	// minimumNodeImageVersion is the lowest AKS node image version, like 202501.12.0, that supports serving rotation. An
	// older image is named as the likely cause when label is missing. Left out, images are not considered. It needs label, and
	// the rotation Required.
	// +optional
	// +kubebuilder:validation:MinLength=10
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^20[0-9]{2}(0[1-9]|1[0-2])\.(0?[1-9]|[12][0-9]|3[01])\.[0-9]{1,4}$`
	MinimumNodeImageVersion string `json:"minimumNodeImageVersion,omitempty"`
}

// ClientRotation says what is expected of kubelet client certificate rotation.
//
// +kubebuilder:validation:Enum=Required;Ignored
type ClientRotation string

const (
	// ClientRotationRequired expects every selected kubelet to have a client certificate that it renews itself.
	ClientRotationRequired ClientRotation = "Required"
	// ClientRotationIgnored has no expectation: for platforms whose kubelets authenticate in other ways. A client certificate
	// that is known is judged all the same.
	ClientRotationIgnored ClientRotation = "Ignored"
)

// ClientCertificateSpec says how kubelets must come by their client certificates.
type ClientCertificateSpec struct {
	// rotation says whether kubelet client certificate rotation must be on (Required) or is not judged (Ignored).
	// +optional
	// +kubebuilder:default=Required
	Rotation ClientRotation `json:"rotation,omitempty"`
}

// BootstrapTokensSpec says whether the expiry of bootstrap tokens is judged. A node that has to join again, or whose client
// certificate ran out, needs a token that works.
type BootstrapTokensSpec struct {
	// mode is Ignored unless the component config/components/bootstrap-tokens is installed, which grants reading them: they
	// are Secrets.
	// +optional
	// +kubebuilder:default=Ignored
	Mode Watch `json:"mode,omitempty"`

	// warnBefore is how long before its expiry a bootstrap token is reported, as a Go duration.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('8760h')",message="nodes.bootstrapTokens.warnBefore must be at most 8760h (a year)"
	WarnBefore *metav1.Duration `json:"warnBefore,omitempty"`
}

// NodeLabel is a label that a node carries.
type NodeLabel struct {
	// key of the label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self.indexOf('/') <= 253",message="the prefix of a label key has at most 253 characters"
	Key string `json:"key,omitempty"`

	// value of the label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Value string `json:"value,omitempty"`
}

// SigningRequestsSpec sets how long a kubelet's CertificateSigningRequest may stay in each stage.
type SigningRequestsSpec struct {
	// pendingTimeout is how long a request may wait to be approved or denied, as a Go duration.
	// +optional
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="nodes.signingRequests.pendingTimeout must be between 1s and 24h"
	PendingTimeout *metav1.Duration `json:"pendingTimeout,omitempty"`

	// issueTimeout is how long an approved request may wait for its certificate, and how long an issued certificate may
	// wait to be served, as a Go duration.
	// +optional
	// +kubebuilder:default="2m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="nodes.signingRequests.issueTimeout must be between 1s and 24h"
	IssueTimeout *metav1.Duration `json:"issueTimeout,omitempty"`
}

// ProbeSpec sets how a kubelet's serving certificate is looked at: by a TLS handshake with the kubelet's port, over which
// nothing is sent.
//
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || !has(self.interval) || duration(self.timeout) <= duration(self.interval)",message="nodes.probe.timeout must be at most nodes.probe.interval"
type ProbeSpec struct {
	// interval is the time between two probes of a node while nothing happens to it, as a Go duration. A node is also
	// probed at once when a certificate was issued to it or its address changed, and around the moments at which its
	// certificate crosses a threshold.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="nodes.probe.interval must be between 10s and 24h"
	Interval *metav1.Duration `json:"interval,omitempty"`

	// timeout bounds one probe: connecting and the handshake together, as a Go duration.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('1m')",message="nodes.probe.timeout must be between 100ms and 1m"
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// CertificatePolicyStatus is the controller's latest verdict. It is written once per evaluation, and only when it changed.
type CertificatePolicyStatus struct {
	// observedGeneration is the metadata.generation that the verdict is about; -1 until the first verdict.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Compliant, CertificatesCurrent, ServingRotationEnabled, BootstrapHealthy, ControlPlaneHealthy,
	// TrustBundlesHealthy and ApprovalHealthy, and, only while True, Stalled or Reconciling. Ready says that
	// the policy could be evaluated; Compliant is the verdict.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// nodes counts the selected nodes by their verdict.
	// +optional
	Nodes *NodeCounts `json:"nodes,omitempty"`

	// certificates counts the judged certificates by their state.
	// +optional
	Certificates *CertificateCounts `json:"certificates,omitempty"`

	// controlPlane describes the watched certificates of the control plane, in the order of their purposes and sources. Those
	// of trust bundles appear in findings only.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	ControlPlane []ControlPlaneCertificate `json:"controlPlane,omitempty"`

	// nextExpiration is the certificate, among those still valid, that expires first.
	// +optional
	NextExpiration *NextExpiration `json:"nextExpiration,omitempty"`

	// findings are what was found, the worst first. omittedFindings counts those for which there was no room.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Findings []Finding `json:"findings,omitempty"`

	// omittedFindings is how many findings the list leaves out; absent when it has all.
	// +optional
	// +kubebuilder:validation:Minimum=1
	OmittedFindings int32 `json:"omittedFindings,omitempty"`
}

// NodeCounts counts nodes by their verdict.
type NodeCounts struct {
	// selected is the number of nodes that the policy selects: the sum of the others.
	// +required
	// +kubebuilder:validation:Minimum=0
	Selected *int32 `json:"selected,omitempty"`

	// compliant is the number of nodes about which all is known and nothing violates the policy.
	// +required
	// +kubebuilder:validation:Minimum=0
	Compliant *int32 `json:"compliant,omitempty"`

	// violating is the number of nodes with a finding that violates the policy.
	// +required
	// +kubebuilder:validation:Minimum=0
	Violating *int32 `json:"violating,omitempty"`

	// unknown is the number of nodes without such a finding about which something could not be learnt.
	// +required
	// +kubebuilder:validation:Minimum=0
	Unknown *int32 `json:"unknown,omitempty"`
}

// CertificateCounts counts certificates by their state.
type CertificateCounts struct {
	// total is the number of judged certificates: the sum of the others.
	// +required
	// +kubebuilder:validation:Minimum=0
	Total *int32 `json:"total,omitempty"`

	// current is the number of certificates before their warning threshold.
	// +required
	// +kubebuilder:validation:Minimum=0
	Current *int32 `json:"current,omitempty"`

	// rotationDue is the number of certificates past the warning threshold.
	// +required
	// +kubebuilder:validation:Minimum=0
	RotationDue *int32 `json:"rotationDue,omitempty"`

	// overdue is the number of certificates past the overdue threshold or under the minimum remaining time.
	// +required
	// +kubebuilder:validation:Minimum=0
	Overdue *int32 `json:"overdue,omitempty"`

	// expired is the number of certificates past their notAfter.
	// +required
	// +kubebuilder:validation:Minimum=0
	Expired *int32 `json:"expired,omitempty"`

	// unknown is the number of serving certificates that could not be seen, and of certificates that are not valid yet.
	// +required
	// +kubebuilder:validation:Minimum=0
	Unknown *int32 `json:"unknown,omitempty"`
}

// ControlPlaneCertificate describes one certificate of the control plane.
type ControlPlaneCertificate struct {
	// purpose is what the certificate is for.
	// +required
	Purpose CertificatePurpose `json:"purpose,omitempty"`

	// source is where it was seen: a ConfigMap as namespace/name, the address of an API server's endpoint, or the name of a
	// ClusterTrustBundle.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Source string `json:"source,omitempty"`

	// subject is the certificate's subject, as an RFC 2253 string.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Subject string `json:"subject,omitempty"`

	// issuer is the certificate's issuer, as an RFC 2253 string.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Issuer string `json:"issuer,omitempty"`

	// serialNumber is the certificate's serial number in lower-case hexadecimal.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	SerialNumber string `json:"serialNumber,omitempty"`

	// sha256 is the SHA-256 fingerprint of the certificate in lower-case hexadecimal.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	SHA256 string `json:"sha256,omitempty"`

	// notBefore is when the certificate starts to be valid.
	// +required
	NotBefore metav1.Time `json:"notBefore,omitempty,omitzero"`

	// notAfter is when the certificate stops being valid.
	// +required
	NotAfter metav1.Time `json:"notAfter,omitempty,omitzero"`
}

// NextExpiration names the certificate that expires first.
type NextExpiration struct {
	// certificate is what the certificate is for.
	// +required
	Certificate CertificatePurpose `json:"certificate,omitempty"`

	// node is the name of the node it belongs to; empty for a certificate of the control plane.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`

	// notAfter is when it expires.
	// +required
	NotAfter metav1.Time `json:"notAfter,omitempty,omitzero"`
}

// Severity says what a finding means for the verdict.
//
// +kubebuilder:validation:Enum=Violation;Unknown;Info
type Severity string

const (
	// SeverityViolation makes the policy's Compliant condition False.
	SeverityViolation Severity = "Violation"
	// SeverityUnknown says that something could not be learnt: Compliant is Unknown unless something else violates.
	SeverityUnknown Severity = "Unknown"
	// SeverityInfo changes no verdict.
	SeverityInfo Severity = "Info"
)

// Finding is one thing found about one subject.
type Finding struct {
	// reason is what was found, one of the reasons declared with this API.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`

	// severity is what the finding means for the verdict.
	// +required
	Severity Severity `json:"severity,omitempty"`

	// subject is what the finding is about.
	// +required
	Subject Subject `json:"subject,omitempty,omitzero"`

	// certificate is what the certificate concerned is for; empty when the finding concerns none in particular.
	// +optional
	Certificate CertificatePurpose `json:"certificate,omitempty"`

	// message states the evidence, what it breaks and how to fix it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`

	// since is when what was found began, where the evidence tells.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// notAfter is the expiry of the certificate concerned, where one is known.
	// +optional
	NotAfter *metav1.Time `json:"notAfter,omitempty"`

	// runbookURL is the address of the page that says what the reason means, how to check it by hand and how to fix it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	RunbookURL string `json:"runbookURL,omitempty"`
}

// SubjectKind is the kind of object that a finding is about.
//
// +kubebuilder:validation:Enum=Node;NodePool;CertificateSigningRequest;ConfigMap;Secret;APIServer;APIService;ValidatingWebhookConfiguration;MutatingWebhookConfiguration;CustomResourceDefinition;ClusterTrustBundle;DaemonSet;Deployment;StatefulSet;Permission;CertificatePolicy
type SubjectKind string

const (
	// SubjectNode is a Node.
	SubjectNode SubjectKind = "Node"
	// SubjectNodePool is the nodes with the same value of the node pool label, which is the name.
	SubjectNodePool SubjectKind = "NodePool"
	// SubjectSigningRequest is a CertificateSigningRequest that belongs to no Node in the cluster.
	SubjectSigningRequest SubjectKind = "CertificateSigningRequest"
	// SubjectConfigMap is the ConfigMap that evidence is read from.
	SubjectConfigMap SubjectKind = "ConfigMap"
	// SubjectSecret is the Secret of a bootstrap token.
	SubjectSecret SubjectKind = "Secret"
	// SubjectAPIServer is an endpoint of the API server; the name is its address and port.
	SubjectAPIServer SubjectKind = "APIServer"
	// SubjectAPIService is an APIService.
	SubjectAPIService SubjectKind = "APIService"
	// SubjectValidatingWebhook is a ValidatingWebhookConfiguration.
	SubjectValidatingWebhook SubjectKind = "ValidatingWebhookConfiguration"
	// SubjectMutatingWebhook is a MutatingWebhookConfiguration.
	SubjectMutatingWebhook SubjectKind = "MutatingWebhookConfiguration"
	// SubjectCustomResourceDefinition is a CustomResourceDefinition.
	SubjectCustomResourceDefinition SubjectKind = "CustomResourceDefinition"
	// SubjectClusterTrustBundle is a ClusterTrustBundle.
	SubjectClusterTrustBundle SubjectKind = "ClusterTrustBundle"
	// SubjectDaemonSet is a DaemonSet.
	SubjectDaemonSet SubjectKind = "DaemonSet"
	// SubjectDeployment is a Deployment.
	SubjectDeployment SubjectKind = "Deployment"
	// SubjectStatefulSet is a StatefulSet.
	SubjectStatefulSet SubjectKind = "StatefulSet"
	// SubjectPermission is a permission that notafter lacks; the name says what on which resource.
	SubjectPermission SubjectKind = "Permission"
	// SubjectCertificatePolicy is a CertificatePolicy.
	SubjectCertificatePolicy SubjectKind = "CertificatePolicy"
)

// Subject names the object that a finding is about.
type Subject struct {
	// kind of the object.
	// +required
	Kind SubjectKind `json:"kind,omitempty"`

	// name of the object; namespace/name where it has a namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Name string `json:"name,omitempty"`
}
