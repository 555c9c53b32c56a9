// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"cmp"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// purposes are what the certificates of the watched signers are for.
var purposes = map[string]v1alpha1.CertificatePurpose{
	certificatesv1.KubeletServingSignerName:             v1alpha1.PurposeKubeletServing,
	certificatesv1.KubeAPIServerClientKubeletSignerName: v1alpha1.PurposeKubeletClient,
}

// facts is all that the status of one NodeCertificates is made of.
type facts struct {
	// previous is the status until now; zero for a Node seen for the first time.
	previous v1alpha1.NodeCertificatesStatus
	// evidence is what the latest probe showed; nil when there was none since this process started.
	evidence *evidence
	// answers is what asking the kubelet about itself came to; nil when it was not asked since this process started.
	answers *answers
	// requests are the node's CertificateSigningRequests that exist, by signer name.
	requests map[string][]*certificatesv1.CertificateSigningRequest
	now      time.Time
}

// status is what is known. What the facts say nothing about stays as it was. The error tells of issued certificates that
// cannot be read; the status holds all the rest.
func (f facts) status() (v1alpha1.NodeCertificatesStatus, error) {
	certificates, err := f.certificates()
	return v1alpha1.NodeCertificatesStatus{
		Serving:         f.serving(),
		Kubelet:         f.kubelet(certificates),
		Certificates:    certificates,
		SigningRequests: f.signingRequests(),
	}, err
}

func (f facts) serving() *v1alpha1.ServingStatus {
	previous := f.previous.Serving
	switch {
	case f.evidence == nil:
		return previous.DeepCopy()
	case f.evidence.unwanted:
		return nil
	}
	serving := f.evidence.serving
	serving.Since = seconds(f.now)
	if previous != nil && previous.Mode == serving.Mode && previous.Outcome == serving.Outcome {
		serving.Since = previous.Since
	}
	return &serving
}

func (f facts) signingRequests() []v1alpha1.SigningRequestStatus {
	var result []v1alpha1.SigningRequestStatus
	for _, previous := range f.previous.SigningRequests {
		if _, watched := f.requests[previous.SignerName]; !watched {
			result = append(result, *previous.DeepCopy())
		}
	}
	for signer, requests := range f.requests {
		if summary := csr.Summarize(signer, previousRequest(f.previous, signer), requests, f.now); summary != nil {
			result = append(result, *summary)
		}
	}
	slices.SortFunc(result, func(a, b v1alpha1.SigningRequestStatus) int { return cmp.Compare(a.SignerName, b.SignerName) })
	return result
}

func previousRequest(status v1alpha1.NodeCertificatesStatus, signer string) *v1alpha1.SigningRequestStatus {
	for i := range status.SigningRequests {
		if status.SigningRequests[i].SignerName == signer {
			return &status.SigningRequests[i]
		}
	}
	return nil
}

// certificates are the newest known ones, in a fixed order.
func (f facts) certificates() ([]v1alpha1.CertificateStatus, error) {
	var errs []error
	result := slices.Clone(f.previous.Certificates)
	result = f.withPresented(result)
	for signer, requests := range f.requests {
		issued, err := newestIssued(signer, requests)
		if err != nil {
			errs = append(errs, err)
		}
		if issued == nil {
			continue
		}
		// The newest request may have been deleted while an older one still exists.
		known := certificate(result, issued.Purpose, issued.Source)
		if known == nil || !issued.NotBefore.Before(&known.NotBefore) {
			result = replace(result, *issued)
		}
	}
	slices.SortFunc(result, func(a, b v1alpha1.CertificateStatus) int {
		return cmp.Or(cmp.Compare(b.Purpose, a.Purpose), cmp.Compare(a.Source, b.Source))
	})
	return result, utilerrors.NewAggregate(errs)
}

// withPresented replaces the certificate in use by the one that was presented. A kubelet that could not be asked goes on using
// the one it had; a kubelet that says it has none uses none; and of one that nobody asks it is not known.
func (f facts) withPresented(certificates []v1alpha1.CertificateStatus) []v1alpha1.CertificateStatus {
	switch {
	case f.evidence == nil:
		return certificates
	case f.evidence.certificate != nil:
		return replace(certificates, *f.evidence.certificate)
	case f.evidence.unwanted, f.evidence.serving.Outcome == v1alpha1.ProbeNoCertificate:
		return slices.DeleteFunc(certificates, func(c v1alpha1.CertificateStatus) bool {
			return c.Purpose == v1alpha1.PurposeKubeletServing && c.Source == v1alpha1.SourceHandshake
		})
	default:
		return certificates
	}
}

// newestIssued is the certificate of the newest request whose certificate was issued; nil when there is none.
func newestIssued(
	signer string, requests []*certificatesv1.CertificateSigningRequest,
) (*v1alpha1.CertificateStatus, error) {
	var newest *certificatesv1.CertificateSigningRequest
	for _, request := range requests {
		if csr.Stage(request) == v1alpha1.StageIssued && (newest == nil || csr.CompareAge(request, newest) > 0) {
			newest = request
		}
	}
	if newest == nil {
		return nil, nil
	}
	cert, err := csr.Issued(newest)
	if err != nil || cert == nil {
		return nil, err
	}
	status := certificateStatus(purposes[signer], v1alpha1.SourceSigningRequest, cert)
	return &status, nil
}

// certificate finds the certificate with this purpose and source; nil when it is not known.
func certificate(
	certificates []v1alpha1.CertificateStatus, purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource,
) *v1alpha1.CertificateStatus {
	for i := range certificates {
		if certificates[i].Purpose == purpose && certificates[i].Source == source {
			return &certificates[i]
		}
	}
	return nil
}

// replace puts a certificate in the place of the one with its purpose and source. The list is changed in place.
func replace(certificates []v1alpha1.CertificateStatus, with v1alpha1.CertificateStatus) []v1alpha1.CertificateStatus {
	if known := certificate(certificates, with.Purpose, with.Source); known != nil {
		*known = with
		return certificates
	}
	return append(certificates, with)
}
