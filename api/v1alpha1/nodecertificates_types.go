// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeCertificates is what is known about the certificates of the Node of the same name, which owns it. It has no spec:
// the controller creates it, writes it when a fact changed, and it goes with its Node. Facts stay when their source is
// gone, so an issued certificate is known after its CertificateSigningRequest was collected.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=nodecertificates,singular=nodecertificates,scope=Cluster,shortName=nodecerts,categories=notafter
// +kubebuilder:printcolumn:name="Serving-Mode",type=string,JSONPath=`.status.serving.mode`
// +kubebuilder:printcolumn:name="Serving-Expires",type=string,JSONPath=`.status.certificates[?(@.source=="Handshake")].notAfter`
// +kubebuilder:printcolumn:name="Client-Expires",type=string,JSONPath=`.status.kubelet.clientExpires`
// +kubebuilder:printcolumn:name="Signing",type=string,JSONPath=`.status.signingRequests[?(@.signerName=="kubernetes.io/kubelet-serving")].stage`
// +kubebuilder:printcolumn:name="Client-Issued-Until",type=string,priority=1,JSONPath=`.status.certificates[?(@.purpose=="KubeletClient")].notAfter`
// +kubebuilder:printcolumn:name="Address",type=string,priority=1,JSONPath=`.status.serving.address`
// +kubebuilder:printcolumn:name="Probe",type=string,priority=1,JSONPath=`.status.serving.outcome`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeCertificates struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata. The name is the Node's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// status is what is known.
	// +optional
	Status NodeCertificatesStatus `json:"status,omitempty,omitzero"`
}

// NodeCertificatesList is a list of NodeCertificates.
//
// +kubebuilder:object:root=true
type NodeCertificatesList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeCertificates `json:"items"`
}

// NodeCertificatesStatus is what is known about one node. No field of it moves by itself: it changes only when what it
// describes changed.
type NodeCertificatesStatus struct {
	// serving is what the latest TLS handshake with the kubelet showed. Absent until the node was first probed.
	// +optional
	Serving *ServingStatus `json:"serving,omitempty"`

	// kubelet is what the kubelet says of itself, on its metrics and configz endpoints. Absent until it was first asked, and
	// while no policy requires what only it can tell.
	// +optional
	Kubelet *KubeletStatus `json:"kubelet,omitempty"`

	// certificates are the newest known certificate per purpose and source.
	// +optional
	// +listType=map
	// +listMapKey=purpose
	// +listMapKey=source
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Certificates []CertificateStatus `json:"certificates,omitempty"`

	// signingRequests are the state of the node's CertificateSigningRequests, per signer.
	// +optional
	// +listType=map
	// +listMapKey=signerName
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	SigningRequests []SigningRequestStatus `json:"signingRequests,omitempty"`
}

// ServingMode says where the certificate that a kubelet serves comes from.
//
// +kubebuilder:validation:Enum=ClusterSigned;SelfSigned;ExternallyManaged;None;Unknown
type ServingMode string

const (
	// ServingModeClusterSigned is a certificate that verifies against the Cluster CA.
	ServingModeClusterSigned ServingMode = "ClusterSigned"
	// ServingModeSelfSigned is a certificate that the node signed itself.
	ServingModeSelfSigned ServingMode = "SelfSigned"
	// ServingModeExternallyManaged is a certificate of some other CA than the Cluster CA.
	ServingModeExternallyManaged ServingMode = "ExternallyManaged"
	// ServingModeNone is a kubelet that has no valid certificate: it answers every handshake with the alert internal_error.
	ServingModeNone ServingMode = "None"
	// ServingModeUnknown is a kubelet that could not be asked, or a Cluster CA that could not be read.
	ServingModeUnknown ServingMode = "Unknown"
)

// ProbeOutcome is how a handshake with a kubelet ended.
//
// +kubebuilder:validation:Enum=CertificatePresented;NoCertificate;Unreachable;HandshakeFailed;NoAddress
type ProbeOutcome string

const (
	// ProbeCertificatePresented is a handshake in which the kubelet presented a certificate.
	ProbeCertificatePresented ProbeOutcome = "CertificatePresented"
	// ProbeNoCertificate is the TLS alert internal_error, by which a kubelet says that it has no valid certificate.
	ProbeNoCertificate ProbeOutcome = "NoCertificate"
	// ProbeUnreachable is a connection that was refused, or not established in time.
	ProbeUnreachable ProbeOutcome = "Unreachable"
	// ProbeHandshakeFailed is an established connection over which the handshake failed or did not end in time.
	ProbeHandshakeFailed ProbeOutcome = "HandshakeFailed"
	// ProbeNoAddress is a Node without an IP address or kubelet port to connect to.
	ProbeNoAddress ProbeOutcome = "NoAddress"
)

// NameMatch says whether the served certificate is valid for the address the kubelet is reached at.
//
// +kubebuilder:validation:Enum=Match;Mismatch
type NameMatch string

const (
	// NameMatches is a certificate one of whose subject alternative names is the address.
	NameMatches NameMatch = "Match"
	// NameMismatches is a certificate none of whose subject alternative names is the address.
	NameMismatches NameMatch = "Mismatch"
)

// ServingStatus is what a TLS handshake with the kubelet showed.
type ServingStatus struct {
	// mode is where the served certificate comes from.
	// +required
	Mode ServingMode `json:"mode,omitempty"`

	// outcome is how the handshake ended.
	// +required
	Outcome ProbeOutcome `json:"outcome,omitempty"`

	// address is the IP address and port that was connected to.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`

	// nameMatch says whether the served certificate is valid for that address. Absent when none was presented.
	// +optional
	NameMatch NameMatch `json:"nameMatch,omitempty"`

	// message is the error, if the handshake failed, or why the certificate did not verify.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`

	// since is when mode and outcome became what they are.
	// +required
	Since metav1.Time `json:"since,omitempty,omitzero"`
}

// KubeletOutcome is how asking a kubelet about itself ended.
//
// +kubebuilder:validation:Enum=Read;AccessDenied;Unverified;Failed;NotAsked
type KubeletOutcome string

const (
	// KubeletRead is a kubelet that answered all that is judged.
	KubeletRead KubeletOutcome = "Read"
	// KubeletAccessDenied is a kubelet that refused, or a token that the API server refused to issue.
	KubeletAccessDenied KubeletOutcome = "AccessDenied"
	// KubeletUnverified is a kubelet that was not asked, because its serving certificate did not verify: the token is sent
	// over verified connections only.
	KubeletUnverified KubeletOutcome = "Unverified"
	// KubeletFailed is a kubelet that could not be reached, or did not answer as a kubelet does.
	KubeletFailed KubeletOutcome = "Failed"
	// KubeletNotAsked is a kubelet that nobody asks, because the manager runs without an account to ask with.
	KubeletNotAsked KubeletOutcome = "NotAsked"
)

// KubeletSetting says whether a setting of the kubelet is on.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type KubeletSetting string

const (
	// KubeletSettingEnabled is a setting that is on.
	KubeletSettingEnabled KubeletSetting = "Enabled"
	// KubeletSettingDisabled is a setting that is off.
	KubeletSettingDisabled KubeletSetting = "Disabled"
)

// KubeletStatus is what a kubelet says of itself. What it said last stays while it can't be asked.
type KubeletStatus struct {
	// outcome is how asking it ended.
	// +required
	Outcome KubeletOutcome `json:"outcome,omitempty"`

	// message is the error, unless the outcome is Read.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`

	// missingPermissions are those that asking it lacks, if the outcome is AccessDenied: verb and resource, with the name of the
	// ServiceAccount where it is for a token.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	MissingPermissions []string `json:"missingPermissions,omitempty"`

	// since is when the outcome became what it is.
	// +required
	Since metav1.Time `json:"since,omitempty,omitzero"`

	// clientRotation is rotateCertificates of the kubelet's configuration: whether it renews its client certificate. Where only its
	// metrics could be read, it is what they show.
	// +optional
	ClientRotation KubeletSetting `json:"clientRotation,omitempty"`

	// servingBootstrap is serverTLSBootstrap of the kubelet's configuration: whether it requests its serving certificate. Where only
	// its metrics could be read, it is what they show.
	// +optional
	ServingBootstrap KubeletSetting `json:"servingBootstrap,omitempty"`

	// tlsCertFile is tlsCertFile of the kubelet's configuration: the file with a static serving certificate.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	TLSCertFile string `json:"tlsCertFile,omitempty"`

	// clientExpires is when the client certificate in use expires, worked out from the remaining time that the kubelet
	// gives, to within seconds. Absent when the kubelet gives none, or an infinite one.
	// +optional
	ClientExpires *metav1.Time `json:"clientExpires,omitempty"`

	// clientRenewal tells of failures to renew the client certificate.
	// +optional
	ClientRenewal *RenewalStatus `json:"clientRenewal,omitempty"`

	// servingRenewal tells of failures to renew the serving certificate.
	// +optional
	ServingRenewal *RenewalStatus `json:"servingRenewal,omitempty"`
}

// RenewalStatus counts a kubelet's failures to renew one of its certificates.
type RenewalStatus struct {
	// errors is how many attempts have failed since the kubelet was started.
	// +required
	// +kubebuilder:validation:Minimum=0
	Errors *int64 `json:"errors,omitempty"`

	// rose is when the count was last seen to have risen. Absent while it has not risen since it was first read or, of a client
	// certificate, since that was renewed.
	// +optional
	Rose *metav1.Time `json:"rose,omitempty"`
}

// CertificatePurpose says what a certificate is for.
//
// +kubebuilder:validation:Enum=KubeletServing;KubeletClient;ClusterCA;APIServer;ClientCA;AggregationCA;ClusterTrustBundle;APIServiceCA;WebhookCA;ConversionWebhookCA
type CertificatePurpose string

const (
	// PurposeKubeletServing is the certificate that a kubelet serves on its own port.
	PurposeKubeletServing CertificatePurpose = "KubeletServing"
	// PurposeKubeletClient is the certificate by which a kubelet authenticates to the API server.
	PurposeKubeletClient CertificatePurpose = "KubeletClient"
	// PurposeClusterCA is a certificate of the Cluster CA.
	PurposeClusterCA CertificatePurpose = "ClusterCA"
	// PurposeAPIServer is the certificate that an API server serves.
	PurposeAPIServer CertificatePurpose = "APIServer"
	// PurposeClientCA is a CA that client certificates are verified with.
	PurposeClientCA CertificatePurpose = "ClientCA"
	// PurposeAggregationCA is a CA that aggregated API servers verify the API server with.
	PurposeAggregationCA CertificatePurpose = "AggregationCA"
	// PurposeClusterTrustBundle is a CA in a ClusterTrustBundle.
	PurposeClusterTrustBundle CertificatePurpose = "ClusterTrustBundle"
	// PurposeAPIServiceCA is a CA that the API server verifies an aggregated API server with.
	PurposeAPIServiceCA CertificatePurpose = "APIServiceCA"
	// PurposeWebhookCA is a CA that the API server verifies an admission webhook with.
	PurposeWebhookCA CertificatePurpose = "WebhookCA"
	// PurposeConversionWebhookCA is a CA that the API server verifies a conversion webhook with.
	PurposeConversionWebhookCA CertificatePurpose = "ConversionWebhookCA"
)

// EvidenceSource says how a certificate became known.
//
// +kubebuilder:validation:Enum=Handshake;SigningRequest
type EvidenceSource string

const (
	// SourceHandshake is a certificate presented in a TLS handshake: the one in use.
	SourceHandshake EvidenceSource = "Handshake"
	// SourceSigningRequest is a certificate issued through a CertificateSigningRequest.
	SourceSigningRequest EvidenceSource = "SigningRequest"
)

// CertificateStatus describes one certificate. Names that do not fit are cut off: they come from the node, which is not
// trusted.
type CertificateStatus struct {
	// purpose is what the certificate is for.
	// +required
	Purpose CertificatePurpose `json:"purpose,omitempty"`

	// source is how the certificate became known.
	// +required
	Source EvidenceSource `json:"source,omitempty"`

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

	// dnsNames are the DNS subject alternative names, at most 256 of them, and of 4 KiB.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=0
	// +kubebuilder:validation:items:MaxLength=253
	DNSNames []string `json:"dnsNames,omitempty"`

	// ipAddresses are the IP subject alternative names, at most 256 of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=45
	IPAddresses []string `json:"ipAddresses,omitempty"`
}

// SigningStage is how far a CertificateSigningRequest has come.
//
// +kubebuilder:validation:Enum=Pending;Approved;Issued;Denied;Failed;Deleted
type SigningStage string

const (
	// StagePending is a request that is neither approved nor denied.
	StagePending SigningStage = "Pending"
	// StageApproved is an approved request whose certificate has not been issued.
	StageApproved SigningStage = "Approved"
	// StageIssued is a request whose certificate has been issued.
	StageIssued SigningStage = "Issued"
	// StageDenied is a denied request. A denial cannot be undone.
	StageDenied SigningStage = "Denied"
	// StageFailed is a request that the signer refused to sign.
	StageFailed SigningStage = "Failed"
	// StageDeleted is a request that was deleted before its certificate was issued.
	StageDeleted SigningStage = "Deleted"
)

// SigningRequestStatus is the state of a node's CertificateSigningRequests to one signer.
type SigningRequestStatus struct {
	// signerName is the signer, kubernetes.io/kubelet-serving or kubernetes.io/kube-apiserver-client-kubelet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	SignerName string `json:"signerName,omitempty"`

	// name is the newest request's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// stage is how far the newest request has come.
	// +required
	Stage SigningStage `json:"stage,omitempty"`

	// created is when the newest request was created.
	// +required
	Created metav1.Time `json:"created,omitempty,omitzero"`

	// decided is when the newest request was approved, denied or failed.
	// +optional
	Decided *metav1.Time `json:"decided,omitempty"`

	// issued is when the certificate of the newest issued request was first seen.
	// +optional
	Issued *metav1.Time `json:"issued,omitempty"`

	// malformed says what is wrong with the newest request, if no signer can sign it as it is.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Malformed string `json:"malformed,omitempty"`

	// pending is how many requests wait for a decision. Two or more mean that the kubelet gave up on one and filed the next;
	// absent when there is none.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Pending int32 `json:"pending,omitempty"`

	// pendingSince is when the oldest request without a decision was created, of those newer than the newest issued one.
	// +optional
	PendingSince *metav1.Time `json:"pendingSince,omitempty"`

	// approvedSince is when the oldest request that is approved and has no certificate was approved, of those newer than the
	// newest issued one. Absent when there is none.
	// +optional
	ApprovedSince *metav1.Time `json:"approvedSince,omitempty"`

	// refusal is the newest denied or failed request since a certificate was last issued.
	// +optional
	Refusal *SigningRefusal `json:"refusal,omitempty"`
}

// SigningRefusal is a denied or failed CertificateSigningRequest.
type SigningRefusal struct {
	// name is the request's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// stage is Denied or Failed.
	// +required
	Stage SigningStage `json:"stage,omitempty"`

	// reason is the reason that the request's condition gives.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Reason string `json:"reason,omitempty"`

	// message is the message that the request's condition gives.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`

	// time is when the request was denied or failed.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"`
}
