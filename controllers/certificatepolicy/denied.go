// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"errors"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// signingRequestUse is what the requests to a signer are read for, and which conditions stay open without them. The lifetime
// of a client certificate is known from nowhere else, that of a serving certificate from the handshake.
var signingRequestUse = map[string]policy.Denial{
	certificatesv1.KubeletServingSignerName: {
		Source: "the kubelets' requests for serving certificates", Concerns: []string{v1alpha1.ConditionBootstrapHealthy},
		SignerName: certificatesv1.KubeletServingSignerName,
	},
	certificatesv1.KubeAPIServerClientKubeletSignerName: {
		Source:     "the kubelets' client certificates, and their requests for them",
		Concerns:   []string{v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionCertificatesCurrent},
		SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
	},
}

// trustBundleUses are what the Cluster CA is read for.
var trustBundleUses = []policy.Denial{
	{
		Source:   "the CA of the kubelets' serving certificates",
		Concerns: []string{v1alpha1.ConditionServingRotationEnabled},
		Purposes: []v1alpha1.CertificatePurpose{v1alpha1.PurposeKubeletServing},
	},
	{
		Source:   "the Cluster CA",
		Concerns: []string{v1alpha1.ConditionControlPlaneHealthy, v1alpha1.ConditionCertificatesCurrent},
		Purposes: []v1alpha1.CertificatePurpose{v1alpha1.PurposeClusterCA},
	},
}

// trustDenials tells of a Cluster CA that may not be read. What else is wrong with it, Input.TrustError says.
func trustDenials(err error) []policy.Denial {
	denied, ok := errors.AsType[*optional.DeniedError](err)
	if !ok {
		return nil
	}
	result := make([]policy.Denial, len(trustBundleUses))
	for i, use := range trustBundleUses {
		result[i] = unread(use, denied.Permission, denied)
	}
	return result
}

// unread is the denial of what a source with this error was used for. The permission is what it takes to read the source.
func unread(use policy.Denial, permission string, err error) policy.Denial {
	use.Permission, use.Reason, use.Message = permission, v1alpha1.ReasonNotObserved, err.Error()
	if denied, ok := errors.AsType[*optional.DeniedError](err); ok {
		use.Permission, use.Reason, use.Message = denied.Permission, v1alpha1.ReasonAccessDenied, denied.Err.Error()
	}
	return use
}
