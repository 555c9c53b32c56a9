// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// concern is a condition that findings speak to. Concerns are combined as bits.
type concern uint8

const (
	lifetimes concern = 1 << iota // CertificatesCurrent
	serving                       // ServingRotationEnabled
	bootstrap                     // BootstrapHealthy
)

// catalogue lists all reasons of findings, the worst first, with the severity of each and the conditions that it speaks
// to. Every reason speaks to Compliant as well.
//
// A kubelet without a serving certificate has none that is current, so it speaks to the lifetimes too: the usual cause is
// an expired one, which a kubelet stops serving. Of a node that nobody observed, no concern is known.
var catalogue = [...]struct {
	reason   string
	severity v1alpha1.Severity
	concerns concern
}{
	{v1alpha1.ReasonExpired, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonServingCertificateMissing, v1alpha1.SeverityViolation, lifetimes | serving},
	{v1alpha1.ReasonRotationOverdue, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonNotYetValid, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonServingCertificateUntrusted, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingCertificateSelfSigned, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingCertificateNameMismatch, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonIssuedCertificateNotServed, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonSigningRequestMalformed, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestDenied, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestFailed, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestNotIssued, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestPending, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestsLooping, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonServingRequestMissing, v1alpha1.SeverityViolation, serving | bootstrap},
	{v1alpha1.ReasonServingLabelMissing, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingRotationNotDisabled, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonTrustBundleUnavailable, v1alpha1.SeverityUnknown, serving},
	{v1alpha1.ReasonProbeFailed, v1alpha1.SeverityUnknown, lifetimes | serving},
	{v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, lifetimes | serving | bootstrap},
	{v1alpha1.ReasonRotationDue, v1alpha1.SeverityInfo, lifetimes},
}

// rankOf is a reason's place in the catalogue.
var rankOf = func() map[string]int {
	ranks := make(map[string]int, len(catalogue))
	for rank := range catalogue {
		ranks[catalogue[rank].reason] = rank
	}
	return ranks
}()

// severity, as an index: the worst first.
const (
	violation = iota
	unknown
	info
	severities
)

func severityIndex(severity v1alpha1.Severity) int {
	switch severity {
	case v1alpha1.SeverityViolation:
		return violation
	case v1alpha1.SeverityUnknown:
		return unknown
	case v1alpha1.SeverityInfo:
	}
	return info
}

// rankedFinding is a finding with what it is sorted by.
type rankedFinding struct {
	v1alpha1.Finding
	severity, rank int
}

// add adds the finding, with the catalogue's severity if it has none of its own.
func (e *evaluation) add(finding v1alpha1.Finding) {
	rank := rankOf[finding.Reason]
	if finding.Severity == "" {
		finding.Severity = catalogue[rank].severity
	}
	finding.Message = printable(finding.Message, maxMessage)
	e.found = append(e.found, rankedFinding{finding, severityIndex(finding.Severity), rank})
}

// compareFindings is a total order: severity, reason, expiry, subject, and the rest so that no two findings are equal.
func compareFindings(a, b *rankedFinding) int {
	return cmp.Or(
		cmp.Compare(a.severity, b.severity),
		cmp.Compare(a.rank, b.rank),
		compareExpiry(a.NotAfter, b.NotAfter),
		strings.Compare(a.Subject.Name, b.Subject.Name),
		strings.Compare(string(a.Subject.Kind), string(b.Subject.Kind)),
		strings.Compare(string(a.Certificate), string(b.Certificate)),
		strings.Compare(a.Message, b.Message),
	)
}

// compareExpiry puts what expires first before what expires later, and that before what does not expire.
func compareExpiry(a, b *metav1.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(b.Time)
}

func (e *evaluation) verdict(selected int) Verdict {
	order := make([]*rankedFinding, len(e.found))
	for i := range e.found {
		order[i] = &e.found[i]
	}
	slices.SortFunc(order, compareFindings)
	findings := make([]v1alpha1.Finding, len(order))
	for i := range order {
		findings[i] = order[i].Finding
	}
	return Verdict{
		Findings:       findings,
		Nodes:          e.tally.counts(selected),
		Certificates:   e.certificates.counts(),
		NextExpiration: e.certificates.next(),
		Conditions:     e.conditions(selected),
		NextCheck:      e.next,
	}
}

// certificateTally counts certificates by their age.
type certificateTally struct {
	current, due, overdue, expired, unknown int32

	// first is the valid certificate that expires first, firstNode its node's name.
	first     *v1alpha1.CertificateStatus
	firstNode string
}

func (t *certificateTally) count(of age) {
	switch of {
	case ageCurrent:
		t.current++
	case ageDue:
		t.due++
	case ageOverdue:
		t.overdue++
	case ageExpired:
		t.expired++
	case ageNotYetValid:
		t.unknown++
	}
}

// expiring remembers a valid certificate if it is the one that expires first. Of two that expire at once it is the
// one whose node, then whose purpose, comes first in the alphabet.
func (t *certificateTally) expiring(node string, certificate *v1alpha1.CertificateStatus) {
	if t.first != nil {
		order := certificate.NotAfter.Compare(t.first.NotAfter.Time)
		if order == 0 {
			order = cmp.Or(strings.Compare(node, t.firstNode), cmp.Compare(certificate.Purpose, t.first.Purpose))
		}
		if order >= 0 {
			return
		}
	}
	t.first, t.firstNode = certificate, node
}

func (t *certificateTally) next() *v1alpha1.NextExpiration {
	if t.first == nil {
		return nil
	}
	return &v1alpha1.NextExpiration{
		Certificate: t.first.Purpose, Node: t.firstNode,
		NotAfter: metav1.NewTime(t.first.NotAfter.UTC().Truncate(time.Second)),
	}
}

func (t *certificateTally) counts() v1alpha1.CertificateCounts {
	return v1alpha1.CertificateCounts{
		Total:       new(t.current + t.due + t.overdue + t.expired + t.unknown),
		Current:     new(t.current),
		RotationDue: new(t.due),
		Overdue:     new(t.overdue),
		Expired:     new(t.expired),
		Unknown:     new(t.unknown),
	}
}

// reasons is a set of reasons: bit n is the reason of rank n.
type reasons uint32

func (r reasons) has(rank int) bool {
	return r&(1<<rank) != 0
}

// reasonCounts counts subjects by severity and reason. A subject with several findings of one reason counts once.
type reasonCounts [severities][len(catalogue)]int

// outcome counts subjects by the worst that was found: violation or unknown.
type outcome [severities]int

// tally counts nodes, and signing requests that belong to none, for counts and conditions.
type tally struct {
	nodes, orphans           reasonCounts
	nodeOutcome, orphOutcome [len(judged)]outcome
}

// judged are the conditions in the order in which they are returned, with the reasons that speak to each.
var judged = [...]struct {
	condition string
	reasons   reasons
}{
	{v1alpha1.ConditionCompliant, reasonsOf(lifetimes | serving | bootstrap)},
	{v1alpha1.ConditionCertificatesCurrent, reasonsOf(lifetimes)},
	{v1alpha1.ConditionServingRotationEnabled, reasonsOf(serving)},
	{v1alpha1.ConditionBootstrapHealthy, reasonsOf(bootstrap)},
}

// compliant is the index in judged of the condition that all reasons speak to.
const compliant = 0

func reasonsOf(concerns concern) reasons {
	var set reasons
	for rank := range catalogue {
		if catalogue[rank].concerns&concerns != 0 {
			set |= 1 << rank
		}
	}
	return set
}

// addNode counts a node by its findings. A node whose verdict waits for the Cluster CA has no finding of that, but counts
// as if it had.
func (t *tally) addNode(found []rankedFinding, dependsOnTrust bool) {
	if len(found) == 0 && !dependsOnTrust {
		return
	}
	sets := reasonSets(found)
	if dependsOnTrust {
		sets[unknown] |= 1 << rankOf[v1alpha1.ReasonTrustBundleUnavailable]
	}
	add(&t.nodes, &t.nodeOutcome, sets)
}

// addOther counts a subject that is no node.
func (t *tally) addOther(found []rankedFinding) {
	if len(found) > 0 {
		add(&t.orphans, &t.orphOutcome, reasonSets(found))
	}
}

func reasonSets(found []rankedFinding) [severities]reasons {
	var sets [severities]reasons
	for i := range found {
		sets[found[i].severity] |= 1 << found[i].rank
	}
	return sets
}

func add(counts *reasonCounts, outcomes *[len(judged)]outcome, sets [severities]reasons) {
	for severity, set := range sets {
		for rank := range catalogue {
			if set.has(rank) {
				counts[severity][rank]++
			}
		}
	}
	for i := range judged {
		for severity, set := range sets {
			if set&judged[i].reasons != 0 {
				outcomes[i][severity]++
				break
			}
		}
	}
}

func (t *tally) counts(selected int) v1alpha1.NodeCounts {
	violating, notKnown := t.nodeOutcome[compliant][violation], t.nodeOutcome[compliant][unknown]
	return v1alpha1.NodeCounts{
		Selected:  new(int32(selected)),
		Compliant: new(int32(selected - violating - notKnown)),
		Violating: new(int32(violating)),
		Unknown:   new(int32(notKnown)),
	}
}

func (e *evaluation) conditions(selected int) []metav1.Condition {
	conditions := make([]metav1.Condition, len(judged))
	for i := range judged {
		conditions[i] = e.condition(i, selected)
	}
	return conditions
}

// condition is the verdict on one concern: False with the worst violation's reason; else Unknown if no node was judged,
// or with the worst reason for which something is not known; else True.
func (e *evaluation) condition(i, selected int) metav1.Condition {
	condition := metav1.Condition{Type: judged[i].condition}
	t := &e.tally
	if rank, ok := t.worst(i, violation); ok {
		condition.Status, condition.Reason = metav1.ConditionFalse, catalogue[rank].reason
		condition.Message = t.violations(i, selected)
		return condition
	}
	if selected == 0 {
		condition.Status, condition.Reason = metav1.ConditionUnknown, v1alpha1.ReasonNoNodesSelected
		condition.Message = "spec.nodes.selector selects no node, so nothing was judged"
		return condition
	}
	if rank, ok := t.worst(i, unknown); ok {
		condition.Status, condition.Reason = metav1.ConditionUnknown, catalogue[rank].reason
		condition.Message = t.unknowns(i, selected)
		return condition
	}
	condition.Status, condition.Reason = metav1.ConditionTrue, v1alpha1.ReasonAsExpected
	condition.Message = e.expected(i, selected)
	due := rankOf[v1alpha1.ReasonRotationDue]
	if n := t.nodes[info][due]; n > 0 && judged[i].condition == v1alpha1.ConditionCertificatesCurrent {
		condition.Reason = v1alpha1.ReasonRotationDue
		condition.Message += fmt.Sprintf("; %s on %d", v1alpha1.ReasonRotationDue, n)
	}
	return condition
}

// worst is the worst reason of the severity that speaks to the condition.
func (t *tally) worst(i, severity int) (int, bool) {
	for rank := range catalogue {
		if judged[i].reasons.has(rank) && t.nodes[severity][rank]+t.orphans[severity][rank] > 0 {
			return rank, true
		}
	}
	return 0, false
}

// violations says how many subjects violate the policy, and in what, and in what else something is not known.
func (t *tally) violations(i, selected int) string {
	var clauses []string
	if n := t.nodeOutcome[i][violation]; n > 0 {
		clauses = append(clauses, fmt.Sprintf("%d of %s %s the policy: %s",
			n, count(selected, "node"), agree(n, "violates", "violate"), t.nodes.list(i, violation)))
	}
	if n := t.orphOutcome[i][violation]; n > 0 {
		clauses = append(clauses, fmt.Sprintf("%s without a Node %s the policy: %s",
			count(n, "signing request"), agree(n, "violates", "violate"), t.orphans.list(i, violation)))
	}
	if notKnown := t.nodes.list(i, unknown); notKnown != "" {
		clauses = append(clauses, "not known: "+notKnown)
	}
	return strings.Join(clauses, "; ")
}

// unknowns says of how many nodes something is not known, and why.
func (t *tally) unknowns(i, selected int) string {
	n := t.nodeOutcome[i][unknown]
	if n == 0 { // the Cluster CA cannot be read, and no node waits for it
		return "the Cluster CA cannot be read, so the next certificate that a node serves cannot be verified"
	}
	return fmt.Sprintf("%d of %s could not be judged: %s", n, count(selected, "node"), t.nodes.list(i, unknown))
}

// list names the reasons that speak to the condition, the worst first, with the number of subjects of each.
func (c *reasonCounts) list(i, severity int) string {
	var parts []string
	for rank := range catalogue {
		if n := c[severity][rank]; n > 0 && judged[i].reasons.has(rank) {
			parts = append(parts, fmt.Sprintf("%s on %d", catalogue[rank].reason, n))
		}
	}
	return strings.Join(parts, ", ")
}

// expected says what holds of the nodes when all is as the policy wants it.
func (e *evaluation) expected(i, selected int) string {
	nodes := count(selected, "node")
	switch judged[i].condition {
	case v1alpha1.ConditionCertificatesCurrent:
		return "no certificate of " + nodes + " is overdue or expired"
	case v1alpha1.ConditionBootstrapHealthy:
		return "no signing request of " + nodes + " is stuck"
	case v1alpha1.ConditionServingRotationEnabled:
		switch e.rules.rotation {
		case v1alpha1.ServingRotationDisabled:
			return "serving certificate rotation is off on " + nodes + ", as the policy wants"
		case v1alpha1.ServingRotationIgnored:
			return nodes + " " + agree(selected, "serves", "serve") + " a certificate; who signed it is not judged"
		case v1alpha1.ServingRotationRequired:
		}
		return nodes + " " + agree(selected, "serves", "serve") + " a certificate of the Cluster CA"
	}
	return nodes + " " + agree(selected, "complies", "comply") + " with the policy"
}

func count(n int, noun string) string {
	return fmt.Sprintf("%d %s", n, agree(n, noun, noun+"s"))
}

func agree(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
