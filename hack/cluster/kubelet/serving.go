// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/keyutil"
)

// servingIdentity is the part that has the serving certificate.
type servingIdentity struct {
	manager  *renewer         // nil unless the mode is ServingRotation
	static   *tls.Certificate // nil if it is
	certFile string           // tlsCertFile and tlsPrivateKeyFile of /configz
	keyFile  string
	template atomic.Pointer[x509.CertificateRequest]
}

func (s *servingIdentity) start() {
	if s.manager != nil {
		s.manager.Start()
	}
}

func (s *servingIdentity) stop() {
	if s.manager != nil {
		s.manager.Stop()
	}
}

func (s *servingIdentity) current() *tls.Certificate {
	if s.manager != nil {
		return s.manager.Current()
	}
	return s.static
}

// observe tells which addresses the Node has. Like a kubelet's, the request follows the Node, and there is none
// while the Node has no IP address.
func (s *servingIdentity) observe(name string, addresses []corev1.NodeAddress) {
	dnsNames, ips := sets.New[string](), sets.New[string]()
	for _, address := range addresses {
		isIP := net.ParseIP(address.Address) != nil
		switch address.Type {
		case corev1.NodeInternalIP, corev1.NodeExternalIP:
			if isIP {
				ips.Insert(address.Address)
			}
		case corev1.NodeHostName:
			if isIP {
				ips.Insert(address.Address)
			} else {
				dnsNames.Insert(address.Address)
			}
		case corev1.NodeInternalDNS, corev1.NodeExternalDNS:
			dnsNames.Insert(address.Address)
		}
	}
	if ips.Len() == 0 {
		s.template.Store(nil)
		return
	}
	template := &x509.CertificateRequest{Subject: nodeSubject(name), DNSNames: sets.List(dnsNames)}
	for _, ip := range sets.List(ips) {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	s.template.Store(template)
}

func newServing(
	ctx context.Context, o Options, pki string, own kubernetes.Interface, m *metrics,
) (*servingIdentity, error) {
	switch o.Serving {
	case ServingSelfSigned:
		return newStaticServing(filepath.Join(pki, "kubelet"), func() (*tls.Certificate, error) {
			return SelfSigned(o.Name, time.Now())
		})
	case ServingStatic:
		return newStaticServing(filepath.Join(o.Dir, "certs", "kubeletserver"), func() (*tls.Certificate, error) {
			if o.ServingCertificate != nil {
				return o.ServingCertificate, nil
			}
			return AKSSelfSigned(o.Name, time.Now())
		})
	default:
		return newRotatingServing(ctx, pki, own, m)
	}
}

func newRotatingServing(
	ctx context.Context, pki string, own kubernetes.Interface, m *metrics,
) (*servingIdentity, error) {
	store, err := newStore(ctx, servingStorePrefix, pki)
	if err != nil {
		return nil, err
	}
	s := &servingIdentity{}
	s.manager, err = newRenewer(ctx, certificate.Config{
		ClientsetFn:             func(*tls.Certificate) (kubernetes.Interface, error) { return own, nil },
		GetTemplate:             s.template.Load,
		SignerName:              certificatesv1.KubeletServingSignerName,
		GetUsages:               certificate.DefaultKubeletServingGetUsages,
		CertificateStore:        store,
		CertificateRotation:     m.servingRotation,
		CertificateRenewFailure: m.servingFailures,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// newStaticServing reads the pair path.crt and path.key, and makes it first where it does not exist. It is read once:
// a kubelet does not look again.
func newStaticServing(path string, generate func() (*tls.Certificate, error)) (*servingIdentity, error) {
	s := &servingIdentity{certFile: path + ".crt", keyFile: path + ".key"}
	if _, err := os.Stat(s.certFile); errors.Is(err, fs.ErrNotExist) {
		pair, err := generate()
		if err != nil {
			return nil, err
		}
		certPEM, keyPEM, err := encodePair(pair)
		if err != nil {
			return nil, fmt.Errorf("static serving certificate: %w", err)
		}
		if err := certutil.WriteCert(s.certFile, certPEM); err != nil {
			return nil, fmt.Errorf("write %s: %w", s.certFile, err)
		}
		if err := keyutil.WriteKey(s.keyFile, keyPEM); err != nil {
			return nil, fmt.Errorf("write %s: %w", s.keyFile, err)
		}
	}
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return nil, fmt.Errorf("load the serving certificate %s: %w", s.certFile, err)
	}
	s.static = &pair
	return s, nil
}

// seed stores a pair as if an earlier life of the kubelet had.
func seed(ctx context.Context, prefix, pki string, pair *tls.Certificate) error {
	if pair == nil {
		return nil
	}
	store, err := newStore(ctx, prefix, pki)
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := encodePair(pair)
	if err != nil {
		return fmt.Errorf("store %s certificate: %w", prefix, err)
	}
	if _, err := store.Update(certPEM, keyPEM); err != nil {
		return fmt.Errorf("store %s certificate in %s: %w", prefix, pki, err)
	}
	return nil
}
