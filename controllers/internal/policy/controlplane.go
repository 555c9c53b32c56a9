// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Certificate is one certificate of the control plane or of a trust bundle.
type Certificate struct {
	Purpose v1alpha1.CertificatePurpose
	// Source is where it was seen, as in status.controlPlane.source: a ConfigMap as namespace/name, the address of an API
	// server's endpoint, or the name of a ClusterTrustBundle.
	Source string
	// Subject and Issuer are RFC 2253 strings; SerialNumber and SHA256 lower-case hexadecimal.
	Subject, Issuer, SerialNumber, SHA256 string
	NotBefore, NotAfter                   time.Time
	// IssuerNotAfter is when the CA that signed it expires; zero when that is not known, and for a CA that signed itself.
	IssuerNotAfter time.Time
}

// ControlPlane is what is known of the control plane and of the trust bundles. Lists may be in any order. Every source has
// been read, or tried, once: what is missing here is not there, unless it is Unreadable or Input.Denied says that it may
// not be read. What was known of a source before it became unreadable may still be listed.
type ControlPlane struct {
	// Certificates are those of the Cluster CA, the client CA, the aggregation CA and the ClusterTrustBundles, every one of
	// each bundle, and the serving certificate of each endpoint of the API server.
	Certificates []Certificate
	// Endpoints are the endpoints of the API server.
	Endpoints []Endpoint
	// Bundles are the CA bundles that the API server verifies others with.
	Bundles []Bundle
	// Unreadable are the sources that could not be read, for another reason than a missing permission.
	Unreadable []Unreadable
	// ServiceAccountKeys are the IDs of the keys that verify service account tokens.
	ServiceAccountKeys []string
}

// Endpoint is what the latest handshake with one endpoint of the API server showed.
type Endpoint struct {
	// Address is its address and port, which is also the Source of its certificate.
	Address string
	Outcome v1alpha1.ProbeOutcome
	// Verified says that its certificate verified against the Cluster CA. It means something only if one was presented.
	Verified bool
	// Message says why there is no certificate, or why it did not verify.
	Message string
}

// Bundle is one caBundle.
type Bundle struct {
	// Kind and Name are those of the object that holds it.
	Kind v1alpha1.SubjectKind
	Name string
	// Entry is the webhook's name in an object that holds several; empty elsewhere.
	Entry   string
	Purpose v1alpha1.CertificatePurpose
	// Certificates are all of the bundle; empty when it is malformed, or absent.
	Certificates []Certificate
	// Malformed says what is wrong with it; empty when nothing is.
	Malformed string
	// Stale says that it holds nothing but Cluster CA certificates that were replaced.
	Stale bool
	// Unavailable is the reason and message of an APIService's condition Available when that is False.
	Unavailable string
}

// Unreadable is a source that could not be read.
type Unreadable struct {
	// Purpose is what the certificates that it holds are for.
	Purpose v1alpha1.CertificatePurpose
	// Source is the ConfigMap as namespace/name, or what else could not be read.
	Source string
	// Message is the error; empty when it was not read yet.
	Message string
}

// Workload is a workload that mounts the static serving certificate from the host.
type Workload struct {
	Kind            v1alpha1.SubjectKind
	Namespace, Name string
	// Path is the path on the host that it mounts.
	Path string
}

// Token is a bootstrap token.
type Token struct {
	// Secret that holds it, as namespace/name.
	Secret string
	// ID is the public part of the token.
	ID string
	// Expires is when it stops working; zero when it never does.
	Expires time.Time
	// Malformed is an expiration that is no time.
	Malformed string
}

// Denial is a permission that is missing for evidence that the policy wants to see.
type Denial struct {
	// Permission is what is missing, such as "list secrets in kube-system". It names the finding.
	Permission string
	// Reason is that of the finding: AccessDenied, which empty means as well, or NotObserved for evidence that could not be
	// read for another reason.
	Reason string
	// Source says what the permission is for.
	Source string
	// Message is the error.
	Message string
	// Concerns are the types of the detail conditions that the evidence speaks to.
	Concerns []string
	// Purposes are those of the certificates that it hides, if any: the judge leaves it out for a policy that watches none.
	Purposes []v1alpha1.CertificatePurpose
	// SignerName is the signer whose signing requests it hides, if it does.
	SignerName string
}

// ofControlPlane are the purposes of the certificates of the control plane, in the order of status.controlPlane.
var ofControlPlane = []v1alpha1.CertificatePurpose{
	v1alpha1.PurposeClusterCA, v1alpha1.PurposeAPIServer, v1alpha1.PurposeClientCA, v1alpha1.PurposeAggregationCA,
	v1alpha1.PurposeClusterTrustBundle,
}

// part is one bundle of the control plane's, or one endpoint of the API server. It is what findings are about.
type part struct {
	purpose v1alpha1.CertificatePurpose
	source  string
	// certificates are in the order of compareCertificates.
	certificates []*Certificate
	// endpoint is nil for a bundle.
	endpoint *Endpoint
}

// judgeControlPlane judges what the spec watches of the control plane.
func (e *evaluation) judgeControlPlane(in *Input) {
	if !e.rules.watched.anyControlPlane() {
		return
	}
	if in.ControlPlane == nil {
		e.addUnseen(v1alpha1.Subject{Kind: v1alpha1.SubjectAPIServer, Name: apiServerService}, v1alpha1.PurposeAPIServer)
		return
	}
	parts := e.parts(in.ControlPlane)
	for _, p := range parts {
		first := len(e.found)
		e.judgePart(p)
		e.tally.addOther(controlPlaneGroup, e.found[first:])
	}
	e.judgeUnreadable(in.ControlPlane, ofControlPlane)
	e.judgeAbsent(in, parts)
}

// apiServerService stands for the API server where none of its endpoints is known.
const apiServerService = metav1.NamespaceDefault + "/kubernetes"

// parts are the watched ones, in the order of status.controlPlane.
func (e *evaluation) parts(known *ControlPlane) []*part {
	type key struct {
		order  int
		source string
	}
	parts := map[key]*part{}
	get := func(purpose v1alpha1.CertificatePurpose, source string) *part {
		order := slices.Index(ofControlPlane, purpose)
		if order < 0 || !e.rules.watched.purpose(purpose) {
			return nil
		}
		k := key{order, source}
		if parts[k] == nil {
			parts[k] = &part{purpose: purpose, source: source}
		}
		return parts[k]
	}
	for i := range known.Certificates {
		if p := get(known.Certificates[i].Purpose, known.Certificates[i].Source); p != nil {
			p.certificates = append(p.certificates, &known.Certificates[i])
		}
	}
	for i := range known.Endpoints {
		if p := get(v1alpha1.PurposeAPIServer, known.Endpoints[i].Address); p != nil {
			p.endpoint = &known.Endpoints[i]
		}
	}
	sorted := make([]*part, 0, len(parts))
	for _, k := range slices.SortedFunc(maps.Keys(parts), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.source, b.source))
	}) {
		slices.SortFunc(parts[k].certificates, compareCertificates)
		sorted = append(sorted, parts[k])
	}
	return sorted
}

// compareCertificates puts what expires first before what expires later.
func compareCertificates(a, b *Certificate) int {
	return cmp.Or(a.NotAfter.Compare(b.NotAfter), strings.Compare(a.SHA256, b.SHA256))
}

func (e *evaluation) judgePart(p *part) {
	presented := p.endpoint == nil || p.endpoint.Outcome == v1alpha1.ProbeCertificatePresented
	if p.endpoint != nil {
		e.judgeEndpoint(p)
		if len(p.certificates) == 0 {
			e.certificates.unknown++
		}
	}
	aged := e.ageBundle("", p.purpose, p.certificates)
	for i := range aged {
		e.listed = append(e.listed, aged[i].certificate)
		if aged[i].age == ageCurrent && !presented {
			e.certificates.unknown++
		} else {
			e.certificates.count(aged[i].age)
		}
		switch aged[i].age {
		case ageCurrent, ageDue, ageOverdue:
			e.certificates.expiring("", p.purpose, aged[i].certificate.NotAfter)
		case ageExpired, ageNotYetValid:
		}
	}
	e.addAges(p.subject(), lifetimes|controlPlane, aged)
	e.judgeIssuers(p)
}

func (p *part) subject() v1alpha1.Subject {
	return sourceSubject(p.purpose, p.source)
}

// sourceSubject is the subject that stands for a source of certificates of the purpose.
func sourceSubject(purpose v1alpha1.CertificatePurpose, source string) v1alpha1.Subject {
	kinds := map[v1alpha1.CertificatePurpose]v1alpha1.SubjectKind{
		v1alpha1.PurposeAPIServer:           v1alpha1.SubjectAPIServer,
		v1alpha1.PurposeClusterTrustBundle:  v1alpha1.SubjectClusterTrustBundle,
		v1alpha1.PurposeAPIServiceCA:        v1alpha1.SubjectAPIService,
		v1alpha1.PurposeWebhookCA:           v1alpha1.SubjectValidatingWebhook,
		v1alpha1.PurposeConversionWebhookCA: v1alpha1.SubjectCustomResourceDefinition,
	}
	return v1alpha1.Subject{
		Kind: cmp.Or(kinds[purpose], v1alpha1.SubjectConfigMap), Name: text.Phrase(source, maxQualified),
	}
}

// judgeEndpoint judges how the latest handshake with an endpoint of the API server went. Without the Cluster CA, nothing
// tells whether its certificate fits; checkTrust has said so.
func (e *evaluation) judgeEndpoint(p *part) {
	var why string
	if p.endpoint.Message != "" {
		why = ": " + text.Phrase(p.endpoint.Message, maxPhrase)
	}
	switch {
	case p.endpoint.Outcome != v1alpha1.ProbeCertificatePresented:
		e.addTo(lifetimes|controlPlane, v1alpha1.Finding{
			Reason: v1alpha1.ReasonProbeFailed, Subject: p.subject(), Certificate: v1alpha1.PurposeAPIServer,
			Message: fmt.Sprintf("The API server at %s could not be asked for its serving certificate%s. Whether its "+
				"certificate is valid is not known. Check that this API server runs, and that network policies and firewalls "+
				"let the notafter manager reach it.", text.Phrase(p.source, maxName), why),
		})
	case !p.endpoint.Verified && e.trustError == "":
		e.add(v1alpha1.Finding{
			Reason: v1alpha1.ReasonClusterCAMismatch, Subject: p.subject(), Certificate: v1alpha1.PurposeAPIServer,
			Message: fmt.Sprintf("The API server at %s serves a certificate that does not verify against the Cluster CA in "+
				"ConfigMap %s%s. Pods and kubelets that trust the Cluster CA refuse this API server. One of the two was "+
				"replaced without the other: finish the rotation of the Cluster CA, and restart what still holds the old one; "+
				"on AKS, run az aks rotate-certs again.", text.Phrase(p.source, maxName), text.Phrase(e.trustSource, maxName), why),
		})
	}
}

// judgeIssuers reports certificates that outlive the CA that signed them.
func (e *evaluation) judgeIssuers(p *part) {
	var first *Certificate
	var n int
	for _, c := range p.certificates {
		if c.IssuerNotAfter.IsZero() || !c.NotAfter.After(c.IssuerNotAfter) {
			continue
		}
		n++
		if first == nil || c.IssuerNotAfter.Before(first.IssuerNotAfter) {
			first = c
		}
	}
	if first == nil {
		return
	}
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonIssuerExpiresFirst, Subject: p.subject(), Certificate: p.purpose,
		NotAfter: timestamp(first.NotAfter),
		Message: fmt.Sprintf("%s is valid until %s, but the CA that signed it only until %s: from then on nobody accepts it."+
			"%s Renew the CA first, then what it signed.", first.title(""), instant(first.NotAfter),
			instant(first.IssuerNotAfter), more(n-1)),
	})
}

// judgeUnreadable reports sources of watched certificates that could not be read, those of the purposes. That the Cluster CA
// cannot be read, checkTrust has said.
func (e *evaluation) judgeUnreadable(known *ControlPlane, purposes []v1alpha1.CertificatePurpose) {
	type key struct {
		purpose v1alpha1.CertificatePurpose
		source  string
	}
	messages := map[key]string{}
	for _, u := range known.Unreadable {
		said := u.Source == e.trustSource && e.trustError != ""
		if said || !slices.Contains(purposes, u.Purpose) || !e.rules.watched.purpose(u.Purpose) {
			continue
		}
		k := key{u.Purpose, u.Source}
		messages[k] = max(messages[k], u.Message)
	}
	for _, k := range slices.SortedFunc(maps.Keys(messages), func(a, b key) int {
		return cmp.Or(strings.Compare(string(a.purpose), string(b.purpose)), strings.Compare(a.source, b.source))
	}) {
		first := len(e.found)
		subject := sourceSubject(k.purpose, k.source)
		if k.source == e.trustSource { // for want of the Cluster CA, nothing could be compared with it
			subject.Kind = v1alpha1.SubjectConfigMap
		}
		e.addUnreadable(subject, k.purpose, messages[k])
		e.tally.addOther(sourceGroup, e.found[first:])
	}
}

func (e *evaluation) addUnreadable(subject v1alpha1.Subject, purpose v1alpha1.CertificatePurpose, message string) {
	if message == "" {
		e.addNotRead(subject, purpose)
		return
	}
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonTrustBundleUnavailable, Subject: subject, Certificate: purpose,
		Message: fmt.Sprintf("%s could not be read: %s. Whether its certificates are valid is not known. Restore it, or set "+
			"%s to Ignored if this cluster has none.", readable(purpose), text.Phrase(message, 2*maxPhrase), fieldOf(purpose)),
	}
	if purpose == v1alpha1.PurposeAPIServer {
		finding.Reason = v1alpha1.ReasonProbeFailed
	}
	e.addTo(concernsOf(purpose), finding)
}

// concernsOf are the concerns that certificates of the purpose speak to.
func concernsOf(purpose v1alpha1.CertificatePurpose) concern {
	if slices.Contains(ofControlPlane, purpose) {
		return lifetimes | controlPlane
	}
	return trustBundles
}

// judgeAbsent reports that what every cluster has was not seen, unless it is said already why.
func (e *evaluation) judgeAbsent(in *Input, parts []*part) {
	for _, must := range []v1alpha1.Subject{
		{Kind: v1alpha1.SubjectConfigMap, Name: text.Phrase(e.trustSource, maxQualified)},
		{Kind: v1alpha1.SubjectAPIServer, Name: apiServerService},
	} {
		purpose := v1alpha1.PurposeClusterCA
		if must.Kind == v1alpha1.SubjectAPIServer {
			purpose = v1alpha1.PurposeAPIServer
		}
		explained := purpose == v1alpha1.PurposeClusterCA && e.trustError != "" ||
			slices.ContainsFunc(parts, func(p *part) bool { return p.purpose == purpose }) ||
			slices.ContainsFunc(in.ControlPlane.Unreadable, func(u Unreadable) bool { return u.Purpose == purpose }) ||
			slices.ContainsFunc(in.Denied, func(d Denial) bool { return slices.Contains(d.Purposes, purpose) })
		if e.rules.watched.purpose(purpose) && !explained {
			e.addUnseen(must, purpose)
		}
	}
}

// addUnseen adds a finding about a source that was not looked at yet, and counts it.
func (e *evaluation) addUnseen(subject v1alpha1.Subject, purpose v1alpha1.CertificatePurpose) {
	first := len(e.found)
	e.addNotRead(subject, purpose)
	e.tally.addOther(sourceGroup, e.found[first:])
}

func (e *evaluation) addNotRead(subject v1alpha1.Subject, purpose v1alpha1.CertificatePurpose) {
	e.addTo(concernsOf(purpose), v1alpha1.Finding{
		Reason: v1alpha1.ReasonNotObserved, Subject: subject, Certificate: purpose,
		Message: readable(purpose) + " has not been read yet. This passes by itself within moments. If it stays, check the " +
			"manager's log.",
	})
}

// readable is what is read to learn of certificates of the purpose, at the start of a sentence.
func readable(purpose v1alpha1.CertificatePurpose) string {
	switch purpose {
	case v1alpha1.PurposeClusterCA:
		return "The Cluster CA"
	case v1alpha1.PurposeAPIServer:
		return "What the API server serves"
	case v1alpha1.PurposeClientCA:
		return "The CA of client certificates"
	case v1alpha1.PurposeAggregationCA:
		return "The CA of the aggregation layer"
	case v1alpha1.PurposeClusterTrustBundle:
		return "What ClusterTrustBundles hold"
	case v1alpha1.PurposeAPIServiceCA:
		return "What the caBundles of APIServices hold"
	case v1alpha1.PurposeWebhookCA:
		return "What the caBundles of webhook configurations hold"
	case v1alpha1.PurposeConversionWebhookCA:
		return "What the caBundles of CustomResourceDefinitions hold"
	case v1alpha1.PurposeKubeletServing, v1alpha1.PurposeKubeletClient:
	}
	return string(purpose)
}

// fieldOf is the field of the spec that says whether certificates of the purpose are judged.
func fieldOf(purpose v1alpha1.CertificatePurpose) string {
	switch purpose {
	case v1alpha1.PurposeClusterCA, v1alpha1.PurposeClusterTrustBundle:
		return "spec.controlPlane.clusterCA"
	case v1alpha1.PurposeAPIServer:
		return "spec.controlPlane.apiServer"
	case v1alpha1.PurposeClientCA:
		return "spec.controlPlane.clientCA"
	case v1alpha1.PurposeAggregationCA:
		return "spec.controlPlane.aggregation"
	case v1alpha1.PurposeAPIServiceCA:
		return "spec.trustBundles.apiServices"
	case v1alpha1.PurposeWebhookCA:
		return "spec.trustBundles.webhooks"
	case v1alpha1.PurposeConversionWebhookCA:
		return "spec.trustBundles.conversionWebhooks"
	case v1alpha1.PurposeKubeletServing, v1alpha1.PurposeKubeletClient:
	}
	return "spec.nodes"
}

// described are the certificates as status.controlPlane lists them.
func described(certificates []*Certificate) []v1alpha1.ControlPlaneCertificate {
	var all []v1alpha1.ControlPlaneCertificate
	for _, c := range certificates {
		all = append(all, v1alpha1.ControlPlaneCertificate{
			Purpose: c.Purpose, Source: text.Phrase(c.Source, maxQualified),
			Subject: text.Phrase(c.Subject, maxDistinguished), Issuer: text.Phrase(c.Issuer, maxDistinguished),
			SerialNumber: text.Phrase(c.SerialNumber, maxWord), SHA256: c.SHA256,
			NotBefore: metav1.NewTime(c.NotBefore.UTC().Truncate(time.Second)),
			NotAfter:  metav1.NewTime(c.NotAfter.UTC().Truncate(time.Second)),
		})
	}
	return all
}
