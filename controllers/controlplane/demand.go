// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"github.com/notafter/notafter/api/v1alpha1"
)

// demand is what the policies want to know, all together.
type demand struct {
	// purposes are those of the certificates that at least one policy watches.
	purposes map[v1alpha1.CertificatePurpose]bool
	// expiry are the thresholds around which the API server is looked at.
	expiry []v1alpha1.ControlPlaneExpirySpec
}

// demandOf is what the policies want to know. ClusterTrustBundles go with the Cluster CA: those of the signers of Kubernetes
// hold it.
func demandOf(policies []v1alpha1.CertificatePolicy) demand {
	d := demand{purposes: map[v1alpha1.CertificatePurpose]bool{}}
	for i := range policies {
		spec := &policies[i].Spec
		for purpose, watch := range map[v1alpha1.CertificatePurpose]v1alpha1.Watch{
			v1alpha1.PurposeClusterCA:           spec.ControlPlane.ClusterCA,
			v1alpha1.PurposeClusterTrustBundle:  spec.ControlPlane.ClusterCA,
			v1alpha1.PurposeAPIServer:           spec.ControlPlane.APIServer,
			v1alpha1.PurposeClientCA:            spec.ControlPlane.ClientCA,
			v1alpha1.PurposeAggregationCA:       spec.ControlPlane.Aggregation,
			v1alpha1.PurposeAPIServiceCA:        spec.TrustBundles.APIServices,
			v1alpha1.PurposeWebhookCA:           spec.TrustBundles.Webhooks,
			v1alpha1.PurposeConversionWebhookCA: spec.TrustBundles.ConversionWebhooks,
		} {
			// An object that was stored before the field existed has its default, Watched.
			if watch != v1alpha1.WatchIgnored {
				d.purposes[purpose] = true
			}
		}
		if spec.ControlPlane.APIServer != v1alpha1.WatchIgnored {
			d.expiry = append(d.expiry, spec.ControlPlane.Expiry)
		}
	}
	return d
}

// purposes are all that can be demanded, with where to look for them.
var purposes = []struct {
	purpose v1alpha1.CertificatePurpose
	source  string
}{
	{v1alpha1.PurposeClusterCA, "the Cluster CA"},
	{v1alpha1.PurposeClusterTrustBundle, "ClusterTrustBundles"},
	{v1alpha1.PurposeAPIServer, "the API server"},
	{v1alpha1.PurposeClientCA, authenticationConfigMap.String()},
	{v1alpha1.PurposeAggregationCA, authenticationConfigMap.String()},
	{v1alpha1.PurposeAPIServiceCA, "APIServices"},
	{v1alpha1.PurposeWebhookCA, "webhook configurations"},
	{v1alpha1.PurposeConversionWebhookCA, "CustomResourceDefinitions"},
}
