// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// maxNames is how many subject alternative names a request may have. A node of a cloud can have a hundred addresses.
	maxNames = 256
	// maxResolved is how many DNS names of one request are looked up.
	maxResolved = 16

	// minRSABits is the least that clients accept, and maxRSABits the most that those written in Go do.
	minRSABits, maxRSABits = 2048, 8192
)

var (
	subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	commonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	organization   = asn1.ObjectIdentifier{2, 5, 4, 10}
)

// asked is what a request asks for, in canonical form.
type asked struct {
	// node is whose request it is.
	node  string
	ips   []netip.Addr
	names []string
	// duration is the lifetime that it names; zero: none.
	duration time.Duration
}

func askedOf(node string, req *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) *asked {
	a := &asked{node: node}
	for _, ip := range request.IPAddresses {
		if address, ok := netip.AddrFromSlice(ip); ok {
			a.ips = append(a.ips, address.Unmap())
		}
	}
	for _, name := range request.DNSNames {
		a.names = append(a.names, CanonicalAddress(name))
	}
	slices.SortFunc(a.ips, netip.Addr.Compare)
	slices.Sort(a.names)
	a.ips, a.names = slices.Compact(a.ips), slices.Compact(a.names)
	if seconds := req.Spec.ExpirationSeconds; seconds != nil {
		a.duration = time.Duration(*seconds) * time.Second
	}
	return a
}

// objectionable is what no policy can allow in a kubelet's request, beyond what its signer refuses. Kubelets ask for none of it,
// kube-controller-manager's signer drops most of it, and another signer may not.
func objectionable(request *x509.CertificateRequest) (Reason, string) {
	if extra := extras(request); extra != "" {
		return ReasonUnexpectedContent, extra
	}
	if problem := badKey(request.PublicKey); problem != "" {
		return ReasonKeyNotAllowed, problem
	}
	if n := len(request.DNSNames) + len(request.IPAddresses); n > maxNames {
		return ReasonTooManyNames, fmt.Sprintf("there are %d subject alternative names, more than %d", n, maxNames)
	}
	return "", ""
}

// extras names what a request has besides a common name, an organization and subject alternative names of the kinds DNS and IP.
func extras(request *x509.CertificateRequest) string {
	for _, attribute := range request.Subject.Names {
		if !attribute.Type.Equal(commonName) && !attribute.Type.Equal(organization) {
			return fmt.Sprintf("the subject has the attribute %s, want a common name and an organization only", short(attribute.Type))
		}
	}
	if n := len(request.Subject.Names); n > 2 {
		return fmt.Sprintf("the subject has %d attributes, want one common name and one organization", n)
	}
	for _, extension := range request.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			return fmt.Sprintf("the extension %s is requested, want subject alternative names only", short(extension.Id))
		}
		if names := len(request.DNSNames) + len(request.IPAddresses); countNames(extension.Value) != names {
			return "there are subject alternative names of other kinds than DNS and IP"
		}
	}
	return ""
}

// short is an object identifier, which can be of any length.
func short(id asn1.ObjectIdentifier) string {
	return text.Field(id[:min(len(id), 16)].String(), maxQuoted)
}

// countNames is how many names of whatever kind the value of a subject alternative name extension holds; -1 if it can't be
// read.
func countNames(value []byte) int {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 {
		return -1
	}
	return len(names)
}

// badKey says what is wrong with a public key: its kind, or its size.
func badKey(public any) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Sprintf("the key is RSA with %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
		if key.E < 3 || key.E%2 == 0 {
			return fmt.Sprintf("the key is RSA with the exponent %d", key.E)
		}
		return ""
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return ""
		}
		return fmt.Sprintf("the key is ECDSA on the curve %s, want P-256, P-384 or P-521", key.Params().Name)
	case ed25519.PublicKey:
		return ""
	}
	return "the key is none of RSA, ECDSA and Ed25519"
}
