// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// sameExpiry is how far the expiry that a kubelet says may be from its certificate's notAfter: it says the time left, in
	// whole seconds.
	sameExpiry = 10 * time.Second
	// backdated is how long before it is issued a certificate's life begins, so that clocks may differ
	// (pkg/controller/certificates/signer in Kubernetes).
	backdated = 5 * time.Minute
)

// clientInUse is the client certificate to be judged; nil when none is known. What the kubelet says wins over the certificate
// that is remembered from a signing request: that one may be of long ago. If the kubelet could not be asked lately, a
// certificate that was issued to it since wins.
//
// A kubelet says only when its certificate expires. That makes it the issued one that expires then, or another, whose
// lifetime is taken to be that of the newest known one of any node: they come from the same signer. Its source is empty.
func (e *evaluation) clientInUse(f *facts) *v1alpha1.CertificateStatus {
	if f.self == nil || f.self.ClientExpires == nil {
		return f.client
	}
	expires := f.self.ClientExpires.Time
	if f.client != nil {
		apart := f.client.NotAfter.Sub(expires)
		if apart.Abs() <= sameExpiry || apart > 0 && f.self.Outcome != v1alpha1.KubeletRead && !e.silentSince(f, expires) {
			return f.client
		}
	}
	certificate := &v1alpha1.CertificateStatus{Purpose: v1alpha1.PurposeKubeletClient, NotAfter: metav1.NewTime(expires)}
	if lifetime := e.learntLifetimes().newest; lifetime > 0 {
		certificate.NotBefore = metav1.NewTime(expires.Add(-lifetime))
	}
	return certificate
}

// silentSince says that the certificate expired, and that the kubelet has not been heard of since.
func (e *evaluation) silentSince(f *facts, expires time.Time) bool {
	return f.node.down() && !f.node.heardAfter(expires) && e.reached(expires.Add(time.Nanosecond))
}

// learnt is what the known client certificates of all nodes show: how long the newest of them lives, and the longest any does.
// Both are zero when none is known.
type learnt struct{ newest, longest time.Duration }

func (e *evaluation) learntLifetimes() learnt {
	if e.learnt != nil {
		return *e.learnt
	}
	var newest time.Time
	var lifetimes learnt
	var f facts
	for i := range e.nodes {
		f.gather(&e.nodes[i])
		if f.client == nil {
			continue
		}
		life := f.client.NotAfter.Sub(f.client.NotBefore.Time)
		order := f.client.NotBefore.Compare(newest)
		if order > 0 || order == 0 && life > lifetimes.newest {
			newest, lifetimes.newest = f.client.NotBefore.Time, life
		}
		lifetimes.longest = max(lifetimes.longest, life)
	}
	e.learnt = &lifetimes
	return lifetimes
}

// lifetimeGuessed says that of a certificate only the expiry is known, and its lifetime is taken to be that of others.
func lifetimeGuessed(certificate *v1alpha1.CertificateStatus) bool {
	return certificate.Source == "" && !certificate.NotBefore.IsZero()
}

// guessed says, at the end of a message, how the lifetime of a certificate of which only the expiry is known was come by.
func (e *evaluation) guessed(certificate *v1alpha1.CertificateStatus, now age) string {
	switch {
	case certificate.Source != "" || now != ageDue && now != ageOverdue:
		return ""
	case now == ageOverdue:
		return fmt.Sprintf(" When it was issued is not known, so that it is judged by %s.minimumRemaining only.",
			e.rules.nodes.field)
	}
	return fmt.Sprintf(" When it was issued is not known; its lifetime is taken to be that of the newest known client "+
		"certificate of the same signer, %s.", e.learntLifetimes().newest.Round(time.Minute))
}

// checkKubeletSettings reports, where rotation is required, a kubelet whose configuration says that it is off.
func checkKubeletSettings(e *evaluation, f *facts) {
	if f.self == nil {
		return
	}
	if e.rules.clientRotation == v1alpha1.ClientRotationRequired &&
		f.self.ClientRotation == v1alpha1.KubeletSettingDisabled {
		e.add(v1alpha1.Finding{
			Reason: v1alpha1.ReasonClientRotationDisabled, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletClient,
			Message: "The kubelet's configuration says rotateCertificates: false, so it does not renew its client certificate. " +
				"When that expires, the kubelet cannot reach the API server: the Node turns NotReady and its Pods are no longer " +
				"managed. Set rotateCertificates: true in the kubelet's configuration (or --rotate-certificates) and restart it; " +
				"on AKS, replace the node.",
		})
	}
	if e.rules.rotation != v1alpha1.ServingRotationRequired || f.self.ServingBootstrap != v1alpha1.KubeletSettingDisabled {
		return
	}
	var static string
	if f.self.TLSCertFile != "" {
		static = fmt.Sprintf(" and serves the static certificate in %s", text.Phrase(f.self.TLSCertFile, maxPhrase))
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonServerTLSBootstrapDisabled, Subject: f.subject(), Certificate: v1alpha1.PurposeKubeletServing,
		Message: fmt.Sprintf("The kubelet's configuration says serverTLSBootstrap: false, so it does not request its serving "+
			"certificate%s. Nothing renews what it serves: when that expires, %s. Set serverTLSBootstrap: true in the kubelet's "+
			"configuration, remove tlsCertFile and restart it; on AKS, replace the node, or, if all of its node pool are alike, "+
			"upgrade Kubernetes on that.", static, withoutServing),
	})
}

// checkRenewals reports a kubelet whose attempts to renew a certificate have failed since the one in use was issued.
func checkRenewals(e *evaluation, f *facts) {
	if f.self == nil {
		return
	}
	if rose := roseAt(f.self.ClientRenewal); rose != nil && failedSince(rose, e.clientInUse(f)) {
		e.addRenewalFailing(f, v1alpha1.PurposeKubeletClient, "client",
			"the kubelet cannot reach the API server any more and the Node turns NotReady")
	}
	if rose := roseAt(f.self.ServingRenewal); rose != nil && failedSince(rose, f.served) &&
		e.rules.rotation == v1alpha1.ServingRotationRequired {
		e.addRenewalFailing(f, v1alpha1.PurposeKubeletServing, "serving", withoutServing)
	}
}

func roseAt(renewal *v1alpha1.RenewalStatus) *metav1.Time {
	if renewal == nil {
		return nil
	}
	return renewal.Rose
}

// failedSince says that a renewal failed after the certificate was issued. When that was, is not always known: then the
// failure counts, which is forgotten once the kubelet says another expiry.
func failedSince(rose *metav1.Time, certificate *v1alpha1.CertificateStatus) bool {
	return certificate == nil || certificate.Source == "" || rose.After(certificate.NotBefore.Add(backdated))
}

func (e *evaluation) addRenewalFailing(f *facts, purpose v1alpha1.CertificatePurpose, what, effect string) {
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonRenewalFailing, Subject: f.subject(), Certificate: purpose,
		// The count rises on, so when it last did is left out.
		Message: fmt.Sprintf("The kubelet fails to renew its %s certificate: its count of renewal errors has risen since the one "+
			"in use was issued. When that expires, %s. Check the kubelet's log for the error, its signing requests (kubectl get "+
			"csr) and their approver.", what, effect),
	})
}
