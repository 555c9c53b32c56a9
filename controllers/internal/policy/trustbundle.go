// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// ofTrustBundles are the purposes of the certificates in trust bundles.
var ofTrustBundles = []v1alpha1.CertificatePurpose{
	v1alpha1.PurposeAPIServiceCA, v1alpha1.PurposeWebhookCA, v1alpha1.PurposeConversionWebhookCA,
}

// judgeTrustBundles judges the CA bundles that the spec watches, object by object.
func (e *evaluation) judgeTrustBundles(in *Input) {
	if !e.rules.watched.anyTrustBundle() {
		return
	}
	if in.ControlPlane == nil {
		for _, purpose := range ofTrustBundles {
			if e.rules.watched.purpose(purpose) {
				e.addUnseen(v1alpha1.Subject{Kind: v1alpha1.SubjectAPIServer, Name: apiServerService}, purpose)
			}
		}
		return
	}
	var bundles []*Bundle
	for i := range in.ControlPlane.Bundles {
		b := &in.ControlPlane.Bundles[i]
		if slices.Contains(ofTrustBundles, b.Purpose) && e.rules.watched.purpose(b.Purpose) {
			bundles = append(bundles, b)
		}
	}
	slices.SortFunc(bundles, func(a, b *Bundle) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name),
			strings.Compare(a.Entry, b.Entry))
	})
	for len(bundles) > 0 {
		n := 1
		for n < len(bundles) && bundles[n].Kind == bundles[0].Kind && bundles[n].Name == bundles[0].Name {
			n++
		}
		first := len(e.found)
		e.judgeBundles(bundles[:n])
		e.tally.addOther(bundleGroup, e.found[first:])
		bundles = bundles[n:]
	}
	e.judgeUnreadable(in.ControlPlane, ofTrustBundles)
}

// judgeBundles judges all bundles of one object. Findings about several of them are one.
func (e *evaluation) judgeBundles(bundles []*Bundle) {
	subject := v1alpha1.Subject{Kind: bundles[0].Kind, Name: text.Phrase(bundles[0].Name, maxQualified)}
	var malformed, stale []*Bundle
	var aged []agedCertificate
	for _, b := range bundles {
		if b.Malformed != "" {
			malformed = append(malformed, b)
		}
		if b.Stale {
			stale = append(stale, b)
		}
		certificates := make([]*Certificate, len(b.Certificates))
		for i := range b.Certificates {
			certificates[i] = &b.Certificates[i]
		}
		slices.SortFunc(certificates, compareCertificates)
		aged = append(aged, e.ageBundle(b.Entry, b.Purpose, certificates)...)
	}
	e.addAges(subject, trustBundles, aged)
	e.addMalformed(subject, malformed)
	e.addStale(subject, stale)
	if unavailable := bundles[0].Unavailable; unavailable != "" {
		e.addUnavailable(subject, unavailable)
	}
}

func (e *evaluation) addMalformed(subject v1alpha1.Subject, bundles []*Bundle) {
	if len(bundles) == 0 {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonTrustBundleMalformed, Subject: subject, Certificate: bundles[0].Purpose,
		Message: fmt.Sprintf("%s cannot be parsed: %s.%s The API server verifies %s with it, and may refuse everything. Put "+
			"PEM blocks of type CERTIFICATE into it, and nothing else.", caBundle(bundles[0]),
			text.Phrase(strings.TrimSuffix(bundles[0].Malformed, "."), maxPhrase), moreBundles(len(bundles)-1),
			peer(bundles[0].Purpose)),
	})
}

func (e *evaluation) addStale(subject v1alpha1.Subject, bundles []*Bundle) {
	if len(bundles) == 0 {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonStaleTrustBundle, Subject: subject, Certificate: bundles[0].Purpose,
		Message: fmt.Sprintf("%s holds only a Cluster CA that was replaced.%s The API server refuses %s as soon as it serves "+
			"a certificate of the new one. Put the current Cluster CA, in ConfigMap %s, into it, and restart what writes it "+
			"if something does.", caBundle(bundles[0]), moreBundles(len(bundles)-1), peer(bundles[0].Purpose),
			text.Phrase(e.trustSource, maxName)),
	})
}

// addUnavailable reports an aggregated API that does not answer, whatever the cause: certificates are a common one.
func (e *evaluation) addUnavailable(subject v1alpha1.Subject, why string) {
	cause := "That does not mention x509: look at the Service and its Pods before the certificates."
	if strings.Contains(why, "x509") || strings.Contains(why, "tls:") {
		cause = "The cause is a certificate: compare spec.caBundle with what the aggregated API server serves, and correct " +
			"the one that is out of date."
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonAPIServiceUnavailable, Subject: subject,
		Message: fmt.Sprintf("The API server says that this API is not available: %s. Requests to it fail, and so may the "+
			"deletion of namespaces. %s", text.Phrase(strings.TrimSuffix(why, "."), 2*maxPhrase), cause),
	})
}

// caBundle begins a sentence about a bundle.
func caBundle(b *Bundle) string {
	return "The caBundle" + ofWebhook(b.Entry)
}

// moreBundles says how many other bundles of the object a finding is about; empty for none.
func moreBundles(others int) string {
	if others == 0 {
		return ""
	}
	return fmt.Sprintf(" The same holds of %s more of this object.", count(others, "bundle"))
}

// peer is whom the API server verifies with a bundle for the purpose.
func peer(purpose v1alpha1.CertificatePurpose) string {
	switch purpose {
	case v1alpha1.PurposeAPIServiceCA:
		return "the aggregated API server"
	case v1alpha1.PurposeConversionWebhookCA:
		return "the conversion webhook"
	default:
		return "the webhook"
	}
}
