// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Rules are what one policy says of the approval of signing requests. They do not change once they were made.
type Rules struct {
	policy string
	// invalid says what in the spec cannot be read. Such rules allow nothing.
	invalid string
	// approves and denies say that the policy wants requests approved, and violations denied.
	approves, denies bool
	// anyAddress says that addresses are not compared with ranges.
	anyAddress   bool
	ranges       []netip.Prefix
	suffixes     []string
	resolves     bool
	dnsTimeout   time.Duration
	issueTimeout time.Duration
	// duration is the longest that may be asked for; zero: no bound.
	duration  time.Duration
	decisions int
	// pendingNodes is the policy's own limit; zero: that which follows from the number of Nodes.
	pendingNodes int
}

// CompileRules reads what the policy of that name says of approval: nil when it has no say. What the API server refuses,
// and was stored before it did, allows nothing: Decide says so.
func CompileRules(policy string, spec *v1alpha1.CertificatePolicySpec) *Rules {
	approval := spec.SigningRequestApproval
	if approval == nil {
		return nil
	}
	r := &Rules{
		policy:       policy,
		approves:     approval.Mode == v1alpha1.ApprovalApprove,
		resolves:     approval.DNSResolution == v1alpha1.DNSResolutionRequired,
		dnsTimeout:   duration(approval.DNSTimeout, v1alpha1.DefaultDNSTimeout),
		issueTimeout: duration(spec.Nodes.SigningRequests.IssueTimeout, v1alpha1.DefaultIssueTimeout),
		duration:     duration(approval.MaximumDuration, 0),
		decisions:    int(cmp.Or(max(0, approval.MaximumDecisionsPerNode), v1alpha1.DefaultMaximumDecisionsPerNode)),
		pendingNodes: int(max(0, approval.MaximumPendingNodes)),
	}
	r.anyAddress = !r.approves && len(approval.AllowedIPRanges) == 0
	for _, allowed := range approval.AllowedIPRanges {
		prefix, err := netip.ParsePrefix(string(allowed))
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			r.invalid = fmt.Sprintf("signingRequestApproval.allowedIPRanges has %s, which is no range in CIDR notation",
				quoted(string(allowed)))
		}
		r.ranges = append(r.ranges, prefix)
	}
	for _, suffix := range approval.AllowedDNSSuffixes {
		r.suffixes = append(r.suffixes, string(suffix))
	}
	r.denies = r.approves && r.invalid == "" && approval.OnViolation == v1alpha1.ViolationDeny
	return r
}

// Unreadable are rules of the same policy that allow nothing, because something else in its spec cannot be read.
func (r *Rules) Unreadable(why string) *Rules {
	if r == nil {
		return nil
	}
	unreadable := *r
	unreadable.invalid, unreadable.denies = why, false
	return &unreadable
}

func duration(value *metav1.Duration, otherwise time.Duration) time.Duration {
	if value == nil || value.Duration <= 0 {
		return otherwise
	}
	return value.Duration
}

// Approves says that the policy wants requests to be approved, which takes the permission to.
func (r *Rules) Approves() bool { return r.approves }

// waits is how long a requestor is taken to wait for a decision on what it filed last. A kubelet gives up on a request after a
// quarter of an hour and files another one; Kubernetes keeps undecided requests for a day.
const waits = time.Hour

// PendingNodes counts those who wait for a kubelet serving certificate: the requestors with an undecided request for one,
// however many each has filed. Those who filed none of late are gone.
func PendingNodes(requests []*certificatesv1.CertificateSigningRequest, now time.Time) int {
	waiting := sets.New[string]()
	for _, req := range requests {
		if req.Spec.SignerName == certificatesv1.KubeletServingSignerName && Stage(req) == v1alpha1.StagePending &&
			now.Before(req.CreationTimestamp.Add(waits)) {
			waiting.Insert(req.Spec.Username)
		}
	}
	return waiting.Len()
}

// PendingLimit is how many PendingNodes there may be before all decisions are suspended, in a cluster with so many
// Nodes: the lowest that any of the policies in mode Approve sets.
func PendingLimit(rules []*Rules, nodes int) int {
	limit := 0
	for _, r := range rules {
		if r == nil || !r.approves {
			continue
		}
		of := cmp.Or(r.pendingNodes, nodes+v1alpha1.DefaultPendingNodesMargin)
		if limit == 0 || of < limit {
			limit = of
		}
	}
	return cmp.Or(limit, nodes+v1alpha1.DefaultPendingNodesMargin)
}

// objection is what the rules have against a request, apart from the node that files it. The reason is empty if nothing.
func (r *Rules) objection(asked *asked) (Reason, string) {
	if r.invalid != "" {
		return ReasonPolicyInvalid, r.of(r.invalid)
	}
	if asked.duration > r.duration && r.duration > 0 {
		return ReasonDurationNotAllowed, r.of(fmt.Sprintf(
			"spec.expirationSeconds is %d, more than signingRequestApproval.maximumDuration", int64(asked.duration/time.Second)))
	}
	for _, address := range asked.ips {
		if !r.allowsIP(address) {
			return ReasonAddressNotAllowed, r.of(fmt.Sprintf(
				"IP address %s is in none of signingRequestApproval.allowedIPRanges", address))
		}
	}
	for _, name := range asked.names {
		if !asked.isOwn(name) && !r.allowsName(name) {
			return ReasonNameNotAllowed, r.of(fmt.Sprintf(
				"DNS name %s has none of signingRequestApproval.allowedDNSSuffixes, and is not the Node's name without a dot in it",
				quoted(name)))
		}
	}
	return "", ""
}

// of adds whose rules they are.
func (r *Rules) of(objection string) string {
	return objection + " of CertificatePolicy " + text.Field(r.policy, maxQuoted)
}

// everywhere are the addresses that mean something else on every machine, or no machine.
var everywhere = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved and broadcast
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// allowsIP says whether the address is in a range. One from everywhere has to be in a range of nothing else.
func (r *Rules) allowsIP(address netip.Addr) bool {
	if r.anyAddress {
		return true
	}
	narrowest := 0
	for _, special := range everywhere {
		if special.Contains(address) {
			narrowest = special.Bits()
		}
	}
	for _, allowed := range r.ranges {
		if allowed.Contains(address) && allowed.Bits() >= narrowest {
			return true
		}
	}
	return false
}

// isOwn says whether the name is the Node's own and of a single label, which no policy has to allow. Whoever has a bootstrap
// token chooses what his Node is called, and other hosts and Services have names with dots.
func (a *asked) isOwn(name string) bool { return name == a.node && !strings.Contains(name, ".") }

// allowsName says whether the name has one of the suffixes. One that can be a Service's has to have a suffix that says so, with
// the label svc: nobody knows the cluster domain here.
func (r *Rules) allowsName(name string) bool {
	least := len(serviceEnd(name))
	for _, suffix := range r.suffixes {
		before, ok := strings.CutSuffix(name, suffix)
		if ok && len(suffix) >= least && (before == "" || before[len(before)-1] == '.') {
			return true
		}
	}
	return false
}
