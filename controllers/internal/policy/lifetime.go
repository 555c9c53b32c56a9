// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/text"
)

// age says where in its life a certificate is.
type age string

const (
	ageNotYetValid age = "NotYetValid"
	ageCurrent     age = "Current"
	ageDue         age = "RotationDue"
	ageOverdue     age = "RotationOverdue"
	ageExpired     age = "Expired"
)

// ages are the instants at which a certificate gets older. That of a later age holds if they are not in order.
type ages struct {
	valid, due, overdue, expired time.Time
}

// agesOf works the instants out. A certificate is valid through its notAfter (RFC 5280, 4.1.2.5) and expired at any
// later instant, as crypto/x509 has it. One that is overdue no earlier than it expires is never overdue. Of one whose notBefore
// is not known, the zero time, no percentage of the lifetime can be told.
func (x *expiry) agesOf(notBefore, notAfter time.Time) ages {
	life := pki.Lifetime{NotBefore: notBefore, NotAfter: notAfter}
	a := ages{valid: life.NotBefore, due: life.At(x.warnPercent), expired: notAfter.Add(time.Nanosecond)}
	a.overdue = earlier(life.At(x.overduePercent), notAfter.Add(-x.minimumRemaining))
	if notBefore.IsZero() {
		a.due, a.overdue = a.expired, notAfter.Add(-x.minimumRemaining)
	}
	if !a.overdue.Before(notAfter) {
		a.overdue = a.expired
	}
	return a
}

// age tells the certificate's age now. A certificate that is not valid yet is nothing else, unless it expired before.
func (e *evaluation) age(a ages) age {
	switch {
	case e.reached(a.expired):
		return ageExpired
	case !e.reached(a.valid):
		return ageNotYetValid
	case e.reached(a.overdue):
		return ageOverdue
	case e.reached(a.due):
		return ageDue
	}
	return ageCurrent
}

// checkServingLifetime judges the age of the serving certificate in use, which the latest handshake showed. When the
// kubelet could not be asked, the certificate that it was last seen with is judged instead, unless another has been
// issued since; it still counts as unknown while nothing is wrong with it. A kubelet that answers that it has no
// certificate has none to be judged.
func checkServingLifetime(e *evaluation, f *facts) {
	switch {
	case f.withoutCertificate():
	case f.served == nil, !f.presented() && f.superseded():
		e.certificates.unknown++
	default:
		now := e.judgeAge(f, f.served)
		if now == ageCurrent && !f.presented() {
			e.certificates.unknown++
			return
		}
		e.certificates.count(now)
	}
}

// superseded says that a certificate was issued that outlives the one last seen in a handshake.
func (f *facts) superseded() bool {
	return f.issued != nil && f.issued.SHA256 != f.served.SHA256 && f.issued.NotAfter.After(f.served.NotAfter.Time)
}

// checkClientLifetime judges the age of the client certificate that the kubelet says it uses, or else of the newest that is
// known to have been issued to it.
func checkClientLifetime(e *evaluation, f *facts) {
	certificate := e.clientInUse(f)
	switch {
	case certificate == nil:
		e.judgeUnknownClient(f)
	case e.outlived(f, certificate):
		e.certificates.unknown++
		e.addOutlived(f, certificate)
	case e.perhapsOverdue(certificate):
		e.certificates.unknown++
		e.certificates.expiring(f.node.Name, certificate.Purpose, certificate.NotAfter.Time)
		e.addPerhapsOverdue(f, certificate)
	default:
		e.certificates.count(e.judgeAge(f, certificate))
	}
}

// clockSkew is how far the clock of a node may be ahead of that of the API server.
const clockSkew = 10 * time.Minute

// outlived says that the kubelet lives although the newest known client certificate has expired: the Node is ready, or it became
// otherwise only after the kubelet had reported once more, as when the machine is restarted. A kubelet that has no valid
// certificate cannot do that, so it uses another, of which nobody knows: Kubernetes deletes a signing request an hour
// after it was issued, and notafter was not running then. It takes Kubernetes about a minute to see that a kubelet is silent;
// for so long a certificate that did expire is not known, either.
func (e *evaluation) outlived(f *facts, certificate *v1alpha1.CertificateStatus) bool {
	lives := f.node.Ready == corev1.ConditionTrue || f.node.heardAfter(certificate.NotAfter.Time)
	return lives && e.reached(certificate.NotAfter.Add(time.Nanosecond))
}

func (e *evaluation) addOutlived(f *facts, certificate *v1alpha1.CertificateStatus) {
	notAfter := certificate.NotAfter.Time
	lives := "the Node is ready"
	if f.node.Ready != corev1.ConditionTrue {
		lives = "the kubelet has reported to the API server since"
	}
	e.addTo(lifetimes, v1alpha1.Finding{
		Reason: v1alpha1.ReasonNotObserved, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletClient,
		Since: timestamp(notAfter),
		Message: fmt.Sprintf("The newest known client certificate of the kubelet%s expired at %s, and yet %s: "+
			"it was renewed while notafter was not running, and when the new one expires is not known. It will be "+
			"known at the next renewal, or once notafter may read the kubelet's metrics. To forget the old one, delete the "+
			"NodeCertificates of the node.", numbered(certificate), instant(notAfter), lives),
	})
}

// kubeletAges are the instants at which a kubelet's certificate gets older. Where its lifetime is a guess, so is the instant at
// which it is due, which only informs. Nothing worse follows from a guess: the signer may have been set to issue certificates
// for longer, or for less long, since.
func (e *evaluation) kubeletAges(certificate *v1alpha1.CertificateStatus) ages {
	a := e.rules.nodes.agesOf(certificate.NotBefore.Time, certificate.NotAfter.Time)
	if lifetimeGuessed(certificate) {
		a.valid, a.overdue = time.Time{}, e.rules.nodes.agesOf(time.Time{}, certificate.NotAfter.Time).overdue
	}
	return a
}

// perhapsOverdue says that a certificate would be overdue, if the guess at its lifetime is right, and is not by anything else.
func (e *evaluation) perhapsOverdue(certificate *v1alpha1.CertificateStatus) bool {
	return lifetimeGuessed(certificate) && !e.reached(e.kubeletAges(certificate).overdue) &&
		e.reached(e.rules.nodes.overdueAt(certificate))
}

// overdueAt is the instant at which so much of a certificate's life is over that it is overdue.
func (x *expiry) overdueAt(certificate *v1alpha1.CertificateStatus) time.Time {
	life := pki.Lifetime{NotBefore: certificate.NotBefore.Time, NotAfter: certificate.NotAfter.Time}
	return life.At(x.overduePercent)
}

func (e *evaluation) addPerhapsOverdue(f *facts, certificate *v1alpha1.CertificateStatus) {
	since := e.rules.nodes.overdueAt(certificate)
	e.addTo(lifetimes, v1alpha1.Finding{
		Reason: v1alpha1.ReasonNotObserved, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletClient,
		Since: timestamp(since), NotAfter: timestamp(certificate.NotAfter.Time),
		Message: fmt.Sprintf("When the client certificate that the kubelet says it uses was issued is not known, so that it may be "+
			"overdue. If it lives for as long as the newest known one of the same signer, %s, it passed %d %% of that at %s and "+
			"was not renewed; it expires at %s. Check the kubelet's signing requests (kubectl get csr) and its log, unless "+
			"certificates used to live for less long. At its next renewal it will be known.",
			e.learntLifetimes().newest.Round(time.Minute), e.rules.nodes.overduePercent, instant(since),
			instant(certificate.NotAfter.Time)),
	})
}

// judgeAge adds at most one finding, the worst, about a certificate's age.
func (e *evaluation) judgeAge(f *facts, certificate *v1alpha1.CertificateStatus) age {
	a := e.kubeletAges(certificate)
	now := e.age(a)
	switch now {
	case ageCurrent, ageDue, ageOverdue:
		e.certificates.expiring(f.node.Name, certificate.Purpose, certificate.NotAfter.Time)
	case ageExpired, ageNotYetValid:
	}
	if now != ageCurrent {
		e.addAge(f, certificate, a, now)
	}
	return now
}

func (e *evaluation) addAge(f *facts, certificate *v1alpha1.CertificateStatus, a ages, now age) {
	finding := v1alpha1.Finding{
		Subject: f.subject(), Certificate: certificate.Purpose, NotAfter: timestamp(certificate.NotAfter.Time),
	}
	var said string
	switch now {
	case ageExpired:
		finding.Reason, finding.Since = v1alpha1.ReasonExpired, timestamp(certificate.NotAfter.Time)
		said = fmt.Sprintf("expired at %s. %s%s", instant(certificate.NotAfter.Time), f.unstored(certificate),
			expiredEffect(certificate.Purpose))
	case ageNotYetValid:
		finding.Reason = v1alpha1.ReasonNotYetValid
		said = fmt.Sprintf("is not valid before %s, so whoever verifies it refuses it until then. A clock is wrong: "+
			"check time synchronisation on the node, on the control plane and where notafter runs.",
			instant(certificate.NotBefore.Time))
	case ageOverdue:
		finding.Reason, finding.Since = v1alpha1.ReasonRotationOverdue, timestamp(later(a.overdue, a.valid))
		said = e.rules.nodes.overdue(a, certificate.NotAfter.Time, overdueEffect(certificate.Purpose))
	case ageDue:
		finding.Reason, finding.Since = v1alpha1.ReasonRotationDue, timestamp(later(a.due, a.valid))
		said = e.rules.nodes.due(a, certificate.NotAfter.Time, "A kubelet renews at a random point between 70 and 90 %, so "+
			"nothing needs to be done yet.")
	case ageCurrent:
	}
	finding.Message = f.title(certificate) + numbered(certificate) + " " + said + e.guessed(certificate, now)
	e.add(finding)
}

// unstored says, in a sentence of a message, that another client certificate than the one that the kubelet said to use was issued
// to it; empty if none was.
func (f *facts) unstored(certificate *v1alpha1.CertificateStatus) string {
	if certificate.Source != "" || f.client == nil || !f.client.NotAfter.After(certificate.NotAfter.Time) {
		return ""
	}
	return fmt.Sprintf("The kubelet has been silent since, although another one%s was issued to it, valid until %s: look in its "+
		"log for why it did not store that. ", numbered(f.client), instant(f.client.NotAfter.Time))
}

// numbered is the certificate's serial number, to follow its mention; empty when it is not known.
func numbered(certificate *v1alpha1.CertificateStatus) string {
	if certificate.SerialNumber == "" {
		return ""
	}
	return " (serial number " + text.Phrase(certificate.SerialNumber, maxWord) + ")"
}

// due says that the certificate is due, who renews it, and what comes next.
func (x *expiry) due(a ages, notAfter time.Time, renewal string) string {
	what := "expires"
	if a.overdue.Before(a.expired) {
		what = fmt.Sprintf("becomes %s at %s and expires", v1alpha1.ReasonRotationOverdue, instant(a.overdue))
	}
	return fmt.Sprintf("passed %d %% of its lifetime at %s. %s Unless it is renewed, it %s at %s.", x.warnPercent,
		instant(a.due), renewal, what, instant(notAfter))
}

// overdue says why the certificate is overdue. Which of the limits came first does not change, so neither does the text.
func (x *expiry) overdue(a ages, notAfter time.Time, effect string) string {
	if !notAfter.Add(-x.minimumRemaining).After(a.valid) {
		return fmt.Sprintf("lives from %s to %s, which is no longer than %s.minimumRemaining (%s), so that it is overdue "+
			"from the start. Set %s.minimumRemaining to less than certificates live for, or to 0s where they live for less "+
			"than a few days.", instant(a.valid), instant(notAfter), x.field, x.minimumRemaining, x.field)
	}
	why := fmt.Sprintf("passed %d %% of its lifetime at %s", x.overduePercent, instant(a.overdue))
	if a.overdue.Equal(notAfter.Add(-x.minimumRemaining)) {
		why = fmt.Sprintf("has had less than %s to live since %s", x.minimumRemaining, instant(a.overdue))
	}
	return fmt.Sprintf("%s and was not renewed; it expires at %s. %s", why, instant(notAfter), effect)
}

// title begins a sentence about a certificate with how it is known.
func (f *facts) title(certificate *v1alpha1.CertificateStatus) string {
	switch {
	case certificate.Purpose == v1alpha1.PurposeKubeletClient && certificate.Source == "":
		return "The client certificate that the kubelet says it uses"
	case certificate.Purpose == v1alpha1.PurposeKubeletClient:
		return "The newest known client certificate of the kubelet"
	case !f.presented():
		return "The serving certificate that the kubelet was last seen with"
	}
	return "The kubelet's serving certificate"
}

func expiredEffect(purpose v1alpha1.CertificatePurpose) string {
	if purpose == v1alpha1.PurposeKubeletClient {
		return "Without a valid one the kubelet cannot reach the API server: the Node turns NotReady and its Pods are " +
			"no longer managed. It bootstraps again by itself if its bootstrap token still works; otherwise renew the " +
			"token, or reimage or recreate the node."
	}
	return "kubectl logs, kubectl exec and metrics scrapes of this node fail with clients that verify certificates, while " +
		"the Node stays Ready. Fix what renews it: the kubelet's signing requests (kubectl get csr) and their approver; " +
		"a self-signed or externally managed certificate must be replaced and the kubelet restarted."
}

func overdueEffect(purpose v1alpha1.CertificatePurpose) string {
	if purpose == v1alpha1.PurposeKubeletClient {
		return "Then the kubelet can no longer reach the API server and the Node turns NotReady. Check its signing " +
			"requests (kubectl get csr), their approver, and the kubelet's log."
	}
	return "Then kubectl logs, kubectl exec and metrics scrapes of this node fail, while the Node stays Ready. Check its " +
		"signing requests (kubectl get csr), their approver, and the kubelet's log; a self-signed or externally managed " +
		"certificate must be replaced and the kubelet restarted."
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
