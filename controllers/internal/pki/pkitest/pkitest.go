// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pkitest builds certificates and certificate requests for tests. Only tests may import it.
//
//	ca := pkitest.NewCA("cluster-ca")
//	leaf := ca.Leaf(pkitest.Node("node-1"), pkitest.IPAddresses("127.0.0.1"), pkitest.Lifetime(notBefore, notAfter))
//	bundle, err := pki.NewTrustBundle(ca.PEM())
//	err = bundle.VerifyServing(leaf.Chain(), now)
//
// What is not said gets a default: certificates start at Start, a leaf lives for LeafLifetime (so that one day is one
// percent of its life), a CA for CALifetime, and a leaf is for serverAuth. A builder panics on what crypto/x509 refuses
// to encode: that is a mistake in the test.
package pkitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const (
	// LeafLifetime is how long a leaf lives unless Lifetime says otherwise: 100 days.
	LeafLifetime = 100 * 24 * time.Hour
	// CALifetime is how long a CA lives unless Lifetime says otherwise: ten years of 365 days.
	CALifetime = 10 * 365 * 24 * time.Hour
	// SelfSignedLifetime is how long a kubelet's self-signed certificate lives.
	SelfSignedLifetime = 365 * 24 * time.Hour
)

// Start is the notBefore of every certificate for which Lifetime says nothing else: 2026-01-01 00:00 UTC.
func Start() time.Time { return time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC) }

// Certificate is a certificate and its key.
type Certificate struct {
	// X509 is the certificate, as parsed from its encoded form.
	X509 *x509.Certificate
	// Key is the certificate's private key.
	Key crypto.Signer

	intermediates []*x509.Certificate
}

// CA is a certification authority.
type CA struct {
	Certificate
}

// template is what options change: a certificate and a request have these fields in common.
type template struct {
	certificate x509.Certificate
	key         crypto.Signer
}

// Option changes the certificate or request to be built.
type Option func(*template)

// CommonName sets the subject's common name.
func CommonName(name string) Option {
	return func(t *template) { t.certificate.Subject.CommonName = name }
}

// Organization sets the subject's organizations.
func Organization(names ...string) Option {
	return func(t *template) { t.certificate.Subject.Organization = names }
}

// Node gives the subject of a kubelet: common name system:node:<name>, organization system:nodes.
func Node(name string) Option {
	return func(t *template) {
		t.certificate.Subject = pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
	}
}

// Lifetime sets notBefore and notAfter. Certificates know whole seconds only.
func Lifetime(notBefore, notAfter time.Time) Option {
	return func(t *template) {
		t.certificate.NotBefore = notBefore
		t.certificate.NotAfter = notAfter
	}
}

// DNSNames sets the DNS subject alternative names.
func DNSNames(names ...string) Option {
	return func(t *template) { t.certificate.DNSNames = names }
}

// IPAddresses sets the IP subject alternative names.
func IPAddresses(addresses ...string) Option {
	return func(t *template) {
		t.certificate.IPAddresses = nil
		for _, address := range addresses {
			t.certificate.IPAddresses = append(t.certificate.IPAddresses, net.IP(netip.MustParseAddr(address).AsSlice()))
		}
	}
}

// EmailAddresses sets the e-mail subject alternative names.
func EmailAddresses(addresses ...string) Option {
	return func(t *template) { t.certificate.EmailAddresses = addresses }
}

// URIs sets the URI subject alternative names.
func URIs(uris ...string) Option {
	return func(t *template) {
		t.certificate.URIs = nil
		for _, uri := range uris {
			parsed, err := url.Parse(uri)
			check(err)
			t.certificate.URIs = append(t.certificate.URIs, parsed)
		}
	}
}

// ExtKeyUsages sets the extended key usages. None at all means every usage.
func ExtKeyUsages(usages ...x509.ExtKeyUsage) Option {
	return func(t *template) { t.certificate.ExtKeyUsage = usages }
}

// SerialNumber sets the serial number.
func SerialNumber(serial *big.Int) Option {
	return func(t *template) { t.certificate.SerialNumber = serial }
}

// Key sets the private key. Unless set, each certificate has a new ECDSA P-256 key.
func Key(key crypto.Signer) Option {
	return func(t *template) { t.key = key }
}

// Template changes whatever has no option of its own. In a request only the subject and its alternative names count.
func Template(change func(*x509.Certificate)) Option {
	return func(t *template) { change(&t.certificate) }
}

// NewCA makes a self-signed CA with this common name.
func NewCA(commonName string, options ...Option) *CA {
	return &CA{Certificate: *build(caDefaults(commonName), nil, options)}
}

// Intermediate makes a CA with this common name that this CA signed. What it signs presents it in its chain.
func (c *CA) Intermediate(commonName string, options ...Option) *CA {
	return &CA{Certificate: *build(caDefaults(commonName), c, options)}
}

// Leaf makes a certificate for serverAuth that this CA signed.
func (c *CA) Leaf(options ...Option) *Certificate {
	return build(leafDefaults(), c, options)
}

// Renewed makes another certificate of this CA: same subject and key, other lifetime or whatever the options say.
func (c *CA) Renewed(options ...Option) *CA {
	return NewCA(c.X509.Subject.CommonName, append([]Option{Key(c.Key)}, options...)...)
}

// SelfSigned makes a leaf that is signed with its own key, so that its issuer is its subject.
func SelfSigned(options ...Option) *Certificate {
	return build(leafDefaults(), nil, options)
}

// AKSSelfSigned makes the serving certificate of an AKS node without serving certificate rotation: issuer is subject, a
// CA certificate, 20 years, the host's DNS name only.
func AKSSelfSigned(host string, options ...Option) *Certificate {
	defaults := []Option{
		CommonName(host), DNSNames(host), Lifetime(Start(), Start().AddDate(20, 0, 0)), ExtKeyUsages(),
		Template(func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, 0
		}),
	}
	return SelfSigned(append(defaults, options...)...)
}

// KubeletSelfSigned makes what a kubelet without serverTLSBootstrap serves: a certificate <host>@<unix> signed by a CA
// <host>-ca@<unix> that it made for that and presents in the chain, one year.
func KubeletSelfSigned(host string, options ...Option) *Certificate {
	unix := strconv.FormatInt(Start().Unix(), 10)
	lifetime := Lifetime(Start(), Start().Add(SelfSignedLifetime))
	ca := NewCA(host+"-ca@"+unix, lifetime)
	leaf := ca.Leaf(append([]Option{CommonName(host + "@" + unix), DNSNames(host), lifetime}, options...)...)
	leaf.intermediates = []*x509.Certificate{ca.X509}
	return leaf
}

// Chain is what a server with this certificate presents: the certificate, then its intermediate CAs. The root is not
// in it.
func (c *Certificate) Chain() []*x509.Certificate {
	return append([]*x509.Certificate{c.X509}, c.intermediates...)
}

// PEM is the certificate in PEM.
func (c *Certificate) PEM() []byte { return PEM(c.X509) }

// ChainPEM is the chain in PEM.
func (c *Certificate) ChainPEM() []byte { return PEM(c.Chain()...) }

// KeyPEM is the private key in PEM (PKCS #8).
func (c *Certificate) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TLS is the chain and key for a crypto/tls server or client. More certificates are appended to the chain.
func (c *Certificate) TLS(more ...*x509.Certificate) tls.Certificate {
	result := tls.Certificate{PrivateKey: c.Key, Leaf: c.X509}
	for _, cert := range slices.Concat(c.Chain(), more) {
		result.Certificate = append(result.Certificate, cert.Raw)
	}
	return result
}

// PEM encodes certificates as CERTIFICATE blocks.
func PEM(certs ...*x509.Certificate) []byte {
	var result []byte
	for _, cert := range certs {
		result = append(result, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return result
}

// Request makes a certificate request in PEM, as the spec.request of a CertificateSigningRequest has it.
func Request(options ...Option) []byte {
	t := apply(template{}, options)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         t.certificate.Subject,
		DNSNames:        t.certificate.DNSNames,
		IPAddresses:     t.certificate.IPAddresses,
		EmailAddresses:  t.certificate.EmailAddresses,
		URIs:            t.certificate.URIs,
		ExtraExtensions: t.certificate.ExtraExtensions,
	}, t.key)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// SignRequest makes the certificate that this CA issues for a request in PEM. As Kubernetes' signer does, it takes over
// the subject and the alternative names. The result has no key: the requester keeps it.
func (c *CA) SignRequest(pemData []byte, options ...Option) *Certificate {
	block, _ := pem.Decode(pemData)
	if block == nil {
		panic("pkitest: no PEM block in the request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	check(err)
	t := leafDefaults()
	t.certificate.Subject = request.Subject
	t.certificate.DNSNames = request.DNSNames
	t.certificate.IPAddresses = request.IPAddresses
	return sign(apply(t, options), c, request.PublicKey)
}

func caDefaults(commonName string) template {
	return template{certificate: x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             Start(),
		NotAfter:              Start().Add(CALifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}}
}

func leafDefaults() template {
	return template{certificate: x509.Certificate{
		NotBefore:             Start(),
		NotAfter:              Start().Add(LeafLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}}
}

func apply(t template, options []Option) template {
	for _, option := range options {
		option(&t)
	}
	if t.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		t.key = key
	}
	return t
}

func build(t template, issuer *CA, options []Option) *Certificate {
	t = apply(t, options)
	result := sign(t, issuer, t.key.Public())
	result.Key = t.key
	return result
}

// sign encodes and parses the certificate; a nil issuer makes it self-signed.
func sign(t template, issuer *CA, public crypto.PublicKey) *Certificate {
	parent, key := &t.certificate, t.key
	var intermediates []*x509.Certificate
	if issuer != nil {
		parent, key = issuer.X509, issuer.Key
		if issuer.X509.Issuer.String() != issuer.X509.Subject.String() {
			intermediates = issuer.Chain()
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &t.certificate, parent, public, key)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	return &Certificate{X509: cert, intermediates: intermediates}
}

func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("pkitest: %v", err))
	}
}
