// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// concern is a condition that findings speak to. Concerns are combined as bits.
type concern uint8

const (
	lifetimes    concern = 1 << iota // CertificatesCurrent
	serving                          // ServingRotationEnabled
	bootstrap                        // BootstrapHealthy
	controlPlane                     // ControlPlaneHealthy
	trustBundles                     // TrustBundlesHealthy
	approval                         // ApprovalHealthy

	everything = 1<<iota - 1
)

// catalogue lists all reasons of findings, the worst first, with the severity of each and the conditions that it speaks
// to when it is found on a node. Every reason speaks to Compliant as well. The same reason on another subject may speak to
// other conditions: the check says so.
//
// A kubelet without a serving certificate has none that is current, so it speaks to the lifetimes too: the usual cause is
// an expired one, which a kubelet stops serving. Of a node that nobody observed, no concern is known.
var catalogue = [...]struct {
	reason   string
	severity v1alpha1.Severity
	concerns concern
}{
	{v1alpha1.ReasonNodePoolNeedsRecreation, v1alpha1.SeverityViolation, lifetimes | bootstrap},
	{v1alpha1.ReasonExpired, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonServingCertificateMissing, v1alpha1.SeverityViolation, lifetimes | serving},
	{v1alpha1.ReasonRotationOverdue, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonNotYetValid, v1alpha1.SeverityViolation, lifetimes},
	{v1alpha1.ReasonClusterCAMismatch, v1alpha1.SeverityViolation, controlPlane},
	{v1alpha1.ReasonTrustBundleMalformed, v1alpha1.SeverityViolation, trustBundles},
	{v1alpha1.ReasonStaleTrustBundle, v1alpha1.SeverityViolation, trustBundles},
	{v1alpha1.ReasonAPIServiceUnavailable, v1alpha1.SeverityViolation, trustBundles},
	{v1alpha1.ReasonServingCertificateUntrusted, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingCertificateSelfSigned, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingCertificateNameMismatch, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonIssuedCertificateNotServed, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonSigningRequestMalformed, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestDenied, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestFailed, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestNotIssued, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestApprovalSuspended, v1alpha1.SeverityViolation, approval},
	{v1alpha1.ReasonSigningRequestViolation, v1alpha1.SeverityViolation, approval},
	{v1alpha1.ReasonSigningRequestPending, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonSigningRequestsLooping, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonNodeNotRegistered, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonBootstrapTokenExpired, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonRenewalFailing, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonClientRotationDisabled, v1alpha1.SeverityViolation, bootstrap},
	{v1alpha1.ReasonServingRequestMissing, v1alpha1.SeverityViolation, serving | bootstrap},
	{v1alpha1.ReasonServerTLSBootstrapDisabled, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingLabelMissing, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonStaticServingCertificateMounted, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonServingRotationNotDisabled, v1alpha1.SeverityViolation, serving},
	{v1alpha1.ReasonAccessDenied, v1alpha1.SeverityUnknown, everything},
	{v1alpha1.ReasonTrustBundleUnavailable, v1alpha1.SeverityUnknown, serving},
	{v1alpha1.ReasonProbeFailed, v1alpha1.SeverityUnknown, lifetimes | serving},
	{v1alpha1.ReasonNotObserved, v1alpha1.SeverityUnknown, lifetimes | serving | bootstrap},
	{v1alpha1.ReasonApprovalPoliciesDisagree, v1alpha1.SeverityInfo, approval},
	{v1alpha1.ReasonIssuerExpiresFirst, v1alpha1.SeverityInfo, lifetimes | controlPlane},
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

// runbooks is the address of the folder that has a page of the same name for every reason.
const runbooks = "https://github.com/notafter/notafter/blob/main/docs/runbooks/"

// runbookOf is the address of each reason's page, by its rank.
var runbookOf = func() (pages [len(catalogue)]string) {
	for rank := range catalogue {
		pages[rank] = runbooks + catalogue[rank].reason + ".md"
	}
	return pages
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
	concerns       concern
}

// findingKey is what tells findings apart.
type findingKey struct {
	reason      string
	subject     v1alpha1.Subject
	certificate v1alpha1.CertificatePurpose
}

// add adds the finding, with the address of its reason's page, and the catalogue's severity if it has none of its own.
func (e *evaluation) add(finding v1alpha1.Finding) {
	e.addTo(catalogue[rankOf[finding.Reason]].concerns, finding)
}

// addTo adds a finding that speaks to other concerns than the catalogue says.
func (e *evaluation) addTo(concerns concern, finding v1alpha1.Finding) {
	rank := rankOf[finding.Reason]
	if finding.Severity == "" {
		finding.Severity = catalogue[rank].severity
	}
	finding.RunbookURL = runbookOf[rank]
	finding.Message = text.Phrase(finding.Message, maxMessage)
	e.found = append(e.found, rankedFinding{finding, severityIndex(finding.Severity), rank, concerns})
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
	findings := make([]v1alpha1.Finding, 0, len(order))
	told := make(map[findingKey]bool, len(order))
	for _, f := range order {
		// Names that differ only in what cannot be printed, or in how they end, look the same. Whoever files requests chooses
		// theirs; the worst stands for all.
		if key := (findingKey{f.Reason, f.Subject, f.Certificate}); !told[key] {
			told[key] = true
			findings = append(findings, f.Finding)
		}
	}
	return Verdict{
		Findings:       findings,
		Nodes:          e.tally.counts(selected),
		Certificates:   e.certificates.counts(),
		ControlPlane:   described(e.listed),
		NextExpiration: e.certificates.next(),
		Conditions:     e.conditions(selected),
		NextCheck:      e.next,
	}
}

// certificateTally counts certificates by their age.
type certificateTally struct {
	current, due, overdue, expired, unknown int32

	// first is the valid certificate that expires first; its purpose is empty while there is none.
	first expiration
}

// expiration is when a certificate expires. The node is empty for a certificate of the control plane.
type expiration struct {
	node     string
	purpose  v1alpha1.CertificatePurpose
	notAfter time.Time
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
func (t *certificateTally) expiring(node string, purpose v1alpha1.CertificatePurpose, notAfter time.Time) {
	if t.first.purpose != "" && cmp.Or(notAfter.Compare(t.first.notAfter), strings.Compare(node, t.first.node),
		cmp.Compare(purpose, t.first.purpose)) >= 0 {
		return
	}
	t.first = expiration{node, purpose, notAfter}
}

func (t *certificateTally) next() *v1alpha1.NextExpiration {
	if t.first.purpose == "" {
		return nil
	}
	return &v1alpha1.NextExpiration{
		Certificate: t.first.purpose, Node: t.first.node, NotAfter: metav1.NewTime(t.first.notAfter.UTC().Truncate(time.Second)),
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
