// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ApprovalMode says whether notafter decides on signing requests.
//
// +kubebuilder:validation:Enum=Observe;Approve
type ApprovalMode string

const (
	// ApprovalObserve judges requests and reports what breaks the rules, and decides on none: a rehearsal.
	ApprovalObserve ApprovalMode = "Observe"
	// ApprovalApprove approves requests that keep the rules.
	ApprovalApprove ApprovalMode = "Approve"
)

// ViolationAction says what becomes of a request that breaks the rules.
//
// +kubebuilder:validation:Enum=Ignore;Deny
type ViolationAction string

const (
	// ViolationIgnore leaves the request undecided, for another approver or a person, and reports it.
	ViolationIgnore ViolationAction = "Ignore"
	// ViolationDeny denies the request, which nothing can undo, and reports it.
	ViolationDeny ViolationAction = "Deny"
)

// DNSResolution says whether the DNS names in a request are looked up.
//
// +kubebuilder:validation:Enum=Ignored;Required
type DNSResolution string

const (
	// DNSResolutionIgnored looks no name up.
	DNSResolutionIgnored DNSResolution = "Ignored"
	// DNSResolutionRequired looks every name up.
	DNSResolutionRequired DNSResolution = "Required"
)

// IPRange is a range of IP addresses in CIDR notation, with no bit set after the prefix: 10.0.0.0/8, 2001:db8::/32.
//
// +kubebuilder:validation:MinLength=4
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a range in CIDR notation with no bit set after the prefix, like 10.0.0.0/8 or 2001:db8::/32"
type IPRange string

// DNSSuffix is the end of DNS names: one or more labels in lower case, without a dot before or after them.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`
type DNSSuffix string

// SigningRequestApprovalSpec makes notafter the approver of the selected nodes' requests for kubelet serving certificates.
// It never decides on any other request. The permission to approve is in config/components/approval, which is not part of
// the default install.
//
// A request is approved when a kubelet filed it for its own Node; when it keeps the rules of the signer
// kubernetes.io/kubelet-serving and asks for nothing besides; when the Node has every address and name in it, and no other
// Node has; and when the policy allows each of them. A node reports its own addresses, so whoever controls a node controls
// that list: what the policy allows is what bounds the names that a stolen node can get a certificate for.
//
// Policies that select the same node all have to agree: a request is approved if each of them that has this field approves it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Approve' || (has(self.allowedIPRanges) && self.allowedIPRanges.size() > 0)",message="signingRequestApproval.allowedIPRanges must be given in mode Approve; to allow any address, say so with 0.0.0.0/0 and ::/0"
type SigningRequestApprovalSpec struct {
	// mode is Observe to judge and report only, and Approve to approve what keeps the rules. For a node that a policy in mode
	// Observe selects, nothing is decided, whatever other policies say.
	// +optional
	// +kubebuilder:default=Observe
	Mode ApprovalMode `json:"mode,omitempty"`

	// onViolation says what becomes of a request that breaks the rules: Ignore leaves it undecided, Deny denies it. What may
	// right itself is never denied: a Node that is not there yet, an address that it does not report, a name that DNS does not
	// answer for, an address that two nodes report, too many requests.
	// +optional
	// +kubebuilder:default=Ignore
	OnViolation ViolationAction `json:"onViolation,omitempty"`

	// allowedIPRanges are the ranges in which every requested IP address must be. Give those of the nodes, and leave out
	// those of Services and of the control plane. Addresses that mean something else on every machine (loopback, link-local,
	// multicast, unspecified) are allowed only by a range of nothing else, like 127.0.0.0/8. In mode Observe, none allows any
	// address; mode Approve requires one at least.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=64
	AllowedIPRanges []IPRange `json:"allowedIPRanges,omitempty"`

	// allowedDNSSuffixes are the suffixes of which every requested DNS name must have one: example.com allows
	// node-1.example.com, and not node-1.badexample.com. Only the Node's own name needs none, if there is no dot in it: with a
	// dot it may be another host's, or a Service's. Names that Services and the API server go by, localhost and wildcards are
	// never allowed. A name that may be a Service's in another cluster domain than cluster.local, as web.shop.svc.example.com,
	// needs a suffix that has the label svc.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=64
	AllowedDNSSuffixes []DNSSuffix `json:"allowedDNSSuffixes,omitempty"`

	// dnsResolution is Required to approve only if every requested DNS name resolves, from where notafter runs, to nothing but
	// addresses of the Node that are in allowedIPRanges, and every requested IP address is one that a name resolved to. Names
	// are looked up as they stand, without search domains: a node that has only a short name is not approved. A lookup that
	// fails leaves the request undecided.
	// +optional
	// +kubebuilder:default=Ignored
	DNSResolution DNSResolution `json:"dnsResolution,omitempty"`

	// dnsTimeout bounds the lookup of one DNS name, as a Go duration. A name that is not answered for within half a second is
	// looked up a second time, with all of dnsTimeout. Names are looked up at the same time, a limited number of them in the
	// whole cluster: while many are not answered for, one may have to wait for its turn before.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('30s')",message="signingRequestApproval.dnsTimeout must be between 100ms and 30s"
	DNSTimeout *metav1.Duration `json:"dnsTimeout,omitempty"`

	// maximumDuration bounds the lifetime that a request may name, as a Go duration. A request that names none, as those of
	// kubelets, gets what the signer gives. Left out, there is no bound.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}([.][0-9]{1,3})?h|[0-9]{1,7}([.][0-9]{1,3})?(ms|s|m)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10m') && duration(self) <= duration('87600h')",message="signingRequestApproval.maximumDuration must be between 10m and 87600h (ten years)"
	MaximumDuration *metav1.Duration `json:"maximumDuration,omitempty"`

	// maximumDecisionsPerNode is how many requests of one node may be decided, by whomever, within an hour; the next waits.
	// Kubelets ask once in a certificate's lifetime, and when the Node's addresses change.
	// +optional
	// +kubebuilder:default=12
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaximumDecisionsPerNode int32 `json:"maximumDecisionsPerNode,omitempty"`

	// maximumPendingNodes is how many nodes, in the whole cluster, may have undecided requests, of which one at least is less
	// than an hour old. While there are more, somebody is flooding the cluster and nothing is approved. Left out, it is 100
	// more than there are Nodes. Of several policies the lowest counts.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaximumPendingNodes int32 `json:"maximumPendingNodes,omitempty"`
}
