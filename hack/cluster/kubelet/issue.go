// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// CA signs certificates for tests and the demo: the Cluster CA itself, or another one.
type CA struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// Leaf says what to put into a certificate.
type Leaf struct {
	Subject     pkix.Name
	DNSNames    []string
	IPAddresses []net.IP
	NotBefore   time.Time
	NotAfter    time.Time
	// Usage is serverAuth for a serving certificate, clientAuth for a client certificate.
	Usage x509.ExtKeyUsage
}

// Window returns the lifetime of a certificate that lives so long, and of which so many percent are over by now: 85
// for one that is due for rotation, 95 for one that is overdue, 110 for an expired one.
func Window(lifetime time.Duration, percent int) (notBefore, notAfter time.Time) {
	notBefore = time.Now().Add(-lifetime / 100 * time.Duration(percent))
	return notBefore, notBefore.Add(lifetime)
}

// ClientLeaf describes the client certificate of a kubelet.
func ClientLeaf(node string, notBefore, notAfter time.Time) Leaf {
	return Leaf{
		Subject: nodeSubject(node), NotBefore: notBefore, NotAfter: notAfter, Usage: x509.ExtKeyUsageClientAuth,
	}
}

// ServingLeaf describes the serving certificate of a kubelet.
func ServingLeaf(node string, address net.IP, notBefore, notAfter time.Time) Leaf {
	return Leaf{
		Subject: nodeSubject(node), DNSNames: []string{node}, IPAddresses: []net.IP{address},
		NotBefore: notBefore, NotAfter: notAfter, Usage: x509.ExtKeyUsageServerAuth,
	}
}

// ClusterCA returns the CA that consists of a certificate and its key: ClusterCA(c.CA()) for a cluster c.
func ClusterCA(certificate *x509.Certificate, key crypto.Signer) CA {
	return CA{Certificate: certificate, Key: key}
}

// NewCA makes a CA of its own, one that a cluster does not know.
func NewCA(commonName string, notBefore, notAfter time.Time) (CA, error) {
	pair, err := selfSign(&x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	})
	if err != nil {
		return CA{}, fmt.Errorf("make CA %q: %w", commonName, err)
	}
	return CA{Certificate: pair.Leaf, Key: pair.PrivateKey.(*ecdsa.PrivateKey)}, nil
}

// Issue signs a certificate for a new key. Unlike a signer in a cluster it checks nothing.
func (ca CA) Issue(leaf Leaf) (*tls.Certificate, error) {
	if ca.Certificate == nil || ca.Key == nil {
		return nil, errors.New("issue a certificate: the CA is empty: set its Certificate and Key")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %q: generate its key: %w", leaf.Subject.CommonName, err)
	}
	template := &x509.Certificate{
		Subject: leaf.Subject, DNSNames: leaf.DNSNames, IPAddresses: leaf.IPAddresses,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{leaf.Usage},
		BasicConstraintsValid: true,
	}
	return sign(template, ca.Certificate, key, ca.Key)
}

// SelfSigned makes the certificate that a kubelet makes for itself: CN host@unix, signed by a host-ca@unix which it
// makes for the purpose and forgets, for a year from an hour ago. The chain holds both.
func SelfSigned(host string, now time.Time) (*tls.Certificate, error) {
	notBefore := now.Add(-time.Hour)
	notAfter := notBefore.Add(365 * 24 * time.Hour)
	ca, err := NewCA(fmt.Sprintf("%s-ca@%d", host, now.Unix()), notBefore, notAfter)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(Leaf{
		Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", host, now.Unix())}, DNSNames: []string{host},
		NotBefore: notBefore, NotAfter: notAfter, Usage: x509.ExtKeyUsageServerAuth,
	})
	if err != nil {
		return nil, err
	}
	pair.Certificate = append(pair.Certificate, ca.Certificate.Raw)
	return pair, nil
}

// AKSSelfSigned makes the certificate that a node of AKS has without serving certificate rotation: its own issuer,
// CA:TRUE, for 20 years, a DNS SAN only.
func AKSSelfSigned(host string, now time.Time) (*tls.Certificate, error) {
	pair, err := selfSign(&x509.Certificate{
		Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now, NotAfter: now.Add(20 * 365 * 24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make a self-signed certificate for %q: %w", host, err)
	}
	return pair, nil
}

func selfSign(template *x509.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate its key: %w", err)
	}
	return sign(template, template, key, key)
}

func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) (*tls.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", template.Subject.CommonName, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func encodePair(pair *tls.Certificate) (certPEM, keyPEM []byte, err error) {
	for _, der := range pair.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: der})...)
	}
	keyPEM, err = keyutil.MarshalPrivateKeyToPEM(pair.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the private key: %w", err)
	}
	return certPEM, keyPEM, nil
}
