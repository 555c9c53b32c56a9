// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// checkTrust reports a Cluster CA that cannot be read, once and not on every node, if the policy judges who signed the
// serving certificates, or the Cluster CA itself, or trust bundles that could not be compared with it.
func (e *evaluation) checkTrust(known *ControlPlane) {
	var concerns concern
	purpose := v1alpha1.PurposeKubeletServing
	if e.rules.rotation != v1alpha1.ServingRotationIgnored {
		concerns |= serving
	} else {
		purpose = v1alpha1.PurposeClusterCA
	}
	if e.rules.watched.clusterCA {
		concerns |= lifetimes | controlPlane
	}
	if e.rules.watched.apiServer {
		concerns |= controlPlane
	}
	if e.uncompared(known) {
		concerns |= trustBundles
	}
	if e.trustError == "" || concerns == 0 {
		return
	}
	e.addTo(concerns, v1alpha1.Finding{
		Reason:      v1alpha1.ReasonTrustBundleUnavailable,
		Subject:     v1alpha1.Subject{Kind: v1alpha1.SubjectConfigMap, Name: text.Phrase(e.trustSource, maxQualified)},
		Certificate: purpose,
		Message: fmt.Sprintf("The Cluster CA could not be read: %s. Without it nothing tells which certificates, and "+
			"which trust bundles, are of the cluster. Restore the ConfigMap, or let the manager's flags name the one that holds the "+
			"CA of the kubelets' serving certificates.", text.Phrase(e.trustError, 2*maxPhrase)),
	})
	e.tally.addOther(sourceGroup, e.found)
}

// uncompared says that watched trust bundles could not be compared with the Cluster CA, for want of it.
func (e *evaluation) uncompared(known *ControlPlane) bool {
	return known != nil && slices.ContainsFunc(known.Unreadable, func(u Unreadable) bool {
		return u.Source == e.trustSource && slices.Contains(ofTrustBundles, u.Purpose) && e.rules.watched.purpose(u.Purpose)
	})
}

// unverified says that the kubelet presented a certificate, and that nobody could tell who signed it.
func (f *facts) unverified() bool {
	return f.presented() && f.serving.Mode == v1alpha1.ServingModeUnknown
}

// checkObserved reports a node that nobody has looked at yet.
func checkObserved(e *evaluation, f *facts) {
	if f.serving != nil {
		return
	}
	what := "The kubelet has not been asked for its serving certificate yet"
	if f.node.Observed == nil {
		what = "The node has not been observed yet"
	}
	e.addNotObserved(f, what+". This passes by itself within moments. If it stays, check the manager's log for this node "+
		"and that kubectl get nodecertificates shows it.")
}

func (e *evaluation) addNotObserved(f *facts, message string) {
	e.add(v1alpha1.Finding{Reason: v1alpha1.ReasonNotObserved, Subject: f.subject(), Message: message})
}

// checkProbe reports a kubelet that could not be asked for its serving certificate, or whose certificate could not be
// verified though the Cluster CA can be read by now.
func checkProbe(e *evaluation, f *facts) {
	if f.serving == nil || f.withoutCertificate() {
		return
	}
	var what, fix string
	switch {
	case f.presented() && (!f.unverified() || e.rules.rotation == v1alpha1.ServingRotationIgnored):
		return
	case f.presented() && e.trustError != "":
		// checkTrust has said it.
		e.elsewhere = append(e.elsewhere, reference{serving, unknown, rankOf[v1alpha1.ReasonTrustBundleUnavailable]})
		return
	case f.presented():
		what = "The serving certificate of the kubelet has not been verified against the Cluster CA"
		fix = "If the message names a CA, that one has to be replaced; otherwise the next probe tells."
	case f.serving.Outcome == v1alpha1.ProbeNoAddress:
		what = "The kubelet could not be asked for its serving certificate: its Node has no usable IP address or kubelet port"
		fix = "Check the cloud's node controller, or the kubelet's --node-ip."
	default:
		what = "The kubelet could not be asked for its serving certificate"
		fix = "Check that the node runs, and that network policies and firewalls let the notafter manager reach the " +
			"kubelet's port."
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonProbeFailed, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Since: timestamp(f.serving.Since.Time),
		Message: fmt.Sprintf("%s%s. Whether kubectl logs and kubectl exec work on this node is not known. %s",
			what, f.probed(), fix),
	})
}

// probed is the address and the error of the latest handshake, as the end of a sentence.
func (f *facts) probed() string {
	var said string
	if f.serving.Address != "" {
		said = " at " + text.Phrase(f.serving.Address, maxWord)
	}
	if f.serving.Message != "" {
		said += ": " + text.Phrase(f.serving.Message, maxPhrase)
	}
	return said
}
