// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/connrotation"
)

// shared is what the kubelets of one process have in common, so that a kubelet costs little.
type shared struct {
	api            *rest.Config // no TLS settings and no credentials
	tls            *tls.Config  // verifies the API server; cloned, so that all share one pool
	bootstrap      kubernetes.Interface
	closeBootstrap func()
	clientCA       dynamiccertificates.CAContentProvider
	clientCAs      *x509.CertPool
	compiler       authorizationcel.Compiler
	log            logr.Logger
	onHandshake    atomic.Pointer[func(node string)] // nil: nobody watches
}

func newShared(join Join) (*shared, error) {
	if join.API == nil || join.API.Host == "" {
		return nil, errors.New("kubelet join: api is empty: set the REST config of the API server")
	}
	api := rest.AnonymousClientConfig(join.API)
	// TLSConfigFor loads a CA file into the config, from where the default of ClientCA is taken.
	tlsConfig, err := rest.TLSConfigFor(api)
	if err != nil {
		return nil, fmt.Errorf("kubelet join: api: read its TLS settings: %w", err)
	}
	if tlsConfig == nil {
		return nil, fmt.Errorf("kubelet join: api: %s has no CA: set TLSClientConfig.CAData", api.Host)
	}
	if err := rest.LoadTLSFiles(api); err != nil {
		return nil, fmt.Errorf("kubelet join: api: read its CA file: %w", err)
	}
	clientCA := join.ClientCA
	if len(clientCA) == 0 {
		clientCA = api.CAData
	}
	s := &shared{
		api:       &rest.Config{Host: api.Host, APIPath: api.APIPath, QPS: -1},
		tls:       tlsConfig,
		clientCAs: x509.NewCertPool(),
		compiler:  authorizationcel.NewDefaultCompiler(),
		log:       join.Log,
	}
	s.api.ContentType = runtime.ContentTypeProtobuf
	s.api.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if !s.clientCAs.AppendCertsFromPEM(clientCA) {
		return nil, errors.New("kubelet join: clientCA holds no certificate: set a PEM bundle")
	}
	if s.clientCA, err = dynamiccertificates.NewStaticCAContent("client-ca-bundle", clientCA); err != nil {
		return nil, fmt.Errorf("kubelet join: clientCA: %w", err)
	}
	s.bootstrap, s.closeBootstrap, err = s.client("bootstrap", nil, join.BootstrapToken)
	return s, err
}

// client returns a client with connections of its own, and the function that closes them.
func (s *shared) client(
	version string, certificate func() *tls.Certificate, token string,
) (kubernetes.Interface, func(), error) {
	tlsConfig := s.tls.Clone()
	if certificate != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if current := certificate(); current != nil {
				return current, nil
			}
			return &tls.Certificate{}, nil // anonymous
		}
	}
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	connections := &http.Transport{
		DialContext:         dialer.DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     15 * time.Second, // thousands of idle connections would cost more than a handshake
	}
	var tripper http.RoundTripper = connections
	if token != "" {
		tripper = transport.NewBearerAuthRoundTripper(token, tripper)
	}
	tripper = transport.NewUserAgentRoundTripper("kubelet/"+version+" (simulated)", tripper)
	client, err := kubernetes.NewForConfigAndClient(s.api, &http.Client{Transport: tripper})
	if err != nil {
		return nil, nil, fmt.Errorf("build a client of %s: %w", s.api.Host, err)
	}
	closeConnections := func() {
		dialer.CloseAll()
		connections.CloseIdleConnections()
	}
	return client, closeConnections, nil
}
