// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Verdict is what becomes of a request.
type Verdict string

const (
	// Approve approves it.
	Approve Verdict = "Approve"
	// Deny denies it, which nothing can undo.
	Deny Verdict = "Deny"
	// NoOpinion leaves it to somebody else, or to a later judgement.
	NoOpinion Verdict = "NoOpinion"
	// Wait leaves it until what it lacks is there.
	Wait Verdict = "Wait"
	// Resolve needs answers from DNS first.
	Resolve Verdict = "Resolve"
)

// Reason is why a Decision is as it is.
type Reason string

// Reasons of decisions that no rule was broken for.
const (
	// ReasonKeepsRules is a request that every policy which selects the node approves.
	ReasonKeepsRules Reason = "KeepsRules"
	// ReasonObserved is one that keeps all rules, of which some are of a policy in mode Observe.
	ReasonObserved Reason = "Observed"
	// ReasonNotServing is a request for another certificate than a kubelet's serving certificate.
	ReasonNotServing Reason = "NotServing"
	// ReasonDecided is a request that somebody has decided on.
	ReasonDecided Reason = "Decided"
	// ReasonNotOfNode is a request that no kubelet filed.
	ReasonNotOfNode Reason = "NotOfNode"
	// ReasonNodeNotFound is a request of a node that is not there: not yet, or not any more.
	ReasonNodeNotFound Reason = "NodeNotFound"
	// ReasonOfPredecessor is a request that was filed so long before its Node was made that it must be of an earlier one of that
	// name, or of a kubelet that does not wait for it any more.
	ReasonOfPredecessor Reason = "OfPredecessor"
	// ReasonNoPolicy is a request of a node for which no policy has a say about approval.
	ReasonNoPolicy Reason = "NoPolicy"
	// ReasonSuperseded is a request after which the node filed another.
	ReasonSuperseded Reason = "Superseded"
	// ReasonEarlierApproval is a request of a node that waits for the certificate of an earlier one.
	ReasonEarlierApproval Reason = "EarlierApproval"
	// ReasonSuspended is a request that waits because too many nodes have undecided ones.
	ReasonSuspended Reason = "Suspended"
	// ReasonNamesUnresolved is a request whose DNS names are to be looked up.
	ReasonNamesUnresolved Reason = "NamesUnresolved"
)

// Reasons of decisions on requests that break a rule, or cannot be shown to keep it.
const (
	// ReasonNotInGroup is a request filed in a node's name without the group of nodes.
	ReasonNotInGroup Reason = "NotInGroup"
	// ReasonSignerRules is a request that breaks the signer's rules.
	ReasonSignerRules Reason = "SignerRules"
	// ReasonMetadataTooLarge is a request with more labels, annotations and the like than are kept.
	ReasonMetadataTooLarge Reason = "MetadataTooLarge"
	// ReasonUnexpectedContent is a request for something that no kubelet asks for.
	ReasonUnexpectedContent Reason = "UnexpectedContent"
	// ReasonKeyNotAllowed is a request with a key of a kind or size that is not allowed.
	ReasonKeyNotAllowed Reason = "KeyNotAllowed"
	// ReasonTooManyNames is a request with more names than are read, or looked up.
	ReasonTooManyNames Reason = "TooManyNames"
	// ReasonNameNeverAllowed is a request for a name that no kubelet may have.
	ReasonNameNeverAllowed Reason = "NameNeverAllowed"
	// ReasonPolicyInvalid is a request that a policy with an unreadable spec has a say about.
	ReasonPolicyInvalid Reason = "PolicyInvalid"
	// ReasonDurationNotAllowed is a request for a longer lifetime than the policy allows.
	ReasonDurationNotAllowed Reason = "DurationNotAllowed"
	// ReasonAddressNotAllowed is a request for an IP address that the policy does not allow.
	ReasonAddressNotAllowed Reason = "AddressNotAllowed"
	// ReasonNameNotAllowed is a request for a DNS name that the policy does not allow.
	ReasonNameNotAllowed Reason = "NameNotAllowed"
	// ReasonAddressNotOfNode is a request for an address or name that the Node does not report.
	ReasonAddressNotOfNode Reason = "AddressNotOfNode"
	// ReasonAddressContested is a request for an address or name that another Node has as well.
	ReasonAddressContested Reason = "AddressContested"
	// ReasonNameNotResolved is a request for a name that DNS gives no address for.
	ReasonNameNotResolved Reason = "NameNotResolved"
	// ReasonNameResolvesElsewhere is a request for a name, or an address, that DNS does not have for this node.
	ReasonNameResolvesElsewhere Reason = "NameResolvesElsewhere"
	// ReasonTooManyDecisions is a request of a node whose requests were decided too often in the last hour.
	ReasonTooManyDecisions Reason = "TooManyDecisions"
)

const (
	// settling is how long after a request was filed the Node may be missing, or miss an address, before that counts: a
	// kubelet asks as soon as it knows its addresses, and the Node may reach us later. It is also the time between two looks
	// at what may right itself.
	settling = time.Minute
	// decisionWindow is the time over which a node's decisions are counted. Kubernetes keeps decided requests for as long.
	decisionWindow = time.Hour
	// abandoned is the age at which a kubelet gives up on a request:
	// https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/client-go/util/certificate/certificate_manager.go
	abandoned = 15 * time.Minute
)

// Answer is what DNS says of a name.
type Answer struct {
	Addresses []netip.Addr
	// Failure says why there are no addresses.
	Failure string
}

// DecisionInput is everything that a decision depends on.
type DecisionInput struct {
	// Request is what is decided on. Of its spec, what ReadOf keeps is read.
	Request *certificatesv1.CertificateSigningRequest
	// Siblings are the node's requests for serving certificates that exist, in any order, decided ones too.
	Siblings []*certificatesv1.CertificateSigningRequest
	// Node is the Node that the request is of; nil while there is none.
	Node *corev1.Node
	// Certificates are those that are known of that very Node, from its NodeCertificates, and ServingMode is where the one that
	// its kubelet showed in the latest handshake comes from.
	Certificates []v1alpha1.CertificateStatus
	ServingMode  v1alpha1.ServingMode
	// Rules are those of the policies that select the Node, in any order. Nil ones have no say.
	Rules []*Rules
	// Owners returns the names of the Nodes among whose NodeAddresses that one is.
	Owners func(address string) []string
	// Answers are what DNS says of the names that an earlier Decision asked for.
	Answers map[string]Answer
	// Suspended says that there are more PendingNodes than PendingLimit.
	Suspended bool
	// Now is the instant of the decision.
	Now time.Time
}

// Decision is what becomes of a request, and why.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Message names what stands in the way. It fits into a condition, and holds nothing that moves by itself.
	Message string
	// Until is when to decide again even if nothing has changed; zero: then not.
	Until time.Time
	// Resolve are the names to look up, within ResolveTimeout, and then to decide again.
	Resolve        []string
	ResolveTimeout time.Duration
	// Violated says that a rule is broken, whatever the verdict.
	Violated bool
	// By are the policies because of which the request is not approved, and Overruled those that would have approved it. Both
	// are in alphabetical order.
	By, Overruled []string
	// Rival is one of the other Nodes that have an address of the request, because of which it is not approved.
	Rival string
}

// Decide says what becomes of a request. It takes a time that is bounded by the size of what the API server stores, whatever
// a node has written there.
//
// What is sure to be wrong is a violation: denied if a policy wants that, and else left alone. What may right itself, or depends
// on what others say, is never denied: that cannot be undone, and a kubelet that is denied for a moment's confusion has no
// certificate.
func Decide(in DecisionInput) Decision {
	d := newDecider(in)
	for _, judge := range []func(*decider) *Decision{
		(*decider).concern, (*decider).contents, (*decider).names, (*decider).rules, (*decider).ownership,
		(*decider).pace, (*decider).resolution, (*decider).consent,
	} {
		if decision := judge(d); decision != nil {
			decision.Message = text.Field(decision.Message, maxMessage)
			return *decision
		}
	}
	return Decision{Verdict: Approve, Reason: ReasonKeepsRules, Message: text.Field(fmt.Sprintf(
		"the request keeps the signer's rules, Node %s has every address in it, and CertificatePolicy %s allows them",
		d.node, strings.Join(d.policies(nil), ", ")), maxMessage)}
}

// decider is one run of Decide.
type decider struct {
	DecisionInput
	// node is the name of the node.
	node string
	// byPolicy are the Rules that there are, by policy.
	byPolicy []*Rules
	asked    *asked
}

func newDecider(in DecisionInput) *decider {
	d := &decider{DecisionInput: in, node: NodeName(in.Request)}
	d.byPolicy = slices.DeleteFunc(slices.Clone(in.Rules), func(r *Rules) bool { return r == nil })
	slices.SortFunc(d.byPolicy, func(a, b *Rules) int { return strings.Compare(a.policy, b.policy) })
	return d
}

// policies are the names of those whose rules are wanted; nil wants all.
func (d *decider) policies(wanted func(*Rules) bool) []string {
	var names []string
	for _, r := range d.byPolicy {
		if wanted == nil || wanted(r) {
			names = append(names, r.policy)
		}
	}
	return names
}

// observed says that a policy wants nothing to be decided.
func (d *decider) observed() bool {
	return slices.ContainsFunc(d.byPolicy, func(r *Rules) bool { return !r.approves })
}

// violation is the decision on a request that is sure to be wrong by the rules of the policies that want it so.
func (d *decider) violation(reason Reason, message string, breaks func(*Rules) bool) *Decision {
	decision := &Decision{
		Verdict: NoOpinion, Reason: reason, Message: message, Violated: true, By: d.policies(breaks),
		Overruled: d.policies(func(r *Rules) bool { return r.approves && breaks != nil && !breaks(r) }),
	}
	denies := slices.ContainsFunc(d.byPolicy, func(r *Rules) bool { return r.denies && (breaks == nil || breaks(r)) })
	if !denies || d.observed() || d.Suspended {
		return decision
	}
	if exhausted, until := d.exhausted(); exhausted {
		decision.Until = until
		return decision
	}
	decision.Verdict = Deny
	return decision
}

// doubt is the decision on a request that cannot be shown to be right: it waits while it is new, and is then reported.
func (d *decider) doubt(reason Reason, message string, doubts func(*Rules) bool) *Decision {
	decision := &Decision{
		Verdict: Wait, Reason: reason, Message: message, Until: d.settled(), By: d.policies(doubts),
		Overruled: d.policies(func(r *Rules) bool { return r.approves && doubts != nil && !doubts(r) }),
	}
	if !d.Now.Before(decision.Until) {
		decision.Verdict, decision.Violated, decision.Until = NoOpinion, true, d.Now.Add(settling)
	}
	return decision
}

// settled is when a request is no longer new.
func (d *decider) settled() time.Time { return d.Request.CreationTimestamp.Add(settling) }

// concern sorts out the requests that are none of ours.
func (d *decider) concern() *Decision {
	req := d.Request
	switch {
	case req.Spec.SignerName != certificatesv1.KubeletServingSignerName:
		return noOpinion(ReasonNotServing, "the request is for another signer than "+certificatesv1.KubeletServingSignerName)
	case Stage(req) != v1alpha1.StagePending || len(req.Status.Certificate) > 0:
		return noOpinion(ReasonDecided, "the request is decided")
	case d.node == "":
		return noOpinion(ReasonNotOfNode, fmt.Sprintf("%s filed the request, which is no node", quoted(req.Spec.Username)))
	case d.Node == nil || d.Node.Name != d.node:
		missing := noOpinion(ReasonNodeNotFound, fmt.Sprintf("there is no Node %s", d.node))
		if d.Now.Before(d.settled()) {
			missing.Verdict, missing.Until = Wait, d.settled()
		}
		return missing
	case req.CreationTimestamp.Add(abandoned).Before(d.Node.CreationTimestamp.Time):
		return noOpinion(ReasonOfPredecessor, "the request was filed long before the Node was made")
	case len(d.byPolicy) == 0:
		return noOpinion(ReasonNoPolicy, "no CertificatePolicy with signingRequestApproval selects the Node")
	}
	if newer := d.superseding(); newer != "" {
		return noOpinion(ReasonSuperseded, fmt.Sprintf("the node has filed %s since", quoted(newer)))
	}
	return nil
}

func noOpinion(reason Reason, message string) *Decision {
	return &Decision{Verdict: NoOpinion, Reason: reason, Message: message}
}

// Newest is the newest undecided one of a node's requests; nil if there is none. Of two that were filed in one second, it is the
// one whose name comes last in the alphabet.
func Newest(requests []*certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	var newest *certificatesv1.CertificateSigningRequest
	for _, req := range requests {
		if Stage(req) == v1alpha1.StagePending && (newest == nil || CompareAge(req, newest) > 0) {
			newest = req
		}
	}
	return newest
}

// CompareAge is negative when a is older than b, and positive when it is newer.
func CompareAge(a, b *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// superseding is the name of a newer request of the node that may still get it a certificate, or has. A decided one of the same
// second is no newer: if both were, the kubelet might wait for the one that nobody decides on.
func (d *decider) superseding() string {
	for _, sibling := range d.Siblings {
		switch Stage(sibling) {
		case v1alpha1.StagePending:
			if CompareAge(sibling, d.Request) > 0 {
				return sibling.Name
			}
		case v1alpha1.StageApproved, v1alpha1.StageIssued:
			if d.Request.CreationTimestamp.Before(&sibling.CreationTimestamp) {
				return sibling.Name
			}
		case v1alpha1.StageDenied, v1alpha1.StageFailed, v1alpha1.StageDeleted:
		}
	}
	return ""
}

// contents judges the request by itself.
func (d *decider) contents() *Decision {
	if _, leftOut := d.Request.Annotations[metadataLeftOut]; leftOut {
		// Not even denied: that would delete them.
		return &Decision{
			Verdict: NoOpinion, Reason: ReasonMetadataTooLarge, Violated: true, By: d.policies(nil), Message: fmt.Sprintf(
				"the request has more than %d bytes of metadata, and kubelets give theirs none", MaxMetadataBytes),
		}
	}
	if !slices.Contains(d.Request.Spec.Groups, nodesGroup) {
		return d.violation(ReasonNotInGroup, fmt.Sprintf(
			"%s filed the request without being in the group %s", quoted(d.Request.Spec.Username), nodesGroup), nil)
	}
	request, err := Parse(d.Request.Spec.Request)
	if err != nil {
		return d.violation(ReasonSignerRules, err.Error(), nil)
	}
	if problems := broken(&d.Request.Spec, request); problems != "" {
		return d.violation(ReasonSignerRules, problems, nil)
	}
	if reason, problem := objectionable(request); reason != "" {
		return d.violation(reason, problem, nil)
	}
	d.asked = askedOf(d.node, d.Request, request)
	return nil
}

// names judges the names that no policy can allow.
func (d *decider) names() *Decision {
	for _, name := range d.asked.names {
		if why := neverNode(name); why != "" {
			return d.violation(ReasonNameNeverAllowed, fmt.Sprintf("DNS name %s %s", quoted(name), why), nil)
		}
	}
	return nil
}

// rules judges the request by each policy.
func (d *decider) rules() *Decision {
	breaks := map[*Rules]bool{}
	var first Reason
	var message string
	for _, r := range d.byPolicy {
		reason, objection := r.objection(d.asked)
		if breaks[r] = reason != ""; breaks[r] && first == "" {
			first, message = reason, objection
		}
	}
	if first == "" {
		return nil
	}
	return d.violation(first, message, func(r *Rules) bool { return breaks[r] })
}

// ownership wants the Node to have every address and name, and no other Node. What a certificate has been issued to this Node
// for is its own, whoever claims it: no node can stop another from renewing by claiming its addresses. That the Node does not
// have one is not sure enough for a denial: it may get it yet, and may have it already where a cache is behind.
func (d *decider) ownership() *Decision {
	own, held := NodeAddresses(d.Node), d.held()
	for _, address := range d.asked.all() {
		if _, has := slices.BinarySearch(own, address); !has {
			return d.doubt(ReasonAddressNotOfNode, fmt.Sprintf("%s is not among the addresses of Node %s", quoted(address), d.node), nil)
		}
		if other := d.otherOwner(address, held); other != "" {
			return d.contested(other, fmt.Sprintf("%s is also an address of Node %s", quoted(address), quoted(other)))
		}
	}
	return nil
}

// contested doubts a request because of an address that another Node has as well.
func (d *decider) contested(rival, message string) *Decision {
	decision := d.doubt(ReasonAddressContested, message, nil)
	decision.Rival = rival
	return decision
}

// all are the addresses and names.
func (a *asked) all() []string {
	all := slices.Clone(a.names)
	for _, address := range a.ips {
		all = append(all, address.String())
	}
	return all
}

// otherOwner is the first of the other Nodes that have the address, unless this Node holds it; empty if none has. The Node's own
// name is nobody else's, whoever reports it.
func (d *decider) otherOwner(address string, held []string) string {
	if address == d.node || slices.Contains(held, address) {
		return ""
	}
	others := slices.DeleteFunc(slices.Clone(d.Owners(address)), func(name string) bool { return name == d.node })
	if len(others) == 0 {
		return ""
	}
	return slices.Min(others)
}

// held are the addresses and names in the serving certificates that were issued to this Node and are valid still.
func (d *decider) held() []string {
	var held []string
	for i := range d.Certificates {
		c := &d.Certificates[i]
		if c.Purpose != v1alpha1.PurposeKubeletServing || !d.wasIssued(c) || !d.Now.Before(c.NotAfter.Time) {
			continue
		}
		for _, name := range slices.Concat(c.DNSNames, c.IPAddresses) {
			held = append(held, CanonicalAddress(name))
		}
	}
	return held
}

// wasIssued says that a serving certificate was issued to this Node: to a request of it, or, as one that its kubelet shows, by
// the Cluster CA and in its name. The requests are gone an hour after they were signed, so that after an installation nothing
// else is known. A node can have another one's certificate shown, by reporting its address; the name in it is then the other's.
func (d *decider) wasIssued(c *v1alpha1.CertificateStatus) bool {
	switch c.Source {
	case v1alpha1.SourceSigningRequest:
		return true
	case v1alpha1.SourceHandshake:
		return d.ServingMode == v1alpha1.ServingModeClusterSigned && c.Subject == "CN="+nodeUserPrefix+d.node+",O="+nodesGroup
	}
	return false
}

// pace lets a node have one approval at a time and so many decisions in an hour, and nobody any while decisions are
// suspended. Where nothing would be decided anyhow, there is no pace to keep.
func (d *decider) pace() *Decision {
	if d.observed() {
		return nil
	}
	if d.Suspended {
		return &Decision{Verdict: Wait, Reason: ReasonSuspended, Message: "more nodes have undecided requests than there may be"}
	}
	if exhausted, until := d.exhausted(); exhausted {
		return &Decision{
			Verdict: Wait, Reason: ReasonTooManyDecisions, Violated: true, Until: until, By: d.policies(d.spent),
			Message: "as many requests of the node as signingRequestApproval.maximumDecisionsPerNode were decided within an hour",
		}
	}
	for _, sibling := range d.Siblings {
		if Stage(sibling) != v1alpha1.StageApproved {
			continue
		}
		if until := Decided(sibling).Add(d.issueTimeout()); d.Now.Before(until) {
			return &Decision{
				Verdict: Wait, Reason: ReasonEarlierApproval, Until: until,
				Message: fmt.Sprintf("%s of the same node is approved, and its certificate not issued yet", quoted(sibling.Name)),
			}
		}
	}
	return nil
}

func (d *decider) issueTimeout() time.Duration {
	var longest time.Duration
	for _, r := range d.byPolicy {
		longest = max(longest, r.issueTimeout)
	}
	return longest
}

// exhausted says that a policy lets no more of the node's requests be decided, and until when.
func (d *decider) exhausted() (bool, time.Time) {
	recent := d.recent()
	var until time.Time
	for _, r := range d.byPolicy {
		if len(recent) >= r.decisions {
			if free := recent[len(recent)-r.decisions].Add(decisionWindow); free.After(until) {
				until = free
			}
		}
	}
	return !until.IsZero(), until
}

// spent says that the policy lets no more of the node's requests be decided.
func (d *decider) spent(r *Rules) bool { return len(d.recent()) >= r.decisions }

// recent is when the node's requests were decided within the last hour, in order.
func (d *decider) recent() []time.Time {
	var recent []time.Time
	for _, sibling := range d.Siblings {
		if decided := Decided(sibling); !decided.IsZero() && d.Now.Before(decided.Add(decisionWindow)) {
			recent = append(recent, decided)
		}
	}
	slices.SortFunc(recent, time.Time.Compare)
	return recent
}

// resolution has the names looked up where a policy requires it, and judges the answers. DNS is not sure enough for a denial.
func (d *decider) resolution() *Decision {
	resolves := func(r *Rules) bool { return r.resolves }
	if !slices.ContainsFunc(d.byPolicy, resolves) {
		return nil
	}
	if n := len(d.asked.names); n > maxResolved {
		return d.doubt(ReasonTooManyNames, fmt.Sprintf(
			"there are %d DNS names, more than the %d that are looked up", n, maxResolved), resolves)
	}
	if missing := d.unanswered(); len(missing) > 0 {
		return &Decision{
			Verdict: Resolve, Reason: ReasonNamesUnresolved, Message: "the DNS names in the request are to be looked up",
			Resolve: missing, ResolveTimeout: d.dnsTimeout(),
		}
	}
	resolved := map[netip.Addr]bool{}
	for _, name := range d.asked.names {
		answer := d.Answers[name]
		if len(answer.Addresses) == 0 {
			return d.doubt(ReasonNameNotResolved, fmt.Sprintf(
				"DNS name %s does not resolve: %s", quoted(name), quoted(answer.Failure)), resolves)
		}
		for _, address := range answer.Addresses {
			address = address.Unmap()
			if elsewhere := d.elsewhere(name, address, resolves); elsewhere != nil {
				return elsewhere
			}
			resolved[address] = true
		}
	}
	for _, address := range d.asked.ips {
		if !resolved[address] {
			return d.doubt(ReasonNameResolvesElsewhere, fmt.Sprintf(
				"no DNS name in the request resolves to IP address %s", address), resolves)
		}
	}
	return nil
}

// elsewhere doubts that an address which a name resolves to is the node's. The Node lists the addresses that the node wrote, so
// it takes what an address in the request takes: that the policies allow it, and that no other Node has it.
func (d *decider) elsewhere(name string, address netip.Addr, resolves func(*Rules) bool) *Decision {
	answer := fmt.Sprintf("DNS name %s resolves to %s, which", quoted(name), address)
	if !slices.Contains(NodeAddresses(d.Node), address.String()) {
		return d.doubt(ReasonNameResolvesElsewhere, fmt.Sprintf("%s is not among the addresses of Node %s", answer, d.node), resolves)
	}
	forbids := func(r *Rules) bool { return !r.allowsIP(address) }
	if forbidding := d.policies(forbids); len(forbidding) > 0 {
		return d.doubt(ReasonNameResolvesElsewhere, fmt.Sprintf(
			"%s is in none of signingRequestApproval.allowedIPRanges of CertificatePolicy %s", answer, forbidding[0]), forbids)
	}
	if other := d.otherOwner(address.String(), d.held()); other != "" {
		return d.contested(other, fmt.Sprintf("%s is also an address of Node %s", answer, quoted(other)))
	}
	return nil
}

func (d *decider) unanswered() []string {
	var missing []string
	for _, name := range d.asked.names {
		if _, ok := d.Answers[name]; !ok {
			missing = append(missing, name)
		}
	}
	return missing
}

func (d *decider) dnsTimeout() time.Duration {
	var shortest time.Duration
	for _, r := range d.byPolicy {
		if r.resolves && (shortest == 0 || r.dnsTimeout < shortest) {
			shortest = r.dnsTimeout
		}
	}
	return shortest
}

// consent wants all policies to approve.
func (d *decider) consent() *Decision {
	if !d.observed() {
		return nil
	}
	decision := noOpinion(ReasonObserved, "the request keeps all rules, and a CertificatePolicy in mode Observe leaves it to others")
	decision.By = d.policies(func(r *Rules) bool { return !r.approves })
	decision.Overruled = d.policies(func(r *Rules) bool { return r.approves })
	return decision
}
