// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// MaxChainLength is how many certificates VerifyServing accepts in what a server presented. Real chains have up to
	// four.
	MaxChainLength = 16
	// MaxRSAKeyBits is the largest RSA key with which VerifyServing and SelfSigned check a signature that a server
	// presented: the time that takes grows with the square of the size. crypto/tls has the same limit.
	MaxRSAKeyBits = 8192

	// maxCAChecks bounds the search for the CA that has expired.
	maxCAChecks = 32
)

// ErrCAExpired is in the errors of VerifyServing whose cause is that a CA has expired, or is not valid yet: the
// certificate does come from a CA in the trust bundle, but nobody accepts it.
var ErrCAExpired = errors.New("CA certificate is outside of its validity")

// TrustBundle is an immutable set of CA certificates that clients trust, such as the Cluster CA.
//
// It holds whatever it was given and judges none of it: a bundle in which one CA has expired is still good for what
// the others signed, and its owner learns of the expiry from Certificates. Certificates that are not CAs are kept as
// well. Nothing that they signed verifies, but as in every client that uses crypto/x509, a server that presents that
// very certificate does.
type TrustBundle struct {
	certs       []*x509.Certificate
	roots       *x509.CertPool
	fingerprint string
}

// NewTrustBundle reads a trust bundle in PEM, as ParseCertificates does.
func NewTrustBundle(pemData []byte) (*TrustBundle, error) {
	certs, err := ParseCertificates(pemData)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	bundle := &TrustBundle{roots: x509.NewCertPool()}
	var sums [][]byte
	seen := map[[sha256.Size]byte]bool{}
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		if seen[sum] {
			continue
		}
		seen[sum] = true
		sums = append(sums, sum[:])
		bundle.certs = append(bundle.certs, cert)
		bundle.roots.AddCert(cert)
	}
	slices.SortFunc(sums, bytes.Compare)
	total := sha256.Sum256(slices.Concat(sums...))
	bundle.fingerprint = hex.EncodeToString(total[:])
	return bundle, nil
}

// Certificates are the bundle's certificates, each once, in the bundle's order.
func (b *TrustBundle) Certificates() []*x509.Certificate { return slices.Clone(b.certs) }

// Fingerprint is a SHA-256 in lower-case hexadecimal of the set of certificates. Order, repetition and text in the
// PEM data do not change it.
func (b *TrustBundle) Fingerprint() string { return b.fingerprint }

// VerifyServing says whether a CA of the bundle signed the certificate that a server presented, for serverAuth: nil
// if so, else why not. chain is what was presented, the certificate first and then its intermediate CAs; no
// certificate in it is trusted, so a server gains nothing from presenting its own root.
//
// The question is who signed the certificate. Whether it is past its own notAfter is judged elsewhere, so the check
// is made at that moment of the certificate's validity that is nearest to now. Neither is a name matched: see
// CoversAddress.
//
// A CA of the bundle that signed it, and is not valid at that moment, makes an error that is ErrCAExpired, names the CA
// and says when it expired.
// Errors hold no time that moves by itself, and are bounded in length.
func (b *TrustBundle) VerifyServing(chain []*x509.Certificate, now time.Time) error {
	if err := checkPresented(chain); err != nil {
		return err
	}
	leaf := chain[0]
	at := now
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	if at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         b.roots,
		Intermediates: intermediates,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil {
		return nil
	}
	return b.explain(chain, at, err)
}

// checkPresented refuses what is not worth a signature check, or would make it expensive.
func checkPresented(chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0:
		return errors.New("no certificate was presented")
	case len(chain) > MaxChainLength:
		return fmt.Errorf("%d certificates were presented, more than the %d that are looked at", len(chain), MaxChainLength)
	case chain[0].NotAfter.Before(chain[0].NotBefore):
		return fmt.Errorf("certificate %s is never valid: its notAfter is before its notBefore", quoteName(chain[0].Subject))
	}
	for i, cert := range chain {
		if bits := rsaBits(cert); bits > MaxRSAKeyBits {
			return fmt.Errorf("presented certificate %d has an RSA key of %d bits, more than the %d that are used",
				i+1, bits, MaxRSAKeyBits)
		}
	}
	return nil
}

func rsaBits(cert *x509.Certificate) int {
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok {
		return key.N.BitLen()
	}
	return 0
}

// explain turns crypto/x509's error into one that names the cause and holds no moving time.
func (b *TrustBundle) explain(chain []*x509.Certificate, at time.Time, err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	expired := errors.As(err, &invalid) && invalid.Reason == x509.Expired
	if expired || errors.As(err, &unknown) {
		// crypto/x509 reports the last CA that it tried, which need not be the one that matters.
		if ca := b.signerOutsideValidity(chain, at); ca != nil {
			return fmt.Errorf("%w: the trust bundle's CA %s", ErrCAExpired, validity(ca, at))
		}
	}
	if expired { // which may be anybody's, with a name of its choice
		return fmt.Errorf("certificate of issuer %s does not verify: the intermediate CA %s",
			quoteName(chain[0].Issuer), validity(invalid.Cert, at))
	}
	return fmt.Errorf("certificate of issuer %s does not verify: %w", quoteName(chain[0].Issuer), bound(err))
}

// signerOutsideValidity finds the CA in the bundle that signed one of the presented certificates and is not valid at
// that time.
func (b *TrustBundle) signerOutsideValidity(chain []*x509.Certificate, at time.Time) *x509.Certificate {
	checks := 0
	for _, cert := range chain {
		for _, ca := range b.certs {
			if !bytes.Equal(cert.RawIssuer, ca.RawSubject) || validAt(ca, at) {
				continue
			}
			if checks++; checks > maxCAChecks {
				return nil
			}
			if cert.CheckSignatureFrom(ca) == nil {
				return ca
			}
		}
	}
	return nil
}

func validAt(cert *x509.Certificate, at time.Time) bool {
	return !at.Before(cert.NotBefore) && !at.After(cert.NotAfter)
}

// validity names the CA and says when it stopped or starts being valid.
func validity(ca *x509.Certificate, at time.Time) string {
	if at.Before(ca.NotBefore) {
		return fmt.Sprintf("%s is not valid before %s", quoteName(ca.Subject), timestamp(ca.NotBefore))
	}
	return fmt.Sprintf("%s expired at %s", quoteName(ca.Subject), timestamp(ca.NotAfter))
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
