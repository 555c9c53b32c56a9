// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// agedCertificate is a certificate of a bundle, and how old it is.
type agedCertificate struct {
	certificate *Certificate
	// entry is the webhook's name, where the subject has several bundles.
	entry string
	ages
	age age
	// spare says that the bundle does its work without this certificate: another one of it is valid, and not overdue.
	spare bool
}

// ageBundle tells how old each of a bundle's certificates is. A bundle of CAs works for as long as one of them does, and in
// a rotation it holds the old one next to the new one for a while, so what happens to one of them only informs while
// another one is valid and not overdue. Which of the two a peer's certificate comes from, a bundle does not tell: for the
// API server, ClusterCAMismatch does.
func (e *evaluation) ageBundle(entry string, purpose v1alpha1.CertificatePurpose, bundle []*Certificate) []agedCertificate {
	aged := make([]agedCertificate, len(bundle))
	works := false
	for i, c := range bundle {
		a := e.rules.controlPlane.agesOf(c.NotBefore, c.NotAfter)
		aged[i] = agedCertificate{certificate: c, entry: entry, ages: a, age: e.age(a)}
		works = works || aged[i].age == ageCurrent || aged[i].age == ageDue
	}
	if works && purpose != v1alpha1.PurposeAPIServer {
		for i := range aged {
			aged[i].spare = true
		}
	}
	return aged
}

// compare puts what is worse first, then what expires first.
func (a *agedCertificate) compare(b *agedCertificate) int {
	if a.spare != b.spare {
		if b.spare {
			return -1
		}
		return 1
	}
	return cmp.Or(compareCertificates(a.certificate, b.certificate), strings.Compare(a.entry, b.entry))
}

// addAges adds at most one finding per age: about the worst certificate, with the number of the others.
func (e *evaluation) addAges(subject v1alpha1.Subject, concerns concern, aged []agedCertificate) {
	for _, age := range []age{ageExpired, ageNotYetValid, ageOverdue, ageDue} {
		var worst *agedCertificate
		var n int
		for i := range aged {
			if aged[i].age != age {
				continue
			}
			n++
			if worst == nil || aged[i].compare(worst) < 0 {
				worst = &aged[i]
			}
		}
		if worst != nil {
			e.addTo(concerns, e.bundleFinding(subject, worst, n-1))
		}
	}
}

// bundleFinding is about a certificate that is not current, and so many others of its age.
func (e *evaluation) bundleFinding(subject v1alpha1.Subject, a *agedCertificate, others int) v1alpha1.Finding {
	c, expiry := a.certificate, &e.rules.controlPlane
	finding := v1alpha1.Finding{Subject: subject, Certificate: c.Purpose, NotAfter: timestamp(c.NotAfter)}
	if a.spare {
		finding.Severity = v1alpha1.SeverityInfo
	}
	var said string
	switch a.age {
	case ageExpired:
		finding.Reason, finding.Since = v1alpha1.ReasonExpired, timestamp(c.NotAfter)
		said = fmt.Sprintf("expired at %s. %s", instant(c.NotAfter), a.effect())
	case ageNotYetValid:
		finding.Reason = v1alpha1.ReasonNotYetValid
		said = fmt.Sprintf("is not valid before %s, so whoever needs it is refused until then. Check time synchronisation on "+
			"the control plane, where the certificate was made and where notafter runs.", instant(c.NotBefore))
	case ageOverdue:
		finding.Reason, finding.Since = v1alpha1.ReasonRotationOverdue, timestamp(later(a.overdue, a.valid))
		said = expiry.overdue(a.ages, c.NotAfter, a.effect())
	case ageDue:
		finding.Reason, finding.Since = v1alpha1.ReasonRotationDue, timestamp(later(a.due, a.valid))
		said = expiry.due(a.ages, c.NotAfter, "Unless the platform renews it, plan its renewal.")
	case ageCurrent:
	}
	finding.Message = c.title(a.entry) + " " + said + more(others)
	return finding
}

// effect is what it costs that the certificate runs out, and the fix.
func (a *agedCertificate) effect() string {
	if a.spare {
		return "Another certificate of the bundle is valid: what depends on this one alone fails, and everything else works. " +
			"Remove it once nothing uses it."
	}
	switch a.certificate.Purpose {
	case v1alpha1.PurposeClusterCA, v1alpha1.PurposeClusterTrustBundle:
		return "Once it has run out, whoever verifies the API server with it refuses it, and nothing that it signed is valid: " +
			"the whole cluster stops. Rotate the Cluster CA; on AKS, with az aks rotate-certs."
	case v1alpha1.PurposeAPIServer:
		return "Once it has run out, every client refuses this API server, kubelets and controllers among them. Renew it: with " +
			"kubeadm certs renew apiserver and a restart of the API server, or az aks rotate-certs on AKS."
	case v1alpha1.PurposeClientCA:
		return "Once it has run out, the API server refuses every client certificate that it signed, those of kubelets among " +
			"them. Rotate the client CA; on AKS, with az aks rotate-certs."
	case v1alpha1.PurposeAggregationCA:
		return "Once it has run out, aggregated API servers refuse the API server, and the APIs that they serve fail. Rotate " +
			"the front proxy's CA and client certificate; on AKS, with az aks rotate-certs."
	case v1alpha1.PurposeAPIServiceCA:
		return "Once it has run out, the API server refuses the aggregated API server, and the API that it serves fails. " +
			"Renew the CA, and put it into spec.caBundle."
	case v1alpha1.PurposeWebhookCA:
		return "Once it has run out, the API server refuses the webhook: what it guards is refused, or with failurePolicy " +
			"Ignore goes unchecked. Renew the CA, and put it into the webhook's clientConfig.caBundle."
	case v1alpha1.PurposeConversionWebhookCA:
		return "Once it has run out, the API server refuses the conversion webhook, and objects stored in another version can " +
			"no longer be read. Renew the CA, and put it into spec.conversion.webhook.clientConfig.caBundle."
	case v1alpha1.PurposeKubeletServing, v1alpha1.PurposeKubeletClient:
	}
	return "Renew it."
}

// title begins a sentence about the certificate. The entry is the webhook whose bundle it is in, if the object has several.
func (c *Certificate) title(entry string) string {
	var title string
	switch c.Purpose {
	case v1alpha1.PurposeClusterCA:
		title = "The certificate of the Cluster CA"
	case v1alpha1.PurposeAPIServer:
		title = "The serving certificate of the API server"
	case v1alpha1.PurposeClientCA:
		title = "The CA certificate that client certificates are verified with"
	case v1alpha1.PurposeAggregationCA:
		title = "The CA certificate of the aggregation layer"
	case v1alpha1.PurposeClusterTrustBundle:
		title = "The CA certificate in the ClusterTrustBundle"
	case v1alpha1.PurposeAPIServiceCA, v1alpha1.PurposeWebhookCA, v1alpha1.PurposeConversionWebhookCA,
		v1alpha1.PurposeKubeletServing, v1alpha1.PurposeKubeletClient:
		title = "The CA certificate in the caBundle" + ofWebhook(entry)
	}
	var details []string
	if c.Subject != "" {
		details = append(details, text.Phrase(c.Subject, maxName))
	}
	if c.SerialNumber != "" {
		details = append(details, "serial number "+text.Phrase(c.SerialNumber, maxWord))
	}
	if len(details) > 0 {
		title += " (" + strings.Join(details, ", ") + ")"
	}
	return title
}

// ofWebhook names the webhook that a bundle belongs to; empty where the object has one bundle.
func ofWebhook(entry string) string {
	if entry == "" {
		return ""
	}
	return " of webhook " + text.Phrase(entry, maxName)
}

// more says how many others a finding is about; empty for none.
func more(others int) string {
	if others == 0 {
		return ""
	}
	return fmt.Sprintf(" The same holds of %s more here.", count(others, "certificate"))
}
