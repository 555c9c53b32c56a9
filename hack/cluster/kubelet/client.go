// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
)

const (
	clientStorePrefix  = "kubelet-client"
	servingStorePrefix = "kubelet-server"
	// oneShotTimeout is how long the bootstrap without rotation waits for its certificate, and oneShotRetry how long it
	// takes systemd to start a kubelet again that gave up.
	oneShotTimeout = time.Hour
	oneShotRetry   = 10 * time.Second
)

// clientIdentity is the part that gets, keeps and renews the client certificate. A renewer is one.
type clientIdentity interface {
	Start()
	Stop()
	Current() *tls.Certificate
}

// nodeSubject is who a kubelet is, in both of its certificates.
func nodeSubject(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

// newRotatingClient renews through the node's own client, and falls back to the bootstrap token when there is no valid
// certificate: what a kubelet with rotateCertificates does (pkg/kubelet/certificate/bootstrap in Kubernetes).
func newRotatingClient(
	ctx context.Context, name string, store certificate.Store,
	bootstrap, own kubernetes.Interface, failures prometheus.Counter,
) (*renewer, error) {
	template := &x509.CertificateRequest{Subject: nodeSubject(name)}
	return newRenewer(ctx, certificate.Config{
		ClientsetFn: func(current *tls.Certificate) (kubernetes.Interface, error) {
			if current == nil {
				return bootstrap, nil
			}
			return own, nil
		},
		GetTemplate:             func() *x509.CertificateRequest { return template },
		SignerName:              certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:               certificate.DefaultKubeletClientGetUsages,
		CertificateStore:        store,
		CertificateRenewFailure: failures,
	})
}

// oneShotClient requests the client certificate once, with the bootstrap token, and keeps it for good: what a kubelet
// without rotateCertificates does.
type oneShotClient struct {
	name      string
	store     certificate.Store
	bootstrap kubernetes.Interface
	current   atomic.Pointer[tls.Certificate]
	ctx       context.Context //nolint:containedctx // from Start to Stop, which mirror certificate.Manager
	cancel    context.CancelFunc
	done      chan struct{}
}

func newOneShotClient(
	ctx context.Context, name string, store certificate.Store, bootstrap kubernetes.Interface,
) (*oneShotClient, error) {
	c := &oneShotClient{name: name, store: store, bootstrap: bootstrap, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	stored, err := store.Current()
	var none *certificate.NoCertKeyError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return nil, fmt.Errorf("read the stored client certificate: %w", err)
	case time.Now().Before(stored.Leaf.NotAfter):
		c.current.Store(stored)
	}
	return c, nil
}

// Current returns the certificate even when it is expired: without rotation, nothing looks.
func (c *oneShotClient) Current() *tls.Certificate { return c.current.Load() }

// Start requests a certificate unless there is one.
func (c *oneShotClient) Start() {
	go func() {
		defer close(c.done)
		if c.current.Load() != nil {
			return
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			klog.FromContext(c.ctx).Error(err, "Cannot generate the client key")
			return
		}
		// The key stays the same, and with it the request's name: a kubelet that starts again finds its own request.
		_ = wait.PollUntilContextCancel(c.ctx, oneShotRetry, true, func(ctx context.Context) (bool, error) {
			if err := c.request(ctx, key); err != nil {
				klog.FromContext(ctx).Error(err, "Cannot bootstrap")
				return false, nil
			}
			return true, nil
		})
	}()
}

// Stop ends the request and waits for it.
func (c *oneShotClient) Stop() {
	c.cancel()
	<-c.done
}

func (c *oneShotClient) request(ctx context.Context, key *ecdsa.PrivateKey) error {
	subject := nodeSubject(c.name)
	request, err := certutil.MakeCSR(key, &subject, nil, nil)
	if err != nil {
		return fmt.Errorf("make the client certificate request: %w", err)
	}
	name, err := requestName(key.Public(), subject.CommonName)
	if err != nil {
		return err
	}
	usages := certificate.DefaultKubeletClientGetUsages(key)
	name, uid, err := csr.RequestCertificateWithContext(ctx, c.bootstrap, request, name,
		certificatesv1.KubeAPIServerClientKubeletSignerName, nil, usages, key)
	if err != nil {
		return fmt.Errorf("request the client certificate: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, oneShotTimeout)
	defer cancel()
	certPEM, err := csr.WaitForCertificate(ctx, c.bootstrap, name, uid)
	if err != nil {
		return fmt.Errorf("wait for request %q: %w", name, err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encode the client key: %w", err)
	}
	stored, err := c.store.Update(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("store the client certificate: %w", err)
	}
	c.current.Store(stored)
	return nil
}

// requestName is the same for the same key and subject.
func requestName(public crypto.PublicKey, commonName string) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode the client public key: %w", err)
	}
	digest := sha256.Sum256(append(der, commonName...))
	return "node-csr-" + base64.RawURLEncoding.EncodeToString(digest[:]), nil
}
