// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/bits"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// reasons is a set of reasons: bit n is the reason of rank n.
type reasons uint64

// all yields the ranks of the reasons in the set, the worst first.
func (r reasons) all(yield func(rank int) bool) {
	for ; r != 0; r &= r - 1 {
		if !yield(bits.TrailingZeros64(uint64(r))) {
			return
		}
	}
}

// judged are the conditions in the order in which they are returned, with the concerns that each answers for.
var judged = [...]struct {
	condition string
	concerns  concern
}{
	{v1alpha1.ConditionCompliant, everything},
	{v1alpha1.ConditionCertificatesCurrent, lifetimes},
	{v1alpha1.ConditionServingRotationEnabled, serving},
	{v1alpha1.ConditionBootstrapHealthy, bootstrap},
	{v1alpha1.ConditionControlPlaneHealthy, controlPlane},
	{v1alpha1.ConditionTrustBundlesHealthy, trustBundles},
	{v1alpha1.ConditionApprovalHealthy, approval},
}

// compliant is the index in judged of the condition that answers for all concerns.
const compliant = 0

// group is a kind of subjects that are counted together.
type group int

const (
	nodeGroup group = iota
	requestGroup
	poolGroup
	tokenGroup
	workloadGroup
	controlPlaneGroup
	bundleGroup
	approvalGroup
	sourceGroup
	groups
)

// groupTexts are one subject and several subjects of each group, and what is said of those that nobody knows enough of.
var groupTexts = [groups]struct{ one, many, unknown string }{
	nodeGroup:         {"node", "nodes", "could not be judged"},
	requestGroup:      {"signing request without a Node", "signing requests without a Node", "could not be judged"},
	poolGroup:         {"node pool", "node pools", "could not be judged"},
	tokenGroup:        {"bootstrap token", "bootstrap tokens", "could not be judged"},
	workloadGroup:     {"workload", "workloads", "could not be judged"},
	controlPlaneGroup: {"part of the control plane", "parts of the control plane", "could not be judged"},
	bundleGroup:       {"object with trust bundles", "objects with trust bundles", "could not be judged"},
	approvalGroup:     {"approver of signing requests", "approvers of signing requests", "could not be judged"},
	sourceGroup:       {"source of evidence", "sources of evidence", "could not be read"},
}

// count is so many of the group. Of nodes it says how many were selected.
func (g group) count(n, selected int) string {
	if g == nodeGroup {
		return fmt.Sprintf("%d of %s", n, count(selected, "node"))
	}
	return fmt.Sprintf("%d %s", n, agree(n, groupTexts[g].one, groupTexts[g].many))
}

// reasonCounts counts subjects by condition and reason. A subject with several findings of one reason counts once.
type reasonCounts [len(judged)][len(catalogue)]int32

// tally counts subjects, for counts and conditions.
type tally struct {
	reasons [groups][severities]reasonCounts
	// worst counts subjects by the worst that was found of them.
	worst [groups][severities][len(judged)]int
}

// reasonSets are the reasons found on one subject.
type reasonSets [severities][len(judged)]reasons

func (s *reasonSets) add(concerns concern, severity, rank int) {
	for i := range judged {
		if judged[i].concerns&concerns != 0 {
			s[severity][i] |= 1 << rank
		}
	}
}

func (s *reasonSets) addAll(found []rankedFinding) {
	for i := range found {
		s.add(found[i].concerns, found[i].severity, found[i].rank)
	}
}

// reference is a finding that is not the node's, but of what its verdict and those of others wait for.
type reference struct {
	concerns       concern
	severity, rank int
}

// addNode counts a node by its findings, and as if it had those that are told once for many.
func (t *tally) addNode(found []rankedFinding, elsewhere []reference) {
	if len(found) == 0 && len(elsewhere) == 0 {
		return
	}
	var sets reasonSets
	sets.addAll(found)
	for _, r := range elsewhere {
		sets.add(r.concerns, r.severity, r.rank)
	}
	t.add(nodeGroup, &sets)
}

// addOther counts a subject that is no node.
func (t *tally) addOther(g group, found []rankedFinding) {
	if len(found) > 0 {
		var sets reasonSets
		sets.addAll(found)
		t.add(g, &sets)
	}
}

func (t *tally) add(g group, sets *reasonSets) {
	for severity := range sets {
		for i, set := range sets[severity] {
			for rank := range set.all {
				t.reasons[g][severity][i][rank]++
			}
		}
	}
	for i := range judged {
		for severity := range sets {
			if sets[severity][i] != 0 {
				t.worst[g][severity][i]++
				break
			}
		}
	}
}

func (t *tally) counts(selected int) v1alpha1.NodeCounts {
	violating, notKnown := t.worst[nodeGroup][violation][compliant], t.worst[nodeGroup][unknown][compliant]
	return v1alpha1.NodeCounts{
		Selected:  new(int32(selected)),
		Compliant: new(int32(selected - violating - notKnown)),
		Violating: new(int32(violating)),
		Unknown:   new(int32(notKnown)),
	}
}

// total is the number of subjects with the reason, of all groups.
func (t *tally) total(i, severity, rank int) int32 {
	var n int32
	for g := range groups {
		n += t.reasons[g][severity][i][rank]
	}
	return n
}

// first is the worst reason of the severity that speaks to the condition.
func (t *tally) first(i, severity int) (int, bool) {
	for rank := range catalogue {
		if t.total(i, severity, rank) > 0 {
			return rank, true
		}
	}
	return 0, false
}

// Conditions are the types of the conditions that a verdict on the spec has. A concern that the spec ignores as a whole has
// none: True would claim what nobody looked at, and Unknown would ask for a repair.
func Conditions(spec *v1alpha1.CertificatePolicySpec) []string {
	r := rulesOf(spec)
	var types []string
	for i := range judged {
		if r.watched.condition(i) {
			types = append(types, judged[i].condition)
		}
	}
	return types
}

// condition says whether a verdict has the condition.
func (w watched) condition(i int) bool {
	switch judged[i].concerns {
	case controlPlane:
		return w.anyControlPlane()
	case trustBundles:
		return w.anyTrustBundle()
	case approval:
		return w.approval
	default:
		return true
	}
}

func (e *evaluation) conditions(selected int) []metav1.Condition {
	conditions := make([]metav1.Condition, 0, len(judged))
	for i := range judged {
		if e.rules.watched.condition(i) {
			conditions = append(conditions, e.condition(i, selected))
		}
	}
	return conditions
}

// condition is the verdict on one concern: False with the worst violation's reason; else Unknown if no node was judged
// where nodes are what it is about, or with the worst reason for which something is not known; else True.
func (e *evaluation) condition(i, selected int) metav1.Condition {
	condition := metav1.Condition{Type: judged[i].condition}
	t := &e.tally
	if rank, ok := t.first(i, violation); ok {
		condition.Status, condition.Reason = metav1.ConditionFalse, catalogue[rank].reason
		condition.Message = t.violations(i, selected)
		return condition
	}
	if ofNodes := judged[i].concerns&(lifetimes|serving|bootstrap|approval) != 0; ofNodes && selected == 0 {
		condition.Status, condition.Reason = metav1.ConditionUnknown, v1alpha1.ReasonNoNodesSelected
		condition.Message = "spec.nodes.selector selects no node, so nothing was judged"
		return condition
	}
	if rank, ok := t.first(i, unknown); ok {
		condition.Status, condition.Reason = metav1.ConditionUnknown, catalogue[rank].reason
		condition.Message = t.clauses(i, selected, unknown)
		return condition
	}
	condition.Status, condition.Reason = metav1.ConditionTrue, v1alpha1.ReasonAsExpected
	condition.Message = e.expected(i, selected)
	if i == compliant {
		return condition
	}
	if told := t.list(i, info); told != "" {
		condition.Message += "; " + told
	}
	if due := rankOf[v1alpha1.ReasonRotationDue]; t.total(i, info, due) > 0 {
		condition.Reason = v1alpha1.ReasonRotationDue
	}
	return condition
}

// violations says how many subjects violate the policy, and in what, and in what else something is not known.
func (t *tally) violations(i, selected int) string {
	message := t.clauses(i, selected, violation)
	if notKnown := t.list(i, unknown); notKnown != "" {
		message += "; not known: " + notKnown
	}
	return message
}

// clauses says how many subjects of each group violate the policy, or are not known, and why.
func (t *tally) clauses(i, selected, severity int) string {
	var clauses []string
	for g := range groups {
		n := t.worst[g][severity][i]
		if n == 0 {
			continue
		}
		verb := groupTexts[g].unknown
		if severity == violation {
			verb = agree(n, "violates", "violate") + " the policy"
		}
		clauses = append(clauses, fmt.Sprintf("%s %s: %s", g.count(n, selected), verb, t.reasons[g][severity].list(i)))
	}
	return strings.Join(clauses, "; ")
}

// list names the reasons that speak to the condition, the worst first, with the number of subjects of each.
func (c *reasonCounts) list(i int) string {
	var parts []string
	for rank, n := range c[i] {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s on %d", catalogue[rank].reason, n))
		}
	}
	return strings.Join(parts, ", ")
}

// list names the reasons of all groups.
func (t *tally) list(i, severity int) string {
	var all reasonCounts
	for rank := range catalogue {
		all[i][rank] = t.total(i, severity, rank)
	}
	return all.list(i)
}

// expected says what holds when all is as the policy wants it.
func (e *evaluation) expected(i, selected int) string {
	nodes := count(selected, "node")
	switch judged[i].condition {
	case v1alpha1.ConditionCertificatesCurrent:
		if e.rules.watched.anyControlPlane() {
			nodes += " and the control plane"
		}
		return "no certificate of " + nodes + " is overdue or expired"
	case v1alpha1.ConditionBootstrapHealthy:
		return "no signing request of " + nodes + " is stuck"
	case v1alpha1.ConditionServingRotationEnabled:
		return e.expectedServing(selected)
	case v1alpha1.ConditionControlPlaneHealthy:
		return "the watched certificates of the control plane are current, and fit the Cluster CA"
	case v1alpha1.ConditionTrustBundlesHealthy:
		return "no watched trust bundle is malformed, expired or of a replaced Cluster CA"
	case v1alpha1.ConditionApprovalHealthy:
		return e.expectedApproval(selected)
	}
	return e.complying(selected) + " with the policy"
}

// expectedServing says what the nodes serve when all is as the policy wants it.
func (e *evaluation) expectedServing(selected int) string {
	nodes := count(selected, "node")
	switch e.rules.rotation {
	case v1alpha1.ServingRotationDisabled:
		return "serving certificate rotation is off on " + nodes + ", as the policy wants"
	case v1alpha1.ServingRotationIgnored:
		return nodes + " " + agree(selected, "serves", "serve") + " a certificate; who signed it is not judged"
	case v1alpha1.ServingRotationRequired:
	}
	return nodes + " " + agree(selected, "serves", "serve") + " a certificate of the Cluster CA"
}

// complying is everything that was judged, with its verb.
func (e *evaluation) complying(selected int) string {
	nodes := count(selected, "node")
	switch plane, bundles := e.rules.watched.anyControlPlane(), e.rules.watched.anyTrustBundle(); {
	case plane && bundles:
		return nodes + ", the control plane and the trust bundles comply"
	case plane:
		return nodes + " and the control plane comply"
	case bundles:
		return nodes + " and the trust bundles comply"
	}
	return nodes + " " + agree(selected, "complies", "comply")
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
