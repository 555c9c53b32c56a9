// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
)

var errStopping = errors.New("the kubelet is stopping")

// renewer is client-go's certificate manager, made to end when it is stopped. A kubelet never stops its own, and so
// nobody minds that one that waits for its next rotation goes on waiting for months. A changed template wakes it.
type renewer struct {
	certificate.Manager
	started  bool
	stopping atomic.Bool
	woken    chan struct{}
}

// newRenewer takes GetTemplate, ClientsetFn and CertificateStore of the config over, all of which must be set.
func newRenewer(ctx context.Context, config certificate.Config) (*renewer, error) {
	r := &renewer{woken: make(chan struct{}, 1)}
	template, client := config.GetTemplate, config.ClientsetFn
	farewell := &x509.CertificateRequest{Subject: pkix.Name{CommonName: errStopping.Error()}}
	config.GetTemplate = func() *x509.CertificateRequest {
		if r.stopping.Load() {
			return farewell
		}
		return template()
	}
	config.ClientsetFn = func(current *tls.Certificate) (kubernetes.Interface, error) {
		if !r.stopping.Load() {
			return client(current)
		}
		select {
		case r.woken <- struct{}{}:
		default:
		}
		return nil, errStopping
	}
	config.CertificateStore = &closableStore{Store: config.CertificateStore, closed: &r.stopping}
	logging := context.WithoutCancel(ctx) // without a Done channel, for which the manager would keep a goroutine
	config.Ctx = &logging
	var err error
	if r.Manager, err = certificate.NewManager(&config); err != nil {
		return nil, fmt.Errorf("certificate manager of %s: %w", config.SignerName, err)
	}
	return r, nil
}

// Start starts it. It must be called before Stop, not at the same time.
func (r *renewer) Start() {
	r.started = true
	r.Manager.Start()
}

// Stop ends it: from now on it requests and stores nothing. Its goroutines need about two seconds to notice.
func (r *renewer) Stop() {
	r.stopping.Store(true)
	if !r.started {
		r.Manager.Stop()
		return
	}
	go func() {
		const patience = 5 * time.Second
		timeout := time.NewTimer(patience)
		defer timeout.Stop()
		select {
		case <-r.woken:
		case <-timeout.C:
		}
		r.Manager.Stop()
	}()
}

// closableStore takes nothing any more once it is closed, so that a kubelet that was stopped does not change files
// which its next life reads.
type closableStore struct {
	certificate.Store
	closed *atomic.Bool
}

// Update stores a pair.
func (s *closableStore) Update(cert, key []byte) (*tls.Certificate, error) {
	if s.closed.Load() {
		return nil, errStopping
	}
	return s.Store.Update(cert, key)
}
