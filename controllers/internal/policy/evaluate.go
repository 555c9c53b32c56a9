// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policy is the judge: Evaluate compares what is known of the nodes with what a CertificatePolicy wants and
// returns the verdict. It is pure: no client, no network, no clock. Time is an input, and every verdict carries the next
// instant at which it can change by itself.
//
// One file holds one concern: lifetime.go the certificates' age, serving.go what the kubelets serve, signingrequest.go
// their CertificateSigningRequests, approval.go which of those break the rules of approval, kubelet.go what kubelets say of
// themselves, asking.go which do not, bootstrap.go how machines become and stay nodes,
// workload.go what relies on static files, knowing.go what could not be learnt, verdict.go and tally.go the aggregation.
// controlplane.go and trustbundle.go judge the control plane and the CA bundles, bundleage.go the age of either.
package policy

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// Node is what is known of one selected node.
type Node struct {
	// Name of the Node.
	Name string
	// Labels of the Node.
	Labels map[string]string
	// Created is the Node's creationTimestamp.
	Created time.Time
	// KubeletVersion is status.nodeInfo.kubeletVersion.
	KubeletVersion string
	// NodeImageVersion is the label kubernetes.azure.com/node-image-version; empty off AKS.
	NodeImageVersion string
	// HasAddress says that status.addresses holds an InternalIP or ExternalIP.
	HasAddress bool
	// InternalIPs are those of status.addresses.
	InternalIPs []string
	// Ready is the status of the Node's condition Ready, and ReadySince when it became that; empty and zero while it has none.
	Ready      corev1.ConditionStatus
	ReadySince time.Time
	// Heard is when the kubelet of a Node that is not ready last reported to the API server, or some time before; zero when it
	// never did. While a Node is ready that moves all the time, and is left out.
	Heard time.Time
	// Observed is the status of the node's NodeCertificates; nil until there is one.
	Observed *v1alpha1.NodeCertificatesStatus
}

// Request is a CertificateSigningRequest to one of the kubelet signers that belongs to no Node in the cluster.
type Request struct {
	Name, SignerName string
	// NodeName is the node that it claims to be of; empty when it claims none.
	NodeName string
	// Requestor is the user that filed it.
	Requestor string
	Stage     v1alpha1.SigningStage
	Created   time.Time
	// Decided is when it was approved, denied or failed; zero when it was not, or when nothing says when.
	Decided time.Time
	// Refusal is the reason and message of a denied or failed request.
	Refusal string
	// Malformed says what is wrong with a request that no signer can sign as it is.
	Malformed string
	// Registration says whether the Node was there since the request was issued.
	Registration Registration
}

// Registration says whether a Node was there that is not there now.
type Registration string

// The zero value is RegistrationUnknown.
const (
	// RegistrationUnknown: it may have been there before notafter began to watch.
	RegistrationUnknown Registration = ""
	// RegistrationSeen: it was there.
	RegistrationSeen Registration = "Seen"
	// RegistrationNotSeen: it was not, and notafter has been watching all the time.
	RegistrationNotSeen Registration = "NotSeen"
)

// Input is everything that a verdict depends on.
type Input struct {
	// Policy is the name of the policy.
	Policy string
	// Spec is what must hold. Fields that the API server did not default, and a nil Spec, have the documented defaults.
	Spec *v1alpha1.CertificatePolicySpec
	// Nodes are the selected nodes, in any order.
	Nodes []Node
	// Requests are the signing requests that belong to no Node in the cluster, in any order.
	Requests []Request
	// TrustError says why the Cluster CA could not be read; empty when it could.
	TrustError string
	// TrustSource is the namespace/name of the ConfigMap that holds the Cluster CA.
	TrustSource string
	// ControlPlane is what is known of the control plane and the trust bundles; nil until that was observed.
	ControlPlane *ControlPlane
	// Workloads are those that mount the static serving certificate, in any order.
	Workloads []Workload
	// Tokens are the bootstrap tokens, in any order; none unless the spec watches them.
	Tokens []Token
	// Approvals are what the approver of signing requests says; nil while it cannot read them.
	Approvals *Approvals
	// Denied are the permissions that are missing for evidence that the spec asks for, in any order.
	Denied []Denial
	// Now is the instant of the evaluation.
	Now time.Time
}

// Verdict is the outcome of an evaluation. It does not depend on the order of the Input's lists.
type Verdict struct {
	// Findings are all findings, the worst first. No two have the same reason, subject and certificate.
	Findings []v1alpha1.Finding
	// Nodes counts the nodes by their verdict.
	Nodes v1alpha1.NodeCounts
	// Certificates counts the judged certificates by their state: of each node the serving certificate, unless its kubelet
	// says that it has none, and the client certificate, if one is known; and the watched ones of the control plane.
	Certificates v1alpha1.CertificateCounts
	// ControlPlane describes the watched certificates of the control plane, in the order of their purposes and sources.
	ControlPlane []v1alpha1.ControlPlaneCertificate
	// NextExpiration is the valid certificate that expires first; nil when there is none.
	NextExpiration *v1alpha1.NextExpiration
	// Conditions are Compliant and the detail conditions, with Type, Status, Reason and Message only.
	Conditions []metav1.Condition
	// NextCheck is the first instant after Input.Now at which another evaluation of the same facts has another outcome.
	// Zero: no time that passes changes anything.
	NextCheck time.Time
}

// check judges one concern of a node, and adds what it finds to the evaluation. A check reads no other check's findings.
type check func(*evaluation, *facts)

// checks are all checks of a node. Their order is of no consequence: findings are ranked by the catalogue in verdict.go.
var checks = []check{
	checkObserved,
	checkProbe,
	checkServingLifetime,
	checkClientLifetime,
	checkServingCertificate,
	checkServingRequest,
	checkServedIsIssued,
	checkServingDisabled,
	checkServingLabel,
	checkSigningRequests,
	checkApproval,
	checkAsked,
	checkKubeletSettings,
	checkRenewals,
	checkStranded,
	checkClusterSigned,
}

// Evaluate judges the nodes and signing requests against the spec.
func Evaluate(in Input) Verdict {
	e := &evaluation{
		rules: rulesOf(in.Spec), now: in.Now, trustError: in.TrustError, trustSource: in.TrustSource,
		nodes: in.Nodes, denied: in.Denied,
	}
	e.checkTrust(in.ControlPlane)
	e.judgeDenied(in.Denied)
	e.judgeApprovals(&in)
	var f facts // one for all nodes, so that a healthy node costs no allocation
	for i := range in.Nodes {
		f.gather(&in.Nodes[i])
		first := len(e.found)
		e.elsewhere = e.elsewhere[:0]
		for _, judge := range checks {
			judge(e, &f)
		}
		e.tally.addNode(e.found[first:], e.elsewhere)
	}
	e.judgeWithheld()
	e.judgeOrphans(in.Requests)
	e.judgeControlPlane(&in)
	e.judgeTrustBundles(&in)
	e.judgeUnregistered(in.Requests)
	e.judgePools(in.Nodes)
	e.judgeTokens(in.Tokens)
	e.judgeWorkloads(in.Workloads)
	return e.verdict(len(in.Nodes))
}

// evaluation is one run of Evaluate: what it judges by, and what it has found so far.
type evaluation struct {
	rules                   rules
	now                     time.Time
	trustError, trustSource string

	next  time.Time
	found []rankedFinding
	// elsewhere is what is found of the node being judged and told once for many.
	elsewhere    []reference
	tally        tally
	certificates certificateTally

	// listed are the certificates of the control plane.
	listed []*Certificate
	// nodes are the selected ones, and learnt are the lifetimes that their known client certificates show; nil until somebody
	// asks for them.
	nodes  []Node
	learnt *learnt
	// denied are the permissions that are missing.
	denied []Denial
	// unapproved are the requests that the rules of approval stop, by node; nil if there are none.
	unapproved map[string]*JudgedRequest
	// stranded are the nodes that are not ready, with an expired client certificate.
	stranded []strandedNode
	// withheld are the permissions that are missing to ask kubelets.
	withheld []withheld
	// clusterSigned says that a node serves a certificate of the Cluster CA.
	clusterSigned bool
}

// reached says whether the instant has come. If not, the verdict is due for another look then.
func (e *evaluation) reached(instant time.Time) bool {
	if !e.now.Before(instant) {
		return true
	}
	if e.next.IsZero() || instant.Before(e.next) {
		e.next = instant
	}
	return false
}

// facts are what is known of one node, sorted out for the checks. The pointers are nil for what is not known.
type facts struct {
	node    *Node
	serving *v1alpha1.ServingStatus
	// served is the serving certificate of the latest handshake in which one was presented.
	served *v1alpha1.CertificateStatus
	// issued is the newest serving certificate issued through a signing request, served or not.
	issued *v1alpha1.CertificateStatus
	// client is the newest client certificate issued through a signing request.
	client *v1alpha1.CertificateStatus
	// self is what the kubelet says of itself.
	self                          *v1alpha1.KubeletStatus
	servingRequest, clientRequest *v1alpha1.SigningRequestStatus
}

// gather replaces the facts with those of the node.
func (f *facts) gather(node *Node) {
	*f = facts{node: node}
	if node.Observed == nil {
		return
	}
	f.serving, f.self = node.Observed.Serving, node.Observed.Kubelet
	for i := range node.Observed.Certificates {
		certificate := &node.Observed.Certificates[i]
		switch {
		case certificate.Purpose == v1alpha1.PurposeKubeletServing && certificate.Source == v1alpha1.SourceHandshake:
			f.served = certificate
		case certificate.Purpose == v1alpha1.PurposeKubeletServing && certificate.Source == v1alpha1.SourceSigningRequest:
			f.issued = certificate
		case certificate.Purpose == v1alpha1.PurposeKubeletClient && certificate.Source == v1alpha1.SourceSigningRequest:
			f.client = certificate
		}
	}
	for i := range node.Observed.SigningRequests {
		request := &node.Observed.SigningRequests[i]
		switch request.SignerName {
		case certificatesv1.KubeletServingSignerName:
			f.servingRequest = request
		case certificatesv1.KubeAPIServerClientKubeletSignerName:
			f.clientRequest = request
		}
	}
}

// presented says that the latest handshake showed a certificate.
func (f *facts) presented() bool {
	return f.serving != nil && f.serving.Outcome == v1alpha1.ProbeCertificatePresented
}

// withoutCertificate says that the kubelet answered the latest handshake, and has no valid serving certificate.
func (f *facts) withoutCertificate() bool {
	return f.serving != nil &&
		(f.serving.Outcome == v1alpha1.ProbeNoCertificate || f.serving.Mode == v1alpha1.ServingModeNone)
}

// down says that the Node is known not to be ready.
func (n *Node) down() bool {
	return n.Ready == corev1.ConditionFalse || n.Ready == corev1.ConditionUnknown
}

// heardAfter says that the kubelet reported to the API server after the instant, clocks that differ a little included. A
// certificate that expired then is not the one that it did so with.
func (n *Node) heardAfter(instant time.Time) bool { return n.Heard.After(instant.Add(clockSkew)) }

// subject is the node, as the subject of a finding.
func (f *facts) subject() v1alpha1.Subject {
	return v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: f.node.Name}
}
