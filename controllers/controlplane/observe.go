// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/policy"
	"github.com/notafter/notafter/controllers/internal/text"
)

// observation is one run of observing: what is demanded, and what was found so far.
type observation struct {
	demand demand
	now    time.Time
	cas    *clusterCAs
	// trusted is the Cluster CA, or why there is none, and trustSource the ConfigMap that holds it.
	trusted     *pki.TrustBundle
	trustErr    error
	trustSource string

	found  policy.ControlPlane
	denied map[string]policy.Denial
	// waiting says that something is not read yet, and will be.
	waiting bool
}

// clusterCA observes the Cluster CA, which everything else is compared with.
func (o *observation) clusterCA() {
	if o.trustErr != nil {
		// Who judges reads it as well, and knows the permission that is missing, if that is why.
		if _, denied := errors.AsType[*optional.DeniedError](o.trustErr); o.demand.purposes[v1alpha1.PurposeClusterCA] && !denied {
			o.unreadable(v1alpha1.PurposeClusterCA, o.trustSource, o.trustErr)
		}
		return
	}
	o.cas.update(o.trusted)
	if o.demand.purposes[v1alpha1.PurposeClusterCA] {
		o.add(v1alpha1.PurposeClusterCA, o.trustSource, o.trusted.Certificates())
	}
}

// authentication observes the CAs in the ConfigMap that the API server publishes them in.
func (o *observation) authentication(s *sources) {
	keys := map[v1alpha1.CertificatePurpose]string{}
	for purpose, key := range map[v1alpha1.CertificatePurpose]string{
		v1alpha1.PurposeClientCA: clientCAKey, v1alpha1.PurposeAggregationCA: aggregationCAKey,
	} {
		if o.demand.purposes[purpose] {
			keys[purpose] = key
		}
	}
	if len(keys) == 0 {
		return
	}
	source := authenticationConfigMap.String()
	found, err := s.authentication.List()
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("there is no ConfigMap %s: the API server makes it", source)
	}
	if err != nil {
		o.failed(err, source, v1alpha1.PurposeClientCA, v1alpha1.PurposeAggregationCA)
		return
	}
	for purpose, key := range keys {
		o.published(found[0], key, purpose)
	}
}

// published observes one key of the ConfigMap. An API server without client certificates, or without aggregation, has none.
func (o *observation) published(configMap *corev1.ConfigMap, key string, purpose v1alpha1.CertificatePurpose) {
	data := configMap.Data[key]
	if data == "" {
		return
	}
	certs, err := pki.ParseCertificates([]byte(data))
	if err != nil {
		o.unreadable(purpose, authenticationConfigMap.String(), fmt.Errorf("key %q: %w", key, err))
		return
	}
	o.add(purpose, authenticationConfigMap.String(), certs)
}

// clusterTrustBundles observes the ClusterTrustBundles, where the API server serves them.
func (o *observation) clusterTrustBundles(s *sources) {
	const purpose = v1alpha1.PurposeClusterTrustBundle
	if !o.demand.purposes[purpose] {
		return
	}
	found, err := s.trustBundles.List()
	if _, unserved := errors.AsType[*optional.UnservedError](err); unserved {
		return
	}
	if err != nil {
		o.failed(err, "ClusterTrustBundles", purpose)
		return
	}
	for _, bundle := range found {
		certs, err := pki.ParseCertificates([]byte(bundle.Spec.TrustBundle))
		if err != nil {
			o.unreadable(purpose, bundle.Name, err)
			continue
		}
		o.add(purpose, bundle.Name, certs)
	}
}

// apiServers observes what the latest looks at the API server showed.
func (o *observation) apiServers(servers *apiServers) {
	const purpose = v1alpha1.PurposeAPIServer
	unverified := false
	for address, e := range servers.known {
		if e.look.at.IsZero() {
			continue // the process ends
		}
		result := policy.Endpoint{Address: address, Outcome: e.result.Outcome, Message: e.result.Message}
		if len(e.chain) > 0 {
			leaf := described(purpose, address, e.chain[0])
			if o.trusted != nil {
				if err := o.trusted.VerifyServing(e.chain, o.now); err == nil {
					result.Verified = true
					leaf.IssuerNotAfter = issuerNotAfter(o.trusted, e.chain)
				} else if e.result.Outcome == v1alpha1.ProbeCertificatePresented {
					result.Message = text.Field(err.Error(), maxMessage)
				}
			}
			o.found.Certificates = append(o.found.Certificates, leaf)
		}
		if o.trusted == nil && e.result.Outcome == v1alpha1.ProbeCertificatePresented {
			// Whether it is of the Cluster CA cannot be told, which is not the same as that it is not.
			unverified = true
			continue
		}
		o.found.Endpoints = append(o.found.Endpoints, result)
	}
	if unverified {
		o.unreadable(purpose, o.trustSource, fmt.Errorf("not verified: %w", o.trustErr))
	}
}

// apiServices observes the caBundles of the APIs that are not served by the API server itself, and whether they are available.
func (o *observation) apiServices(s *sources) {
	const purpose = v1alpha1.PurposeAPIServiceCA
	if !o.demand.purposes[purpose] {
		return
	}
	found, err := s.apiServices.List()
	if err != nil {
		o.failed(err, "APIServices", purpose)
		return
	}
	for _, service := range found {
		if service.Spec.Service == nil {
			continue
		}
		bundle := policy.Bundle{
			Kind: v1alpha1.SubjectAPIService, Name: service.Name, Purpose: purpose, Unavailable: unavailable(service),
		}
		o.bundle(bundle, service.Spec.CABundle)
	}
}

// conditionAvailable is the condition of an APIService that says whether the API server gets an answer.
const conditionAvailable = "Available"

func unavailable(service *apiService) string {
	for _, condition := range service.Status.Conditions {
		if condition.Type == conditionAvailable && condition.Status == "False" {
			said := cmp.Or(condition.Reason, "Unknown")
			if condition.Message != "" {
				said += ": " + condition.Message
			}
			return text.Field(steady(said), maxMessage)
		}
	}
	return ""
}

// webhooks observes the caBundles of admission webhooks.
func (o *observation) webhooks(s *sources) {
	const purpose = v1alpha1.PurposeWebhookCA
	if !o.demand.purposes[purpose] {
		return
	}
	validating, err := s.validating.List()
	if err != nil {
		o.failed(err, "ValidatingWebhookConfigurations", purpose)
	}
	for _, configuration := range validating {
		for i := range configuration.Webhooks {
			o.webhook(v1alpha1.SubjectValidatingWebhook, configuration.Name, configuration.Webhooks[i].Name,
				&configuration.Webhooks[i].ClientConfig)
		}
	}
	mutating, err := s.mutating.List()
	if err != nil {
		o.failed(err, "MutatingWebhookConfigurations", purpose)
	}
	for _, configuration := range mutating {
		for i := range configuration.Webhooks {
			o.webhook(v1alpha1.SubjectMutatingWebhook, configuration.Name, configuration.Webhooks[i].Name,
				&configuration.Webhooks[i].ClientConfig)
		}
	}
}

func (o *observation) webhook(
	kind v1alpha1.SubjectKind, name, entry string, config *admissionregistrationv1.WebhookClientConfig,
) {
	bundle := policy.Bundle{Kind: kind, Name: name, Entry: entry, Purpose: v1alpha1.PurposeWebhookCA}
	o.bundle(bundle, config.CABundle)
}

// conversionWebhooks observes the caBundles of conversion webhooks.
func (o *observation) conversionWebhooks(s *sources) {
	const purpose = v1alpha1.PurposeConversionWebhookCA
	if !o.demand.purposes[purpose] {
		return
	}
	found, err := s.definitions.List()
	if err != nil {
		o.failed(err, "CustomResourceDefinitions", purpose)
		return
	}
	for _, each := range found {
		bundle := policy.Bundle{Kind: v1alpha1.SubjectCustomResourceDefinition, Name: each.Name, Purpose: purpose}
		o.bundle(bundle, each.caBundle())
	}
}

// bundle adds a caBundle. An empty one stands for the CAs of the API server's system, of which nothing can be known.
func (o *observation) bundle(b policy.Bundle, data []byte) {
	if len(data) == 0 {
		if b.Unavailable != "" {
			o.found.Bundles = append(o.found.Bundles, b)
		}
		return
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		b.Malformed = text.Field(err.Error(), maxMessage)
	} else {
		b.Certificates = describedBundle(b.Purpose, b.Name, certs)
		b.Stale = o.cas.stale(certs)
	}
	o.found.Bundles = append(o.found.Bundles, b)
}

// staleness says of the bundles whether it is known which are stale: not so where the Cluster CA was never read.
func (o *observation) staleness() {
	if len(o.cas.current) > 0 || o.trustErr == nil {
		return
	}
	said := map[v1alpha1.CertificatePurpose]bool{}
	for i := range o.found.Bundles {
		if purpose := o.found.Bundles[i].Purpose; len(o.found.Bundles[i].Certificates) > 0 && !said[purpose] {
			said[purpose] = true
			o.unreadable(purpose, o.trustSource, fmt.Errorf("not compared with the Cluster CA: %w", o.trustErr))
		}
	}
}

func (o *observation) add(purpose v1alpha1.CertificatePurpose, source string, certs []*x509.Certificate) {
	o.found.Certificates = append(o.found.Certificates, describedBundle(purpose, source, certs)...)
}

// failed adds a source that could not be read: as a permission that is missing, if that is why.
func (o *observation) failed(err error, source string, purposes ...v1alpha1.CertificatePurpose) {
	if denied, ok := errors.AsType[*optional.DeniedError](err); ok {
		o.denial(denied.Permission, source, denied.Err, purposes...)
		return
	}
	if errors.Is(err, optional.ErrNotSynced) {
		o.waiting = true
	}
	for _, purpose := range purposes {
		if o.demand.purposes[purpose] {
			o.unreadable(purpose, source, err)
		}
	}
}

// ofTrustBundles are the purposes of certificates that speak to the condition TrustBundlesHealthy only.
var ofTrustBundles = []v1alpha1.CertificatePurpose{
	v1alpha1.PurposeAPIServiceCA, v1alpha1.PurposeWebhookCA, v1alpha1.PurposeConversionWebhookCA,
}

func (o *observation) denial(permission, source string, err error, purposes ...v1alpha1.CertificatePurpose) {
	concerns := []string{v1alpha1.ConditionControlPlaneHealthy, v1alpha1.ConditionCertificatesCurrent}
	if slices.Contains(ofTrustBundles, purposes[0]) {
		concerns = []string{v1alpha1.ConditionTrustBundlesHealthy}
	}
	o.denied[permission] = policy.Denial{
		Permission: permission, Source: source, Message: text.Field(steady(err.Error()), maxMessage),
		Concerns: concerns, Purposes: purposes,
	}
}

func (o *observation) unreadable(purpose v1alpha1.CertificatePurpose, source string, err error) {
	found := policy.Unreadable{Purpose: purpose, Source: source}
	// What is only not read yet has no message.
	if !errors.Is(err, optional.ErrNotSynced) {
		found.Message = text.Field(steady(err.Error()), maxMessage)
	}
	o.found.Unreadable = append(o.found.Unreadable, found)
}

// keys adds the service account signing keys. Nothing is judged by them, so that it is enough if an error is in the log, unless
// a permission is what they lack.
func (o *observation) keys(k *signingKeys) {
	o.found.ServiceAccountKeys = slices.Clone(k.ids)
	if answer, ok := errors.AsType[*apierrors.StatusError](k.err); ok && apierrors.IsForbidden(answer) {
		o.denial(keysPermission, "the service account signing keys", answer, v1alpha1.PurposeAPIServer)
	}
}

// ignored says of what nobody demanded that it was not read, so that a policy that has just begun to watch it does not take
// it for absent.
func (o *observation) ignored() {
	for _, each := range purposes {
		if !o.demand.purposes[each.purpose] {
			o.unreadable(each.purpose, each.source, optional.ErrNotSynced)
		}
	}
}

// result is what was found, in an order that depends on nothing else.
func (o *observation) result() (*policy.ControlPlane, []policy.Denial) {
	slices.SortFunc(o.found.Certificates, compareCertificates)
	slices.SortFunc(o.found.Endpoints, func(a, b policy.Endpoint) int { return cmp.Compare(a.Address, b.Address) })
	slices.SortFunc(o.found.Bundles, func(a, b policy.Bundle) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Entry, b.Entry))
	})
	slices.SortFunc(o.found.Unreadable, func(a, b policy.Unreadable) int {
		return cmp.Or(cmp.Compare(a.Purpose, b.Purpose), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Message, b.Message))
	})
	denied := make([]policy.Denial, 0, len(o.denied))
	for _, each := range o.denied {
		denied = append(denied, each)
	}
	slices.SortFunc(denied, func(a, b policy.Denial) int { return cmp.Compare(a.Permission, b.Permission) })
	return &o.found, denied
}
