// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types of a CertificatePolicy. Ready, Compliant and the detail conditions are present once a controller has seen
// the object, and True is good; ControlPlaneHealthy and TrustBundlesHealthy only where the spec watches any of theirs, and
// ApprovalHealthy only where it speaks of approval.
// Stalled and Reconciling follow kstatus: present only while True, never both.
const (
	// ConditionReady says that the policy was accepted and that its last evaluation had what it needed. It does not depend
	// on the verdict: an expiring certificate must not hold up the delivery of the policy that reports it.
	ConditionReady = "Ready"
	// ConditionCompliant is the verdict: False when anything violates the policy; else Unknown when something could not be
	// learnt; else True.
	ConditionCompliant = "Compliant"
	// ConditionCertificatesCurrent is the verdict on the certificates' lifetimes.
	ConditionCertificatesCurrent = "CertificatesCurrent"
	// ConditionServingRotationEnabled is the verdict on what the kubelets serve, against what the policy expects of
	// serving certificate rotation. With `rotation: Disabled` it is True when rotation is off as expected.
	ConditionServingRotationEnabled = "ServingRotationEnabled"
	// ConditionBootstrapHealthy is the verdict on TLS bootstrapping: the kubelets' CertificateSigningRequests, client and
	// serving.
	ConditionBootstrapHealthy = "BootstrapHealthy"
	// ConditionControlPlaneHealthy is the verdict on the certificates of the control plane.
	ConditionControlPlaneHealthy = "ControlPlaneHealthy"
	// ConditionTrustBundlesHealthy is the verdict on the CA bundles that the API server verifies others with.
	ConditionTrustBundlesHealthy = "TrustBundlesHealthy"
	// ConditionApprovalHealthy is the verdict on the undecided requests for kubelet serving certificates by the rules of
	// spec.signingRequestApproval, and on whether notafter can decide on them.
	ConditionApprovalHealthy = "ApprovalHealthy"
	// ConditionStalled is present, and True, when the policy cannot be evaluated until its spec is changed.
	ConditionStalled = "Stalled"
	// ConditionReconciling is present, and True, when the evaluation lacks something and is tried again by itself.
	ConditionReconciling = "Reconciling"
)

// Reasons of the Ready, Stalled and Reconciling conditions.
const (
	// ReasonEvaluated says that the policy was evaluated with everything the evaluation needs.
	ReasonEvaluated = "Evaluated"
	// ReasonInvalidSpec says that the spec cannot be evaluated. The API server refuses such a spec; this is for objects
	// stored before a rule existed.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonTrustBundleUnavailable says that the Cluster CA could not be read, so that no serving certificate can be
	// verified. It is also the reason of a finding.
	ReasonTrustBundleUnavailable = "TrustBundleUnavailable"
)

// Reasons of Compliant and the detail conditions that no finding has.
const (
	// ReasonAsExpected says that everything judged is as the policy wants it.
	ReasonAsExpected = "AsExpected"
	// ReasonNoNodesSelected says that the selector matches no node, so that nothing was judged.
	ReasonNoNodesSelected = "NoNodesSelected"
	// ReasonNotEvaluated says that the policy could not be evaluated; see the Ready condition.
	ReasonNotEvaluated = "NotEvaluated"
)

// Reasons of findings about any certificate's lifetime.
const (
	// ReasonExpired is a certificate past its notAfter.
	ReasonExpired = "Expired"
	// ReasonRotationOverdue is a certificate past spec.expiry.overdueAtLifetimePercent, or with less than
	// spec.expiry.minimumRemaining to live: whatever should have renewed it did not.
	ReasonRotationOverdue = "RotationOverdue"
	// ReasonRotationDue is a certificate past spec.expiry.warnAtLifetimePercent: it is about to be renewed.
	ReasonRotationDue = "RotationDue"
	// ReasonNotYetValid is a certificate before its notBefore: a clock is wrong.
	ReasonNotYetValid = "NotYetValid"
)

// Reasons of findings about what a kubelet serves.
const (
	// ReasonServingCertificateMissing is a kubelet that has no valid serving certificate and answers every TLS handshake
	// with the alert internal_error. kubectl logs and exec fail on that node, and the Node stays Ready.
	ReasonServingCertificateMissing = "ServingCertificateMissing"
	// ReasonServingCertificateSelfSigned is a kubelet that serves a certificate it signed itself.
	ReasonServingCertificateSelfSigned = "ServingCertificateSelfSigned"
	// ReasonServingCertificateUntrusted is a kubelet that serves a certificate of a CA other than the Cluster CA.
	ReasonServingCertificateUntrusted = "ServingCertificateUntrusted"
	// ReasonServingCertificateNameMismatch is a kubelet whose certificate does not name the address it is reached at.
	ReasonServingCertificateNameMismatch = "ServingCertificateNameMismatch"
	// ReasonServingLabelMissing is a node without the label by which the platform says that serving rotation is enabled.
	ReasonServingLabelMissing = "ServingLabelMissing"
	// ReasonServingRotationNotDisabled is a node that takes part in serving rotation although the policy wants it off.
	ReasonServingRotationNotDisabled = "ServingRotationNotDisabled"
	// ReasonServingRequestMissing is a kubelet without a serving certificate that has filed no signing request for one.
	ReasonServingRequestMissing = "ServingRequestMissing"
	// ReasonIssuedCertificateNotServed is a kubelet that still serves another certificate, longer than
	// spec.nodes.signingRequests.issueTimeout after a new one was issued to it.
	ReasonIssuedCertificateNotServed = "IssuedCertificateNotServed"
)

// Reasons of findings about kubelets' settings, and about what nodes need to join.
const (
	// ReasonServerTLSBootstrapDisabled is a kubelet whose configuration says that it does not request its serving
	// certificate, where the policy requires rotation.
	ReasonServerTLSBootstrapDisabled = "ServerTLSBootstrapDisabled"
	// ReasonStaticServingCertificateMounted is a workload that mounts, from the host, the static serving certificate which
	// serving rotation removes: its Pods will fail to start on nodes with serving rotation.
	ReasonStaticServingCertificateMounted = "StaticServingCertificateMounted"
	// ReasonClientRotationDisabled is a kubelet whose configuration says that it does not renew its client certificate.
	ReasonClientRotationDisabled = "ClientRotationDisabled"
	// ReasonRenewalFailing is a kubelet whose attempts to renew a certificate fail.
	ReasonRenewalFailing = "RenewalFailing"
	// ReasonNodeNotRegistered is a machine that got a client certificate for a Node, but never registered it.
	ReasonNodeNotRegistered = "NodeNotRegistered"
	// ReasonNodePoolNeedsRecreation is a node pool with nodes that are not ready because their client certificates expired,
	// as after a cluster was stopped for too long.
	ReasonNodePoolNeedsRecreation = "NodePoolNeedsRecreation"
	// ReasonBootstrapTokenExpired is a bootstrap token that is expired, or about to: nodes cannot join, or join again, with it.
	ReasonBootstrapTokenExpired = "BootstrapTokenExpired"
)

// Reasons of findings about the control plane and trust bundles.
const (
	// ReasonClusterCAMismatch is an API server that does not fit the Cluster CA: one was replaced and the other was not.
	ReasonClusterCAMismatch = "ClusterCAMismatch"
	// ReasonIssuerExpiresFirst is a certificate that outlives the CA that signed it, and so stops working before its notAfter.
	ReasonIssuerExpiresFirst = "IssuerExpiresFirst"
	// ReasonStaleTrustBundle is a CA bundle that holds only a Cluster CA which was replaced.
	ReasonStaleTrustBundle = "StaleTrustBundle"
	// ReasonTrustBundleMalformed is a CA bundle that cannot be parsed.
	ReasonTrustBundleMalformed = "TrustBundleMalformed"
	// ReasonAPIServiceUnavailable is an aggregated API that the API server says is not available.
	ReasonAPIServiceUnavailable = "APIServiceUnavailable"
)

// Reasons of findings about CertificateSigningRequests.
const (
	// ReasonSigningRequestPending is a request that waits for a decision for longer than
	// spec.nodes.signingRequests.pendingTimeout: nothing approves it.
	ReasonSigningRequestPending = "SigningRequestPending"
	// ReasonSigningRequestsLooping is a node with two or more undecided requests to one signer: its kubelet gave up waiting
	// and asked again.
	ReasonSigningRequestsLooping = "SigningRequestsLooping"
	// ReasonSigningRequestDenied is a denied request, with none issued since.
	ReasonSigningRequestDenied = "SigningRequestDenied"
	// ReasonSigningRequestFailed is a request that the signer refused to sign, with none issued since.
	ReasonSigningRequestFailed = "SigningRequestFailed"
	// ReasonSigningRequestNotIssued is an approved request without a certificate for longer than
	// spec.nodes.signingRequests.issueTimeout: the signer is down, or its CA expired.
	ReasonSigningRequestNotIssued = "SigningRequestNotIssued"
	// ReasonSigningRequestMalformed is a request that breaks the signer's rules, and so cannot be signed.
	ReasonSigningRequestMalformed = "SigningRequestMalformed"
)

// Reasons of findings about the approval of CertificateSigningRequests.
const (
	// ReasonSigningRequestViolation is an undecided request that breaks a rule of spec.signingRequestApproval, or cannot be
	// shown to keep it.
	ReasonSigningRequestViolation = "SigningRequestViolation"
	// ReasonSigningRequestApprovalSuspended is an approver that stopped, because more nodes than
	// spec.signingRequestApproval.maximumPendingNodes have undecided requests.
	ReasonSigningRequestApprovalSuspended = "SigningRequestApprovalSuspended"
	// ReasonApprovalPoliciesDisagree is a policy that would approve a request which another does not approve.
	ReasonApprovalPoliciesDisagree = "ApprovalPoliciesDisagree"
)

// Reasons of findings about knowledge itself.
const (
	// ReasonProbeFailed is a kubelet that could not be asked for its serving certificate, or about itself.
	ReasonProbeFailed = "ProbeFailed"
	// ReasonAccessDenied is evidence that notafter is not allowed to read.
	ReasonAccessDenied = "AccessDenied"
	// ReasonNotObserved is a node that has not been observed yet, or a kubelet that has not been asked.
	ReasonNotObserved = "NotObserved"
)

// Reasons of Events that no condition has.
const (
	// ReasonRecovered is the Event for a finding that is no more. Its note names the finding's reason.
	ReasonRecovered = "Recovered"
	// ReasonFindingsSuppressed is the Event that sums up those for which there was no room in the Event budget.
	ReasonFindingsSuppressed = "FindingsSuppressed"
)
