// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// askedInVain is for how long a kubelet must have refused, or failed, to say how it is before that is believed. One that
	// does is asked again after 15 seconds and after 30 more, and an API server that was just started refuses everybody.
	askedInVain = time.Minute
	// fineGrained is the first version of kubelets that show /configz to who may get nodes/configz
	// (KubeletFineGrainedAuthz in Kubernetes). Older ones want nodes/proxy for it, which nobody shall have.
	fineGrained = "1.33"

	// getMetrics and getConfigz are the permissions to ask a kubelet, and getBoth what there is no account for when nobody asks.
	getMetrics = "get nodes/metrics"
	getConfigz = "get nodes/configz"
	getBoth    = "get nodes/metrics and nodes/configz"
)

// unnamed is what is missing when nobody said which permission.
var unnamed = []string{getMetrics, getConfigz}

// asking is what came of asking a kubelet about itself.
type asking string

const (
	// askingDone: it said all that is judged.
	askingDone asking = "Done"
	// askingPending: it has not said it yet, or not this time.
	askingPending asking = "Pending"
	// askingRefused: a permission is missing.
	askingRefused asking = "Refused"
	// askingFailed: it does not answer, though it verified.
	askingFailed asking = "Failed"
	// askingNotVerified: it was not asked, because no handshake shows who it is. Whatever requires that reports it.
	askingNotVerified asking = "NotVerified"
	// askingNobody: nobody asks any kubelet.
	askingNobody asking = "Nobody"
)

// asked says what came of asking the kubelet.
func (e *evaluation) asked(f *facts) asking {
	switch {
	case f.self == nil:
		return askingPending
	case f.self.Outcome == v1alpha1.KubeletRead, f.toldExpiry() && f.coarse():
		return askingDone
	case f.self.Outcome == v1alpha1.KubeletNotAsked:
		return askingNobody
	case !f.verified() || f.self.Outcome == v1alpha1.KubeletUnverified && !e.servesValid(f):
		return askingNotVerified
	case !e.reached(f.askedSince().Add(askedInVain)):
		return askingPending
	case f.self.Outcome == v1alpha1.KubeletAccessDenied:
		return askingRefused
	}
	return askingFailed
}

// verified says that the latest handshake showed a certificate that the token may be sent to.
func (f *facts) verified() bool {
	return f.presented() && f.serving.Mode == v1alpha1.ServingModeClusterSigned && f.serving.NameMatch == v1alpha1.NameMatches
}

// servesValid says that the certificate that the kubelet serves is valid now.
func (e *evaluation) servesValid(f *facts) bool {
	return f.served == nil || !e.reached(f.served.NotAfter.Add(time.Nanosecond)) && e.reached(f.served.NotBefore.Time)
}

// askedSince is since when asking the kubelet has come to the same: not before it could be asked, for which the handshake must
// have verified, by a certificate that it may have got only then.
func (f *facts) askedSince() time.Time {
	since := later(f.self.Since.Time, f.serving.Since.Time)
	if f.self.Outcome == v1alpha1.KubeletUnverified && f.served != nil {
		since = later(since, f.served.NotBefore.Add(backdated))
	}
	return since
}

// toldSettings says that the kubelet's settings are known, from now or earlier.
func (f *facts) toldSettings() bool {
	return f.self != nil && f.self.ClientRotation != "" && f.self.ServingBootstrap != ""
}

// coarse says that the kubelet is too old for the permission to read its configuration. What is judged of that, its metrics show.
func (f *facts) coarse() bool {
	return compareKubelet(f.node.KubeletVersion, fineGrained) == tooOld
}

// toldExpiry says that the kubelet told all that it could about its client certificate's expiry: only its configuration, if
// anything, could not be read.
func (f *facts) toldExpiry() bool {
	return f.self.Outcome == v1alpha1.KubeletRead ||
		f.self.Outcome == v1alpha1.KubeletAccessDenied && slices.Equal(f.self.MissingPermissions, []string{getConfigz})
}

// openWithout are the concerns that stay open while a kubelet says nothing of itself: whether it renews the certificates that
// the policy requires it to renew, and whether it fails to.
func (r *rules) openWithout() concern {
	var open concern
	if r.clientRotation == v1alpha1.ClientRotationRequired {
		open |= bootstrap
	}
	if r.rotation == v1alpha1.ServingRotationRequired {
		open |= bootstrap | serving
	}
	return open
}

// checkAsked reports, where rotation is required, a kubelet that could not be asked about itself. checkClientLifetime does so
// where nothing is known of a client certificate that is required.
//
// Without a verified serving certificate a kubelet is never asked. Where the policy requires one, that is a violation. Where it
// does not, it accepts that kubelets are not asked: then rotation is judged by what comes of it, which is a certificate that is
// renewed before it is overdue.
func checkAsked(e *evaluation, f *facts) {
	open := e.rules.openWithout()
	if f.serving == nil || open == 0 {
		return // a node that was not observed at all is reported as that
	}
	outcome := e.asked(f)
	if outcome == askingDone || outcome == askingNotVerified || e.lacksClient(f) {
		return
	}
	switch outcome {
	case askingPending:
		if f.verified() && !f.toldSettings() {
			e.addTo(open, v1alpha1.Finding{
				Reason: v1alpha1.ReasonNotObserved, Subject: f.subject(),
				Message: "The kubelet has not said yet whether it renews its certificates. This passes by itself within moments. If it " +
					"stays, check the manager's log for this node.",
			})
		}
	case askingFailed:
		e.addTo(open, v1alpha1.Finding{
			Reason: v1alpha1.ReasonProbeFailed, Subject: f.subject(), Since: timestamp(f.self.Since.Time),
			Message: fmt.Sprintf("The kubelet could not be asked about itself, though its serving certificate verifies: %s. Whether it "+
				"renews its certificates, and whether it fails to, is not known. Check the kubelet's log, and what answers on its port.",
				text.Phrase(f.self.Message, 2*maxPhrase)),
		})
	case askingRefused:
		e.withholdRefused(f, open)
	case askingNobody:
		e.withhold(f, getBoth, 0)
	case askingDone, askingNotVerified:
	}
}

// lacksClient says that nothing is known of a client certificate that is required.
func (e *evaluation) lacksClient(f *facts) bool {
	return e.rules.clientRotation == v1alpha1.ClientRotationRequired && e.clientInUse(f) == nil
}

// judgeUnknownClient reports, where client certificate rotation is required, a kubelet of whose client certificate nothing is
// known.
func (e *evaluation) judgeUnknownClient(f *facts) {
	if e.rules.clientRotation != v1alpha1.ClientRotationRequired || f.serving == nil {
		return // a node that was not observed at all is reported as that
	}
	e.certificates.unknown++
	open := lifetimes | e.rules.openWithout()
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonProbeFailed, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletClient,
	}
	const unknown = "When the kubelet's client certificate expires is not known: no signing request for one was seen, and "
	switch outcome := e.asked(f); {
	case outcome == askingPending:
		finding.Reason = v1alpha1.ReasonNotObserved
		finding.Message = unknown + "the kubelet has not said it yet. This passes by itself within moments. If it stays, " +
			"check the manager's log for this node."
	case f.toldExpiry() && f.self.ClientRotation == v1alpha1.KubeletSettingDisabled:
		// That is reported, and a kubelet that does not renew its certificate says nothing about it.
		e.withholdRefused(f, e.rules.openWithout())
		return
	case f.toldExpiry():
		e.withholdRefused(f, e.rules.openWithout())
		open = lifetimes
		finding.Message = unknown + "the kubelet says nothing of its own, as if it had none that is valid. Check how it " +
			"authenticates to the API server (its kubeconfig). If it is not by a certificate that it requests, set " +
			"spec.nodes.clientCertificate.rotation to Ignored."
	case outcome == askingRefused:
		e.withholdRefused(f, open)
		return
	case outcome == askingNobody:
		e.withhold(f, getBoth, open)
		return
	default:
		finding.Message = fmt.Sprintf("%sthe kubelet could not be asked: %s. Repair that, or, where kubelets have no client "+
			"certificate or cannot be asked, set spec.nodes.clientCertificate.rotation to Ignored.", unknown,
			text.Phrase(f.self.Message, 2*maxPhrase))
	}
	if f.self != nil {
		finding.Since = timestamp(f.self.Since.Time)
	}
	e.addTo(open, finding)
}

// withheld is a permission for want of which kubelets could not be asked. It is reported once, however many refuse.
type withheld struct {
	permission string
	// concerns are those that it leaves open; none if nobody wants it to be asked.
	concerns concern
	// node is the first by name that stays unknown, message what came of asking that one, and since the first refusal.
	node, message string
	since         time.Time
}

// withholdRefused notes the permissions that are missing to ask the kubelet, and which of the open concerns each leaves open.
func (e *evaluation) withholdRefused(f *facts, open concern) {
	if e.asked(f) != askingRefused {
		return
	}
	missing := f.self.MissingPermissions
	if len(missing) == 0 {
		missing = unnamed
	}
	for _, permission := range missing {
		concerns := open
		switch {
		case permission == getConfigz && f.coarse() && len(missing) > 1:
			continue // the other one is enough
		case permission == getConfigz:
			concerns = e.rules.settings()
		case permission == getMetrics && f.toldSettings() && !f.coarse():
			concerns &^= serving
		}
		e.withhold(f, permission, concerns)
	}
}

// settings are the concerns that a kubelet's settings speak to.
func (r *rules) settings() concern {
	var settings concern
	if r.clientRotation == v1alpha1.ClientRotationRequired {
		settings |= bootstrap
	}
	if r.rotation == v1alpha1.ServingRotationRequired {
		settings |= serving
	}
	return settings
}

// withhold notes that the permission is missing, and has the node counted as what is not known for want of it.
func (e *evaluation) withhold(f *facts, permission string, concerns concern) {
	if concerns != 0 {
		e.elsewhere = append(e.elsewhere, reference{concerns, unknown, rankOf[v1alpha1.ReasonAccessDenied]})
	}
	i := slices.IndexFunc(e.withheld, func(w withheld) bool { return w.permission == permission })
	if i < 0 {
		e.withheld = append(e.withheld, withheld{permission, concerns, f.node.Name, f.self.Message, f.self.Since.Time})
		return
	}
	w := &e.withheld[i]
	w.concerns |= concerns
	w.since = earlier(w.since, f.self.Since.Time)
	if f.node.Name < w.node {
		w.node, w.message = f.node.Name, f.self.Message
	}
}

// judgeWithheld reports the permissions that are missing to ask kubelets, each once.
func (e *evaluation) judgeWithheld() {
	slices.SortFunc(e.withheld, func(a, b withheld) int { return cmp.Compare(a.permission, b.permission) })
	for i := range e.withheld {
		w := &e.withheld[i]
		finding := v1alpha1.Finding{
			Reason: v1alpha1.ReasonAccessDenied, Since: timestamp(w.since),
			Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: text.Phrase(w.permission, maxSubject)},
			Message: fmt.Sprintf("notafter may not %s, which it needs to ask kubelets whether they renew their certificates and "+
				"whether they fail to. The first by name of the nodes concerned is %s: %s. Grant the permission, as the roles in "+
				"config/rbac do, or set the rotation that it is needed for to Ignored. Each kubelet is asked again within "+
				"spec.nodes.probe.interval.", text.Phrase(w.permission, maxPhrase), text.Phrase(w.node, maxWord),
				text.Phrase(w.message, 2*maxPhrase)),
		}
		concerns := w.concerns
		if w.permission == getBoth {
			finding.Message = fmt.Sprintf("Kubelets are not asked whether they renew their certificates: %s. So that is judged only by "+
				"what comes of it: a certificate that is not renewed in time is %s.", text.Phrase(w.message, 2*maxPhrase),
				v1alpha1.ReasonRotationOverdue)
		}
		if concerns == 0 {
			finding.Severity, concerns = v1alpha1.SeverityInfo, e.rules.openWithout()
		}
		first := len(e.found)
		e.addTo(concerns, finding)
		e.tally.addOther(sourceGroup, e.found[first:])
	}
}
