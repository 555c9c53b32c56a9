// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"crypto/x509"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Limits of the API, in runes and items.
const (
	maxMessage          = 512
	maxName             = 256
	maxAlternativeName  = 253
	maxAlternativeNames = 256
	// maxNamesBytes is for all DNS names of a certificate together. It has room for those of any request that notafter approves
	// (csr.MaxRequestBytes), all of which are to be known: what a node was issued a certificate for, no other can claim.
	maxNamesBytes = csr.MaxRequestBytes
)

// The API carries times as RFC 3339, whose years have four digits, and takes the zero time for an absent one. A certificate
// may hold either: X.509 counts from the year 0 on, with time zones.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
)

// certificateStatus describes a certificate. Whatever the certificate holds, the API server accepts the result and gives back
// what it was given.
func certificateStatus(
	purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource, cert *x509.Certificate,
) v1alpha1.CertificateStatus {
	status := v1alpha1.CertificateStatus{
		Purpose:      purpose,
		Source:       source,
		Subject:      text.Field(cert.Subject.String(), maxName),
		Issuer:       text.Field(cert.Issuer.String(), maxName),
		SerialNumber: pki.SerialNumber(cert),
		SHA256:       pki.Fingerprint(cert),
		NotBefore:    boundedTime(cert.NotBefore),
		NotAfter:     boundedTime(cert.NotAfter),
	}
	left := maxNamesBytes
	for _, name := range cert.DNSNames[:min(len(cert.DNSNames), maxAlternativeNames)] {
		name = text.Field(name, maxAlternativeName)
		if left -= len(name); left < 0 {
			break
		}
		status.DNSNames = append(status.DNSNames, name)
	}
	for _, address := range cert.IPAddresses[:min(len(cert.IPAddresses), maxAlternativeNames)] {
		status.IPAddresses = append(status.IPAddresses, address.String())
	}
	return status
}

func boundedTime(t time.Time) metav1.Time {
	switch {
	case t.Before(earliest):
		t = earliest
	case t.After(latest):
		t = latest
	}
	return seconds(t)
}

// seconds is the time as the API keeps it: in whole seconds. A more exact time would differ from what is read back.
func seconds(t time.Time) metav1.Time {
	return metav1.NewTime(t.UTC().Truncate(time.Second))
}
