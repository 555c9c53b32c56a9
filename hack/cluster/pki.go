// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// pkiLifetime is that of every certificate made here: far longer than any cluster of this package lives.
	pkiLifetime = 365 * 24 * time.Hour
	// pkiBackdate makes the CAs older than the certificates that tests make with them, long expired ones among them: a
	// CA signs nothing that is older than itself.
	pkiBackdate = 90 * 24 * time.Hour
)

const (
	caName = "notafter local "
	// clusterCA is the name of the files of the CA that signs.
	clusterCA     = "cluster-ca"
	clusterCAName = caName + clusterCA
	// trustFile holds the Cluster CA as it is published, and clientCAFile the CAs whose clients the API server accepts.
	trustFile    = "trust.crt"
	clientCAFile = "client-ca.crt"
)

// keyPair is a certificate with its private key, often an authority's.
type keyPair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// pki is everything that a cluster's components prove themselves with.
type pki struct {
	cluster    keyPair // signs the API server, every client and, through the controller manager, every kubelet
	etcd       keyPair // its own: nobody but the API server may talk to etcd
	frontProxy keyPair // signs the API server as the client of aggregated APIs
}

// writePKI makes a new pki and the files that the components read.
// address is one that the API server is reached at besides 127.0.0.1, or nil.
func writePKI(dir string, address net.IP) (pki, error) {
	var p pki
	for name, ca := range map[string]*keyPair{
		clusterCA: &p.cluster, "etcd-ca": &p.etcd, "front-proxy-ca": &p.frontProxy,
	} {
		made, err := newCA(caName + name)
		if err != nil {
			return p, err
		}
		if err := made.write(dir, name); err != nil {
			return p, err
		}
		*ca = made
	}

	for _, name := range []string{trustFile, clientCAFile} { // more than the CA that signs, while it is being replaced
		if err := writeFile(filepath.Join(dir, name), certPEM(p.cluster.cert)); err != nil {
			return p, err
		}
	}

	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaves := []struct {
		name     string
		issuer   keyPair
		template x509.Certificate
	}{
		{"etcd", p.etcd, x509.Certificate{Subject: subject("etcd"), IPAddresses: loopback, ExtKeyUsage: both}},
		{"etcd-client", p.etcd, clientTemplate("kube-apiserver-etcd-client")},
		{"apiserver", p.cluster, apiServerTemplate(address)},
		{"kubelet-client", p.cluster, clientTemplate("kube-apiserver-kubelet-client", adminGroup)},
		{"front-proxy-client", p.frontProxy, clientTemplate("front-proxy-client")},
	}
	for _, leaf := range leaves {
		pair, err := leaf.issuer.sign(leaf.template)
		if err != nil {
			return p, fmt.Errorf("certificate %s: %w", leaf.name, err)
		}
		if err := pair.write(dir, leaf.name); err != nil {
			return p, err
		}
	}
	return p, writeServiceAccountKey(dir)
}

// apiServerTemplate is the API server's serving certificate. address is as in writePKI.
func apiServerTemplate(address net.IP) x509.Certificate {
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), serviceIP}
	if address != nil {
		addresses = append(addresses, address)
	}
	return x509.Certificate{
		Subject: subject("kube-apiserver"), IPAddresses: addresses,
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func writeServiceAccountKey(dir string) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	data, err := keyPEM(key)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "service-account.key"), data)
}

// newCA makes a certificate authority. ECDSA keys are made in no time, unlike RSA ones.
func newCA(name string) (keyPair, error) {
	key, err := newKey()
	if err != nil {
		return keyPair{}, err
	}
	ca := keyPair{key: key, cert: &x509.Certificate{Subject: subject(name)}}
	cert, err := ca.issue(x509.Certificate{
		Subject: subject(name), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}, key.Public())
	if err != nil {
		return keyPair{}, fmt.Errorf("certificate authority %q: %w", name, err)
	}
	ca.cert = cert
	return ca, nil
}

// sign makes a key and a certificate for it.
func (k keyPair) sign(template x509.Certificate) (keyPair, error) {
	key, err := newKey()
	if err != nil {
		return keyPair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	cert, err := k.issue(template, key.Public())
	return keyPair{cert: cert, key: key}, err
}

// issue fills in serial number and validity and signs.
func (k keyPair) issue(template x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-pkiBackdate), now.Add(pkiLifetime)
	if ends := k.cert.NotAfter; !ends.IsZero() && ends.Before(template.NotAfter) {
		template.NotAfter = ends // the CA was made a moment ago, and no certificate is to outlive it
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, k.cert, public, k.key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return x509.ParseCertificate(der)
}

func (k keyPair) write(dir, name string) error {
	key, err := keyPEM(k.key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, name+".key"), key); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), certPEM(k.cert))
}

// readKeyPair reads what write wrote.
func readKeyPair(dir, name string) (keyPair, error) {
	certificate, err := readPEM(filepath.Join(dir, name+".crt"))
	if err != nil {
		return keyPair{}, err
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return keyPair{}, fmt.Errorf("certificate %s: %w", name, err)
	}
	private, err := readPEM(filepath.Join(dir, name+".key"))
	if err != nil {
		return keyPair{}, err
	}
	key, err := x509.ParseECPrivateKey(private)
	if err != nil {
		return keyPair{}, fmt.Errorf("key %s: %w", name, err)
	}
	return keyPair{cert: cert, key: key}, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a cluster's keys: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	return block.Bytes, nil
}

func subject(name string, groups ...string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: groups}
}

func clientTemplate(user string, groups ...string) x509.Certificate {
	return x509.Certificate{
		Subject: subject(user, groups...), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("writing the cluster's files: %w", err)
	}
	return nil
}
