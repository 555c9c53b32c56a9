// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// withoutServing is what a node without a valid serving certificate costs.
const withoutServing = "kubectl logs, kubectl exec and metrics scrapes of this node fail, while the Node stays Ready"

// checkServingCertificate judges the certificate that the latest handshake showed. That there is one is judged whatever
// the policy expects of rotation; who signed it and which address it names, only where rotation is required.
//
// A new node is given the time that its signing request may take: until then, a kubelet without a certificate is not a
// violation, even when one has been issued that it is about to serve. It is not compliant either, so it is reported as
// NotObserved: how it turns out is not known.
func checkServingCertificate(e *evaluation, f *facts) {
	switch {
	case f.serving == nil:
	case f.withoutCertificate():
		if !e.old(f) {
			e.addNotObserved(f, fmt.Sprintf("The kubelet of this new node has no serving certificate yet. If it has none at "+
				"%s, it violates the policy as ServingCertificateMissing.", instant(e.grown(f))))
			return
		}
		e.addServingMissing(f)
	case f.presented() && e.rules.rotation == v1alpha1.ServingRotationRequired:
		e.judgeSigner(f)
		e.judgeNames(f)
	}
}

// grown is the instant from which a node is no longer new.
func (e *evaluation) grown(f *facts) time.Time {
	return f.node.Created.Add(e.rules.pendingTimeout)
}

// old says that the node has existed for long enough to have its certificates.
func (e *evaluation) old(f *facts) bool {
	return e.reached(e.grown(f))
}

func (e *evaluation) addServingMissing(f *facts) {
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingCertificateMissing, Subject: f.subject(),
		Certificate: v1alpha1.PurposeKubeletServing, Since: timestamp(f.serving.Since.Time),
	}
	var known string
	if last := f.lastServing(); last != nil {
		finding.NotAfter = timestamp(last.NotAfter.Time)
		known = fmt.Sprintf(" (notAfter of the last one known: %s)", instant(last.NotAfter.Time))
	}
	finding.Message = fmt.Sprintf("%s has no valid serving certificate%s and answers every TLS handshake with the alert "+
		"internal_error: %s. %s", f.kubelet(), known, withoutServing, f.missingFix())
	e.add(finding)
}

// lastServing is the serving certificate that expires last of those known; nil when none is.
func (f *facts) lastServing() *v1alpha1.CertificateStatus {
	if f.served == nil || f.issued != nil && f.issued.NotAfter.After(f.served.NotAfter.Time) {
		return f.issued
	}
	return f.served
}

// kubelet begins a sentence about the kubelet with where it was asked.
func (f *facts) kubelet() string {
	if f.serving.Address == "" {
		return "The kubelet"
	}
	return "The kubelet at " + text.Phrase(f.serving.Address, maxWord)
}

// missingFix says how the kubelet comes by a serving certificate, given how far its signing request has come.
func (f *facts) missingFix() string {
	request := f.servingRequest
	if request == nil {
		return "No signing request of it is known: check serverTLSBootstrap, tlsCertFile and the kubelet's log."
	}
	name := requestName(request.Name)
	switch request.Stage {
	case v1alpha1.StagePending:
		waits := fmt.Sprintf("Its signing request %s waits for approval: repair the approver of kubelet serving certificates", name)
		command, odd := approveByHand(request.Name)
		if odd != "" {
			return waits + ". " + odd
		}
		return waits + ", or run " + command + "."
	case v1alpha1.StageApproved:
		return fmt.Sprintf("Its signing request %s is approved and not signed: check the signer in kube-controller-manager.",
			name)
	case v1alpha1.StageDenied, v1alpha1.StageFailed:
		return fmt.Sprintf("Its signing request %s was refused: correct what the refusal names; the kubelet asks again.", name)
	case v1alpha1.StageIssued, v1alpha1.StageDeleted:
	}
	return fmt.Sprintf("Its newest signing request is %s, stage %s: check the kubelet's log for why it does not ask again.",
		name, request.Stage)
}

// judgeSigner judges who signed the served certificate.
func (e *evaluation) judgeSigner(f *facts) {
	mode := f.serving.Mode
	if mode != v1alpha1.ServingModeSelfSigned && mode != v1alpha1.ServingModeExternallyManaged {
		return
	}
	finding := v1alpha1.Finding{
		Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing, Since: timestamp(f.serving.Since.Time),
	}
	var issuer string
	if f.served != nil {
		finding.NotAfter = timestamp(f.served.NotAfter.Time)
	}
	if f.served != nil && f.served.Issuer != "" {
		issuer = fmt.Sprintf(", issuer %q", text.Phrase(f.served.Issuer, maxPhrase/2))
	}
	if mode == v1alpha1.ServingModeSelfSigned {
		finding.Reason = v1alpha1.ReasonServingCertificateSelfSigned
		finding.Message = fmt.Sprintf("%s serves a certificate that it signed itself%s. Clients that verify it "+
			"refuse it, others cannot tell the kubelet from an impostor, and nothing renews it. Enable serving certificate "+
			"rotation: serverTLSBootstrap: true in the kubelet's configuration; on AKS, node pools get it with their first "+
			"upgrade to Kubernetes 1.27 or newer.", f.kubelet(), issuer)
		e.add(finding)
		return
	}
	var why string
	if f.serving.Message != "" {
		why = " (" + text.Phrase(f.serving.Message, maxPhrase) + ")"
	}
	finding.Reason = v1alpha1.ReasonServingCertificateUntrusted
	finding.Message = fmt.Sprintf("%s serves a certificate that the Cluster CA did not sign%s%s. Clients that "+
		"trust the Cluster CA refuse it. Remove tlsCertFile from the kubelet's configuration and set "+
		"serverTLSBootstrap: true; if the Cluster CA was rotated, renew the node's certificate; if this CA is meant to "+
		"sign it, let the manager's flags name the ConfigMap that holds it.", f.kubelet(), issuer, why)
	e.add(finding)
}

// judgeNames judges whether the served certificate names the address that the kubelet is reached at. Of a self-signed
// certificate that is not asked: it has to go anyway, and on AKS it never names an address. While nobody can tell who
// signed it, it may be just that.
func (e *evaluation) judgeNames(f *facts) {
	if f.serving.Mode == v1alpha1.ServingModeSelfSigned || f.unverified() {
		return
	}
	if f.serving.NameMatch != v1alpha1.NameMismatches {
		e.judgeOtherAddresses(f)
		return
	}
	if e.renaming(f) {
		return
	}
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingCertificateNameMismatch, Subject: f.subject(),
		Certificate: v1alpha1.PurposeKubeletServing,
	}
	var names string
	if f.served != nil {
		finding.NotAfter = timestamp(f.served.NotAfter.Time)
		names = ": it names " + listed(append(slices.Clone(f.served.IPAddresses), f.served.DNSNames...))
	}
	finding.Message = fmt.Sprintf("%s serves a certificate that is not valid for that address%s. kubectl logs, "+
		"kubectl exec and metrics scrapes that verify it fail. A kubelet asks for a new certificate when its Node's addresses "+
		"change: check status.addresses of the Node, the kubelet's --node-ip, and its signing requests (kubectl get csr).",
		f.kubelet(), names)
	e.add(finding)
}

// renaming says that the kubelet may be about to serve a certificate with the names that the one in use lacks: a kubelet asks for
// another as soon as its Node's addresses change. It is given the time that this may take, and until then how it turns out is not
// known.
func (e *evaluation) renaming(f *facts) bool {
	until, asked := e.grown(f), f.asksSinceServed()
	switch r := f.servingRequest; {
	case !asked || r.Refusal != nil:
	case r.ApprovedSince != nil:
		until = later(until, r.ApprovedSince.Add(e.rules.issueTimeout))
	case r.PendingSince != nil:
		until = later(until, r.PendingSince.Add(e.rules.pendingTimeout))
	case r.Stage == v1alpha1.StageIssued && r.Issued != nil:
		until = later(until, r.Issued.Add(e.rules.issueTimeout))
	}
	if e.reached(until) {
		return false
	}
	e.addTo(serving, v1alpha1.Finding{
		Reason: v1alpha1.ReasonNotObserved, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Message: fmt.Sprintf("The serving certificate of the kubelet does not name all addresses of its Node, which are new or have "+
			"changed. If it serves none that does by %s, it violates the policy as ServingCertificateNameMismatch.", instant(until)),
	})
	return true
}

// asksSinceServed says that the kubelet has asked for a serving certificate since it got the one that it serves.
func (f *facts) asksSinceServed() bool {
	return f.servingRequest != nil && f.served != nil &&
		f.servingRequest.Created.After(f.served.NotBefore.Add(backdated))
}

// allAddresses is how many IP addresses of a certificate are known at most. One that has so many may have more.
const allAddresses = 256

// judgeOtherAddresses judges whether the served certificate, which names the address that the kubelet was asked at, names the
// Node's other internal addresses as well: a node of two stacks has two, and clients choose.
func (e *evaluation) judgeOtherAddresses(f *facts) {
	if f.serving.NameMatch != v1alpha1.NameMatches || f.served == nil {
		return
	}
	if known := len(f.served.IPAddresses); known == 0 || known >= allAddresses {
		return
	}
	var missing []string
	for _, address := range f.node.InternalIPs {
		if !slices.Contains(f.served.IPAddresses, address) {
			missing = append(missing, address)
		}
	}
	if len(missing) == 0 || e.renaming(f) {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingCertificateNameMismatch, Subject: f.subject(),
		Certificate: v1alpha1.PurposeKubeletServing, NotAfter: timestamp(f.served.NotAfter.Time),
		Message: fmt.Sprintf("%s serves a certificate that is valid for that address, but not for all internal addresses of its "+
			"Node: it names %s, and not %s. Clients that reach the kubelet there and verify it fail. A kubelet asks for a new "+
			"certificate when its Node's addresses change: check its signing requests (kubectl get csr), their approver, and "+
			"the kubelet's --node-ip.", f.kubelet(), listed(f.served.IPAddresses), listed(missing)),
	})
}

// listed joins names for a sentence.
func listed(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return text.Phrase(strings.Join(names, ", "), maxPhrase)
}

// checkServingRequest reports a kubelet without a serving certificate that never asked for one, as far as requests can be read. A
// kubelet asks only once its Node has an IP address (https://github.com/kubernetes/kubernetes/issues/125813), and without one
// nobody can ask it, either.
func checkServingRequest(e *evaluation, f *facts) {
	missing := f.withoutCertificate() || f.unaddressed()
	if e.rules.rotation != v1alpha1.ServingRotationRequired || !missing || f.servingRequest != nil || !e.old(f) ||
		e.unread(certificatesv1.KubeletServingSignerName) {
		return
	}
	what, why := "The kubelet has", "Check serverTLSBootstrap in the kubelet's configuration, and its log."
	if f.withoutCertificate() {
		what += " no serving certificate and has"
	}
	if !f.node.HasAddress {
		why = "Its Node has no IP address in status.addresses, and a kubelet asks for no serving certificate until it has " +
			"one: check the cloud's node controller, or set the kubelet's --node-ip."
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingRequestMissing, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Since: timestamp(f.serving.Since.Time),
		Message: fmt.Sprintf("%s filed no CertificateSigningRequest to %s, so it will not get a serving certificate: %s. %s", what,
			certificatesv1.KubeletServingSignerName, withoutServing, why),
	})
}

// unaddressed says that the Node has no IP address, and that no serving certificate of its kubelet is known.
func (f *facts) unaddressed() bool {
	return f.serving != nil && f.serving.Outcome == v1alpha1.ProbeNoAddress && !f.node.HasAddress &&
		f.served == nil && f.issued == nil
}

// checkServedIsIssued reports a kubelet that goes on serving another certificate after a valid one was issued to it. It
// is not that when the one it serves is newer, or when it has asked for another since.
func checkServedIsIssued(e *evaluation, f *facts) {
	request := f.servingRequest
	if e.rules.rotation != v1alpha1.ServingRotationRequired || !f.presented() || f.served == nil || f.issued == nil ||
		f.served.SHA256 == f.issued.SHA256 || f.served.NotBefore.After(f.issued.NotBefore.Time) ||
		request == nil || request.Stage != v1alpha1.StageIssued || request.Issued == nil {
		return
	}
	begin := later(f.issued.NotBefore.Time, request.Issued.Add(e.rules.issueTimeout))
	end := f.issued.NotAfter.Add(time.Nanosecond)
	if !begin.Before(end) || e.reached(end) || !e.reached(begin) {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonIssuedCertificateNotServed, Subject: f.subject(),
		Certificate: v1alpha1.PurposeKubeletServing,
		Since:       timestamp(request.Issued.Time), NotAfter: timestamp(f.served.NotAfter.Time),
		Message: fmt.Sprintf("%s still serves an older certificate%s than the one%s issued at %s to CertificateSigningRequest "+
			"%s. When the older one expires, at %s, %s. Check the kubelet's log; restarting the kubelet makes it load its newest "+
			"certificate.", f.kubelet(), numbered(f.served), numbered(f.issued), instant(request.Issued.Time),
			requestName(request.Name), instant(f.served.NotAfter.Time), withoutServing),
	})
}

// checkServingDisabled reports, where rotation must be off, a node that takes part in it: by its label, by the
// certificate it serves, or both.
func checkServingDisabled(e *evaluation, f *facts) {
	if e.rules.rotation != v1alpha1.ServingRotationDisabled {
		return
	}
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingRotationNotDisabled, Subject: f.subject(),
		Certificate: v1alpha1.PurposeKubeletServing,
	}
	labelled := e.rules.label != nil && f.node.Labels[e.rules.label.Key] == e.rules.label.Value
	signed := f.presented() && f.serving.Mode == v1alpha1.ServingModeClusterSigned
	var evidence string
	switch {
	case labelled && signed:
		evidence = fmt.Sprintf("The node has the label %s=%s and its kubelet serves a certificate of the Cluster CA",
			e.rules.label.Key, e.rules.label.Value)
	case labelled:
		evidence = fmt.Sprintf("The node has the label %s=%s", e.rules.label.Key, e.rules.label.Value)
	case signed:
		evidence = "The kubelet serves a certificate of the Cluster CA"
	default:
		return
	}
	if signed {
		finding.Since = timestamp(f.serving.Since.Time)
	}
	if signed && f.served != nil {
		finding.NotAfter = timestamp(f.served.NotAfter.Time)
	}
	finding.Message = evidence + ", although the policy wants serving certificate rotation off. Workloads that mount the " +
		"kubelet's static serving certificate fail on such a node. Turn it off (on AKS, tag the node pool with " +
		"aks-disable-kubelet-serving-certificate-rotation=true, which AKS ignores from 2027-04-01, and replace its nodes), or set " +
		"spec.nodes.servingCertificate.rotation to Required."
	e.add(finding)
}

// checkServingLabel reports, where rotation is required, a node without the platform's label, and the likely cause as far
// as the cluster shows it. An opt-out leaves no trace in the cluster but the absent label.
func checkServingLabel(e *evaluation, f *facts) {
	label := e.rules.label
	if e.rules.rotation != v1alpha1.ServingRotationRequired || label == nil {
		return
	}
	value, ok := f.node.Labels[label.Key]
	if ok && value == label.Value {
		return
	}
	evidence := fmt.Sprintf("The node lacks the label %s=%s, by which the platform says that serving certificate rotation is "+
		"enabled.", label.Key, label.Value)
	if ok {
		evidence = fmt.Sprintf("The label %s of the node is %q and not %q, by which the platform says that serving certificate "+
			"rotation is enabled.", label.Key, text.Phrase(value, maxWord), label.Value)
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonServingLabelMissing, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Message: evidence + " " + e.rules.labelCause(f),
	})
}

// labelCause is the likely cause of a missing label, and the fix.
func (r *rules) labelCause(f *facts) string {
	kubelet, image := text.Phrase(f.node.KubeletVersion, maxWord), text.Phrase(f.node.NodeImageVersion, maxWord)
	if r.minimumKubelet != "" && compareKubelet(f.node.KubeletVersion, r.minimumKubelet) == tooOld {
		return fmt.Sprintf("Likely cause: kubelet %s is older than %s. Upgrade Kubernetes on its node pool.", kubelet,
			r.minimumKubelet)
	}
	var compared string
	if r.minimumImage != "" {
		switch compareNodeImage(f.node.NodeImageVersion, r.minimumImage) {
		case tooOld:
			return fmt.Sprintf("Likely cause: node image %s is older than %s. Upgrade Kubernetes on its node pool, or recreate "+
				"the pool if it comes from a snapshot of that image.", image, r.minimumImage)
		case notComparable:
			compared = fmt.Sprintf(" Its node image version %q cannot be compared with %s.", image, r.minimumImage)
		case sufficient:
		}
	}
	if f.presented() && f.serving.Mode == v1alpha1.ServingModeClusterSigned {
		return "Its kubelet does serve a certificate of the Cluster CA all the same: leave out " +
			"spec.nodes.servingCertificate.label if the platform sets no such label, or replace the node." + compared
	}
	return "The cause cannot be told from inside the cluster: the node pool may have opted out (on AKS, by the tag " +
		"aks-disable-kubelet-serving-certificate-rotation), was never upgraded since, came from an old snapshot, or the " +
		"cluster lacks Kubernetes RBAC." + compared + " Remove the opt-out if there is one, then upgrade Kubernetes on " +
		"its node pool."
}
