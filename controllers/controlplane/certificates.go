// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"regexp"
	"slices"
	"time"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/policy"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Limits of the API, in runes.
const (
	maxName    = 256
	maxMessage = 512
)

// The API carries times as RFC 3339, whose years have four digits, and takes the zero time for an absent one.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
)

// described is a certificate as the judge sees it. Whatever it holds, the API server accepts what is made of it.
func described(purpose v1alpha1.CertificatePurpose, source string, cert *x509.Certificate) policy.Certificate {
	return policy.Certificate{
		Purpose: purpose, Source: source,
		Subject: text.Field(cert.Subject.String(), maxName), Issuer: text.Field(cert.Issuer.String(), maxName),
		SerialNumber: pki.SerialNumber(cert), SHA256: pki.Fingerprint(cert),
		NotBefore: boundedTime(cert.NotBefore), NotAfter: boundedTime(cert.NotAfter),
	}
}

// describedBundle are a bundle's certificates, each once. What signed them does not limit them: clients trust each
// certificate of a bundle for itself.
func describedBundle(
	purpose v1alpha1.CertificatePurpose, source string, certs []*x509.Certificate,
) []policy.Certificate {
	result := make([]policy.Certificate, 0, len(certs))
	seen := make(map[[sha256.Size]byte]struct{}, len(certs))
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		if _, ok := seen[sum]; ok {
			continue
		}
		seen[sum] = struct{}{}
		result = append(result, described(purpose, source, cert))
	}
	return result
}

// issuerNotAfter is when the last way to verify the presented certificate ends: of the paths from it to a CA of the bundle
// the one that lasts longest, which lasts as long as its first CA to expire. Zero when there is none. The certificate must
// have passed VerifyServing, which bounds the work.
func issuerNotAfter(trusted *pki.TrustBundle, chain []*x509.Certificate) time.Time {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, cert := range trusted.Certificates() {
		roots.AddCert(cert)
	}
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	// Every path counts, whatever is valid now, and so each is looked for at the time when it begins.
	var last time.Time
	for _, at := range beginnings(trusted.Certificates(), chain) {
		paths, err := chain[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: at,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			continue // no path at that time; the others count
		}
		for _, path := range paths {
			if ends := firstToExpire(path[1:]); ends.After(last) {
				last = ends
			}
		}
	}
	if last.IsZero() {
		return last
	}
	return boundedTime(last)
}

// beginnings are the moments in the presented certificate's validity at which one more certificate becomes valid.
func beginnings(trusted, chain []*x509.Certificate) []time.Time {
	leaf := chain[0]
	moments := []time.Time{leaf.NotBefore}
	for _, cert := range slices.Concat(trusted, chain[1:]) {
		if cert.NotBefore.After(leaf.NotBefore) && !cert.NotBefore.After(leaf.NotAfter) {
			moments = append(moments, cert.NotBefore)
		}
	}
	return moments
}

func firstToExpire(path []*x509.Certificate) time.Time {
	var first time.Time
	for _, cert := range path {
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	return first
}

// authority is what makes a CA the same CA in another certificate: its name and its key. What it signed verifies with
// either.
type authority struct{ subject, key string }

func authorityOf(cert *x509.Certificate) authority {
	return authority{subject: string(cert.RawSubject), key: string(cert.RawSubjectPublicKeyInfo)}
}

// clusterCAs tells which certificates are of the Cluster CA, and which are of one that it replaced.
type clusterCAs struct {
	current []*x509.Certificate
	// replaced are those that this process saw in the Cluster CA's bundle before.
	replaced map[authority]struct{}
}

// maxReplaced bounds the memory of replaced Cluster CAs. One that is rotated out every day for two months fills it.
const maxReplaced = 64

// update takes over the current bundle and remembers what is no longer in it.
func (c *clusterCAs) update(trusted *pki.TrustBundle) {
	former := c.current
	c.current = trusted.Certificates()
	if c.replaced == nil {
		c.replaced = map[authority]struct{}{}
	}
	for _, cert := range former {
		if len(c.replaced) < maxReplaced {
			c.replaced[authorityOf(cert)] = struct{}{}
		}
	}
	for _, cert := range c.current {
		delete(c.replaced, authorityOf(cert))
	}
}

// stale says whether a CA bundle holds nothing but certificates of Cluster CAs that were replaced, so that what the Cluster
// CA signs no longer verifies with it. A certificate of the current Cluster CA's name and key is the current one, however
// it was renewed. One is known for a former one
//
//   - if this process saw it in the Cluster CA's bundle before; or
//   - if it is a self-signed CA of the current one's exact name, older than it and with the same kind of key, but with
//     another key: what the tools leave behind that make a new Cluster CA under the old name, as AKS and kubeadm do.
//
// The limits: after a restart of this process, a Cluster CA that was replaced by one of another name is a stranger, and not
// reported; and so is one in a bundle next to a stranger, with which the bundle may well work. The other way round, a CA of
// somebody else that happens to have the Cluster CA's name and kind of key and is older is taken for a former one.
func (c *clusterCAs) stale(certs []*x509.Certificate) bool {
	if len(c.current) == 0 || len(certs) == 0 {
		return false
	}
	return !slices.ContainsFunc(certs, func(cert *x509.Certificate) bool { return !c.former(cert) })
}

func (c *clusterCAs) former(cert *x509.Certificate) bool {
	identity := authorityOf(cert)
	if slices.ContainsFunc(c.current, func(ca *x509.Certificate) bool { return authorityOf(ca) == identity }) {
		return false
	}
	if _, ok := c.replaced[identity]; ok {
		return true
	}
	selfSigned := cert.IsCA && bytes.Equal(cert.RawSubject, cert.RawIssuer)
	return selfSigned && slices.ContainsFunc(c.current, func(ca *x509.Certificate) bool {
		return bytes.Equal(ca.RawSubject, cert.RawSubject) && cert.NotBefore.Before(ca.NotBefore) &&
			keyKind(ca) == keyKind(cert)
	})
}

// keyKind is the algorithm and the size of a certificate's key.
func keyKind(cert *x509.Certificate) (kind struct {
	algorithm x509.PublicKeyAlgorithm
	bits      int
}) {
	kind.algorithm = cert.PublicKeyAlgorithm
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		kind.bits = key.N.BitLen()
	case *ecdsa.PublicKey:
		kind.bits = key.Curve.Params().BitSize
	}
	return kind
}

func boundedTime(t time.Time) time.Time {
	switch {
	case t.Before(earliest):
		t = earliest
	case t.After(latest):
		t = latest
	}
	return t.UTC().Truncate(time.Second)
}

var (
	// ephemeralPort is that of a connection's own end, and currentTime is in the errors of crypto/x509 about expired
	// certificates. Both differ each time, between two equal failures.
	ephemeralPort = regexp.MustCompile(`:\d+->`)
	currentTime   = regexp.MustCompile(`current time \S+ is`)
)

// steady takes out of an error's text what moves by itself.
func steady(text string) string {
	return currentTime.ReplaceAllString(ephemeralPort.ReplaceAllString(text, "->"), "current time is")
}

// compareCertificates orders them by purpose, source and what they are.
func compareCertificates(a, b policy.Certificate) int {
	return cmp.Or(cmp.Compare(a.Purpose, b.Purpose), cmp.Compare(a.Source, b.Source), a.NotAfter.Compare(b.NotAfter),
		cmp.Compare(a.SHA256, b.SHA256))
}
