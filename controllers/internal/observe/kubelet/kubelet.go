// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubelet asks a kubelet about itself: its configuration on /configz, and on /metrics how long its client certificate
// lives and how often renewals failed.
//
// That takes a credential, and a node chooses its own address and port. So the token is written only to a connection whose
// handshake is complete and whose certificate verified, by the trust bundle, for the very address that was dialed. No
// redirect is followed, no proxy is used, and everything read is bounded in time and in bytes: a kubelet may be taken over.
package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"k8s.io/utils/clock"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
)

const (
	// maxHandshakeBytes bounds what is read before the peer is verified. A kubelet's whole handshake takes some 4 KiB.
	maxHandshakeBytes = 128 << 10
	// maxHeaderBytes bounds the header of an answer.
	maxHeaderBytes = 32 << 10
	// maxMetricsBytes bounds /metrics, which is 160 KiB on an idle node, and maxConfigBytes /configz, which is some 4 KiB.
	maxMetricsBytes = 8 << 20
	maxConfigBytes  = 1 << 20

	metricsPath = "/metrics"
	configPath  = "/configz"
)

var errHandshakeTooLong = fmt.Errorf("the peer sent more than %d KiB in the handshake", maxHandshakeBytes>>10)

// Tokens give the credential.
type Tokens interface {
	// Token returns a bearer token. An error that is an AccessError says which permission is missing.
	Token(ctx context.Context) (string, error)
	// Rejected says that a kubelet did not accept the token.
	Rejected(ctx context.Context, token string)
	// Account is the ServiceAccount that the tokens are of, for messages.
	Account() string
}

// Target is the kubelet to ask.
type Target struct {
	// Address is its IP address and port.
	Address netip.AddrPort
	// Trust is what its serving certificate has to verify with.
	Trust *pki.TrustBundle
}

// Result is what a kubelet said.
type Result struct {
	// Outcome is how asking it ended: Read only if all was read that there is to read.
	Outcome v1alpha1.KubeletOutcome
	// Message is the error, unless the outcome is Read. It holds no number that moves by itself.
	Message string
	// Missing are the permissions for want of which the outcome is AccessDenied.
	Missing []string
	// Config is what /configz says; nil when it was not read.
	Config *Config
	// Metrics are the series of /metrics; nil when they were not read.
	Metrics *Metrics
	// At is when the metrics were read.
	At time.Time
	// TimedOut says that it ended because its time was over.
	TimedOut bool
	// Duration is how long it took.
	Duration time.Duration
}

// Reader asks kubelets. It may be used by several goroutines at once.
type Reader struct {
	clock  clock.PassiveClock
	tokens Tokens
	dialer net.Dialer
}

// New returns a Reader that asks with the tokens.
func New(c clock.PassiveClock, tokens Tokens) *Reader {
	return &Reader{clock: c, tokens: tokens, dialer: net.Dialer{KeepAlive: -1}}
}

// Read asks the target. It returns within the timeout, which bounds everything together.
func (r *Reader) Read(ctx context.Context, target Target, timeout time.Duration) Result {
	started := r.clock.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result := r.read(ctx, target)
	result.Duration = r.clock.Since(started)
	return result
}

func (r *Reader) read(ctx context.Context, target Target) Result {
	if target.Trust == nil {
		return Result{Outcome: v1alpha1.KubeletUnverified, Message: "there is no trust bundle to verify the kubelet with"}
	}
	// The connection comes first: a kubelet that does not verify costs no token.
	conn, err := r.connect(ctx, target)
	if err != nil {
		return outcome(err)
	}
	transport := r.transport(ctx, target, conn)
	// What closing them could tell is of no use: all that was wanted has been read.
	defer func() { transport.CloseIdleConnections(); _ = conn.Close() }()
	token, err := r.tokens.Token(ctx)
	if err != nil {
		return outcome(err)
	}
	c := call{transport: transport, target: target, token: token, tokens: r.tokens}
	var found Result
	onMetrics := c.get(ctx, metricsPath, maxMetricsBytes, func(body io.Reader) (err error) {
		found.Metrics, err = parseMetrics(body)
		return err
	})
	found.At = r.clock.Now()
	if onMetrics != nil && refused(onMetrics) == "" {
		return outcome(onMetrics)
	}
	onConfig := c.get(ctx, configPath, maxConfigBytes, func(body io.Reader) (err error) {
		found.Config, err = parseConfig(body)
		return err
	})
	if onMetrics == nil && errors.Is(onConfig, errAbsent) {
		// As it is with enableDebuggingHandlers: false (pkg/kubelet/server in Kubernetes). The metrics show what is set.
		onConfig = nil
	}
	ended := outcome(onMetrics, onConfig)
	found.Outcome, found.Message, found.Missing, found.TimedOut = ended.Outcome, ended.Message, ended.Missing, ended.TimedOut
	return found
}

// connect returns a connection whose peer is verified. Until then nothing but the handshake was sent.
func (r *Reader) connect(ctx context.Context, target Target) (net.Conn, error) {
	raw, err := r.dialer.DialContext(ctx, "tcp", target.Address.String())
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	bounded := &boundedConn{Conn: raw, left: maxHandshakeBytes}
	conn := tls.Client(bounded, r.tlsConfig(target))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // nothing was exchanged over it
		return nil, fmt.Errorf("handshake: %w", err)
	}
	bounded.verified = true
	return conn, nil
}

// tlsConfig has crypto/tls verify the peer, its validity and its name included. A kubelet's certificate has to name the
// address that was dialed; no name comes from the node.
func (r *Reader) tlsConfig(target Target) *tls.Config {
	roots := x509.NewCertPool()
	for _, ca := range target.Trust.Certificates() {
		roots.AddCert(ca)
	}
	return &tls.Config{
		RootCAs:    roots,
		ServerName: target.Address.Addr().String(),
		Time:       r.clock.Now,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
	}
}

// transport makes requests over the connection, and over others to the same address once that is closed. It knows no way to
// get one but connect.
func (r *Reader) transport(ctx context.Context, target Target, conn net.Conn) *http.Transport {
	first := make(chan net.Conn, 1)
	first <- conn
	return &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return r.connect(ctx, target)
			}
		},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("a kubelet is asked over TLS only")
		},
		// A compressed body could be of any size.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxConnsPerHost:        1,
	}
}

// call is the requests over one connection.
type call struct {
	transport http.RoundTripper
	target    Target
	token     string
	tokens    Tokens
}

// get makes one request and hands the body of an answer of status 200 to parse, as far as it is within the limit.
func (c call) get(ctx context.Context, path string, limit int64, parse func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.target.Address.String()+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Accept", accepted[path])
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "notafter")
	// RoundTrip, unlike a client, follows no redirect.
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// An error of closing what was read to its end, or is not wanted any more, tells nothing.
	defer func() { _ = response.Body.Close() }()
	body := http.MaxBytesReader(nil, response.Body, limit)
	switch {
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		c.reject(ctx, response.StatusCode)
		// A short answer is read, so that the connection can be used for the next request.
		_, _ = io.CopyN(io.Discard, body, maxHeaderBytes)
		return c.denied(path, response.StatusCode)
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w", path, errAbsent)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %w %d", path, errStatus, response.StatusCode)
	case response.Header.Get("Content-Encoding") != "" && response.Header.Get("Content-Encoding") != "identity":
		return fmt.Errorf("%s: %w", path, errEncoding)
	}
	if err := parse(body); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// accepted are the media types asked for.
var accepted = map[string]string{metricsPath: "text/plain;version=0.0.4", configPath: "application/json"}

func (c call) reject(ctx context.Context, status int) {
	if status == http.StatusUnauthorized {
		c.tokens.Rejected(ctx, c.token)
	}
}

// denied says which permission the kubelet misses. It asks the API server who the token is of (401) and what that one may do
// (403), see pkg/kubelet/server/auth.go in Kubernetes.
func (c call) denied(path string, status int) error {
	resource := map[string]string{metricsPath: "nodes/metrics", configPath: "nodes/configz"}[path]
	if status == http.StatusUnauthorized {
		return &AccessError{Permission: "get " + resource, Reason: fmt.Sprintf("the kubelet does not accept the token of "+
			"ServiceAccount %s (status 401): it needs authentication.webhook.enabled to know it", c.tokens.Account())}
	}
	reason := fmt.Sprintf("the kubelet refuses %s (status 403): grant ServiceAccount %s get on %s", path, c.tokens.Account(),
		resource)
	if path == configPath {
		reason += "; a kubelet before 1.33 does not know that permission"
	}
	return &AccessError{Permission: "get " + resource, Reason: reason}
}

// boundedConn fails reads once the peer has sent too much before it was verified. Afterwards the bodies are bounded, and
// so is the time.
type boundedConn struct {
	net.Conn
	left     int
	verified bool
}

// Read implements net.Conn.
func (c *boundedConn) Read(b []byte) (int, error) {
	if c.verified {
		return c.Conn.Read(b)
	}
	if c.left <= 0 {
		return 0, errHandshakeTooLong
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
