// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// eventBurst and eventInterval are the Event budget of a policy: so many at once, and one more per interval.
	eventBurst    = 100
	eventInterval = 6 * time.Second
	// subjectBurst and subjectInterval are the share of one subject, in transitions: a node that comes and goes must not use up
	// what others need.
	subjectBurst    = 20
	subjectInterval = time.Minute
	// summaryDelay is how long transitions without an Event of their own are collected into one that sums them up.
	summaryDelay = 10 * time.Second
	// maxNote is the API server's limit for the note of an Event, in bytes.
	maxNote = 1024
)

// The actions of Events. Who shows Events may take for one series those that agree in all but the note, so the action also
// tells apart what one evaluation can say of the same objects for the same reason.
const (
	actionJudge    = "Judge"
	actionClear    = "Clear"
	actionEvaluate = "Evaluate"
	actionSumUp    = "SumUp"
)

// findingKey is what makes a finding the same one in two evaluations.
type findingKey struct {
	reason      string
	subject     v1alpha1.Subject
	certificate v1alpha1.CertificatePurpose
}

func keyOf(f *v1alpha1.Finding) findingKey {
	return findingKey{reason: f.Reason, subject: f.Subject, certificate: f.Certificate}
}

func (k findingKey) compare(other findingKey) int {
	return cmp.Or(
		cmp.Compare(k.reason, other.reason), cmp.Compare(k.subject.Kind, other.subject.Kind),
		cmp.Compare(k.subject.Name, other.subject.Name), cmp.Compare(k.certificate, other.certificate),
	)
}

// memory is what the controller remembers about one policy between two evaluations.
type memory struct {
	uid types.UID
	// notBefore is when the policy may be evaluated again.
	notBefore time.Time
	// patience is how long the first evaluation waits until everything was looked at, and known that it need not.
	patience time.Time
	known    bool
	// written is the resourceVersion that the last write of the status gave the policy; empty before.
	written string
	// announced are the findings of the last verdict, and stalled whether there was none.
	announced map[findingKey]v1alpha1.Severity
	stalled   bool
	// unlisted is set when announced was read from a status without room for all findings: until the next evaluation,
	// findings that it does not list count as announced. So a restart may hide the Event of a finding that is new, where
	// it would otherwise repeat the Events of hundreds that are not.
	unlisted   bool
	budget     *budget
	suppressed suppression
}

// newMemory remembers what the policy's status says was found by an earlier run of the controller.
func newMemory(p *v1alpha1.CertificatePolicy) *memory {
	m := &memory{
		uid: p.UID, announced: map[findingKey]v1alpha1.Severity{}, unlisted: p.Status.OmittedFindings > 0,
		stalled: meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionStalled) != nil,
		budget:  newBudget(),
	}
	for i := range p.Status.Findings {
		if finding := &p.Status.Findings[i]; finding.Reason != v1alpha1.ReasonNotObserved {
			m.announced[keyOf(finding)] = finding.Severity
		}
	}
	return m
}

// isBehind says that the policy is older than what was written last: it came from a cache that is behind. A verdict compared with
// its status could be taken for written.
func (m *memory) isBehind(p *v1alpha1.CertificatePolicy) bool {
	if m.written == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(p.ResourceVersion, m.written)
	return err == nil && order < 0
}

// transition is a finding that was raised, or that is no more.
type transition struct {
	findingKey
	eventType, eventReason, action string
	// note is that of the Event about the policy, nodeNote that of the Event about the Node.
	note, nodeNote string
}

func raised(policyName string, f *v1alpha1.Finding) transition {
	eventType := corev1.EventTypeWarning
	if f.Severity == v1alpha1.SeverityInfo {
		eventType = corev1.EventTypeNormal
	}
	return transition{
		findingKey: keyOf(f), eventType: eventType, eventReason: f.Reason, action: actionJudge + string(f.Certificate),
		note:     fmt.Sprintf("%s %s: %s", f.Subject.Kind, f.Subject.Name, f.Message),
		nodeNote: fmt.Sprintf("CertificatePolicy %s: %s", policyName, f.Message),
	}
}

func recovered(policyName string, key findingKey, judged bool) transition {
	t := transition{
		findingKey: key, eventType: corev1.EventTypeNormal, eventReason: v1alpha1.ReasonRecovered,
		action: actionClear + key.reason + string(key.certificate),
	}
	what := key.reason
	if key.certificate != "" {
		what += " (" + string(key.certificate) + ")"
	}
	if judged {
		t.note = fmt.Sprintf("%s of %s %s is over.", what, key.subject.Kind, key.subject.Name)
		t.nodeNote = fmt.Sprintf("%s is over, says CertificatePolicy %s.", what, policyName)
	} else {
		t.note = fmt.Sprintf("%s of %s %s is no longer judged: it is gone, or the policy does not select it.",
			what, key.subject.Kind, key.subject.Name)
	}
	return t
}

// place is what findings are about. Of those at one place, a worse one takes the place of another.
type place struct {
	subject     v1alpha1.Subject
	certificate v1alpha1.CertificatePurpose
}

// unknowns are the places about which something is not known. A finding there that is no more may well go on unseen.
func unknowns(findings []v1alpha1.Finding) map[place]bool {
	unknown := map[place]bool{}
	for i := range findings {
		if findings[i].Severity == v1alpha1.SeverityUnknown {
			unknown[place{findings[i].Subject, findings[i].Certificate}] = true
		}
	}
	return unknown
}

// transitions compares the findings with those announced before, which they replace. A finding whose place is taken
// by one at least as bad, as RotationOverdue's is by Expired, is not over: the Event of the new one says what became of it.
// Neither is one of a node about which nothing is known any more: it stays announced until that is known.
func (m *memory) transitions(p *v1alpha1.CertificatePolicy, e *evidence, findings []v1alpha1.Finding) []transition {
	var changes []transition
	unknown := unknowns(findings)
	current := make(map[findingKey]v1alpha1.Severity, len(findings))
	worst := map[place]int{}
	for i := range findings {
		finding, key := &findings[i], keyOf(&findings[i])
		_, repeated := current[key]
		_, announced := m.announced[key]
		// Every new node is NotObserved for a moment: that is for the status to show, and would use up the budget when a
		// cluster is first looked at.
		if repeated || finding.Reason == v1alpha1.ReasonNotObserved {
			continue
		}
		current[key] = finding.Severity
		if announced || m.unlisted {
			continue
		}
		changes = append(changes, raised(p.Name, finding))
		at := place{key.subject, key.certificate}
		worst[at] = max(worst[at], badness[finding.Severity])
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.announced), findingKey.compare) {
		at := place{key.subject, key.certificate}
		if _, still := current[key]; still || worst[at] >= badness[m.announced[key]] {
			continue
		}
		if m.announced[key] == v1alpha1.SeverityViolation && (unknown[at] || unknown[place{subject: key.subject}]) {
			current[key] = m.announced[key]
			continue
		}
		judged := key.subject.Kind != v1alpha1.SubjectNode || e.selected(key.subject.Name) != nil
		changes = append(changes, recovered(p.Name, key, judged))
	}
	m.announced, m.unlisted = current, false
	return changes
}

// badness orders severities. 0 is no finding.
var badness = map[v1alpha1.Severity]int{v1alpha1.SeverityInfo: 1, v1alpha1.SeverityUnknown: 2, v1alpha1.SeverityViolation: 3}

// announce sends the Events of what changed since the last evaluation. It comes after the status write, so that what Events
// say can be read in the status.
func (r *reconciler) announce(
	p *v1alpha1.CertificatePolicy, m *memory, e *evidence, findings []v1alpha1.Finding,
) {
	switch stalled := e.invalid != nil; {
	case stalled && !m.stalled:
		m.stalled = true
		r.recorder.Eventf(p, nil, corev1.EventTypeWarning, v1alpha1.ReasonInvalidSpec, actionEvaluate,
			"%s", text.Phrase(e.invalid.Error(), maxNote))
	case !stalled && m.stalled:
		m.stalled = false
		r.recorder.Eventf(p, nil, corev1.EventTypeNormal, v1alpha1.ReasonEvaluated, actionEvaluate,
			"The policy can be evaluated again.")
	}
	// A spec that cannot be evaluated neither raises nor clears anything.
	if e.invalid == nil {
		for _, change := range m.transitions(p, e, findings) {
			r.announceOne(p, m, e, &change)
		}
	}
	m.budget.forget(e.input.Now)
	if due := m.suppressed.due(); !due.IsZero() && !e.input.Now.Before(due) {
		r.recorder.Eventf(p, nil, m.suppressed.eventType(), v1alpha1.ReasonFindingsSuppressed, actionSumUp,
			"%s", text.Phrase(m.suppressed.note(), maxNote))
		m.suppressed = suppression{}
	}
}

// announceOne sends the Event about the policy and, where a Node is the subject, the Event about the Node, which
// `kubectl describe node` shows; or neither, when the budget is used up.
func (r *reconciler) announceOne(p *v1alpha1.CertificatePolicy, m *memory, e *evidence, t *transition) {
	related, node := e.object(t.subject)
	n := 1
	if node != nil {
		n = 2
	}
	if !m.budget.allow(e.input.Now, t.subject, n) {
		m.suppressed.add(e.input.Now, t)
		return
	}
	r.recorder.Eventf(p, related, t.eventType, t.eventReason, t.action, "%s", text.Phrase(t.note, maxNote))
	if node != nil {
		r.recorder.Eventf(node, p, t.eventType, t.eventReason, t.action, "%s", text.Phrase(t.nodeNote, maxNote))
	}
}

// budget is how many Events of a policy may be written.
type budget struct {
	all *rate.Limiter
	// each is the share of every subject that used some of it not long ago.
	each map[v1alpha1.Subject]*rate.Limiter
}

func newBudget() *budget {
	return &budget{all: rate.NewLimiter(rate.Every(eventInterval), eventBurst), each: map[v1alpha1.Subject]*rate.Limiter{}}
}

// allow says whether there is room for so many Events that tell of one transition of the subject.
func (b *budget) allow(now time.Time, subject v1alpha1.Subject, events int) bool {
	share := b.each[subject]
	if share == nil {
		share = rate.NewLimiter(rate.Every(subjectInterval), subjectBurst)
		b.each[subject] = share
	}
	return share.AllowN(now, 1) && b.all.AllowN(now, events)
}

// forget drops the subjects whose share is whole again.
func (b *budget) forget(now time.Time) {
	maps.DeleteFunc(b.each, func(_ v1alpha1.Subject, share *rate.Limiter) bool { return share.TokensAt(now) >= subjectBurst })
}

// suppression counts the transitions for which the budget had no Event, by the finding's reason.
type suppression struct {
	since             time.Time
	raised, recovered map[string]int
	warning           bool
}

func (s *suppression) add(now time.Time, t *transition) {
	if s.since.IsZero() {
		*s = suppression{since: now, raised: map[string]int{}, recovered: map[string]int{}}
	}
	if t.eventReason == v1alpha1.ReasonRecovered {
		s.recovered[t.reason]++
		return
	}
	s.raised[t.reason]++
	s.warning = s.warning || t.eventType == corev1.EventTypeWarning
}

// due is when the summary is to be sent; zero when there is nothing to sum up.
func (s *suppression) due() time.Time {
	if s.since.IsZero() {
		return time.Time{}
	}
	return s.since.Add(summaryDelay)
}

func (s *suppression) eventType() string {
	if s.warning {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

func (s *suppression) note() string {
	var parts []string
	for _, part := range []struct {
		what   string
		counts map[string]int
	}{{"raised", s.raised}, {"over", s.recovered}} {
		total, reasons := 0, []string(nil)
		for _, reason := range slices.Sorted(maps.Keys(part.counts)) {
			total += part.counts[reason]
			reasons = append(reasons, fmt.Sprintf("%d %s", part.counts[reason], reason))
		}
		if total > 0 {
			parts = append(parts, fmt.Sprintf("%d findings %s (%s)", total, part.what, strings.Join(reasons, ", ")))
		}
	}
	return "Without an Event of their own, because too many changed at once: " + strings.Join(parts, "; ") +
		". See the policy's status, and the metric notafter_findings."
}
