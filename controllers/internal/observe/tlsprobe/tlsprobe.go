// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tlsprobe looks at the certificate that a kubelet or an API server serves, by one TLS handshake over which nothing
// is sent. The peer is hostile until proven otherwise: a node chooses its own address and port, so everything read from it
// is bounded in time, in bytes and in the number of certificates.
package tlsprobe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	// maxBytes bounds what is read from a peer. A kubelet's whole handshake takes some 4 KiB.
	maxBytes = 128 << 10
	// maxCertificates bounds the chain, and with it the work of verifying it.
	maxCertificates = 10
)

var (
	errTooManyBytes        = fmt.Errorf("the peer sent more than %d KiB", maxBytes>>10)
	errTooManyCertificates = fmt.Errorf("the peer presented more than %d certificates", maxCertificates)
)

// Target is the server to look at.
type Target struct {
	// Address is its IP address and port.
	Address netip.AddrPort
	// Host, if set, is a DNS name that is connected to on the port of Address, and that the server is told. The IP address
	// does not count then.
	Host string
}

func (t Target) dialAddress() string {
	if t.Host != "" {
		return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Address.Port())))
	}
	return t.Address.String()
}

func (t Target) serverName() string {
	return cmp.Or(t.Host, t.Address.Addr().String())
}

// Result is what one handshake showed.
type Result struct {
	// Outcome is how the handshake ended.
	Outcome v1alpha1.ProbeOutcome
	// Chain is what the peer presented, the leaf first. It is not verified; that the peer holds the leaf's private key is.
	// Empty unless the outcome is CertificatePresented.
	Chain []*x509.Certificate
	// Message is the error, if the outcome is not CertificatePresented. It holds no ephemeral port or other number that
	// moves by itself, and nothing that is not printable.
	Message string
	// TimedOut says that the probe ended because its time was over.
	TimedOut bool
	// Duration is how long the probe took.
	Duration time.Duration
}

// Prober makes handshakes. It may be used by several goroutines at once.
type Prober struct {
	clock  clock.PassiveClock
	dialer net.Dialer
}

// New returns a Prober that measures durations by the clock.
func New(c clock.PassiveClock) *Prober {
	// No keep-alive: the connection does not outlive the handshake.
	return &Prober{clock: c, dialer: net.Dialer{KeepAlive: -1}}
}

// Probe makes one handshake with the target. It returns within the timeout, which bounds connecting and the handshake
// together. A result is also returned when ctx ends first; it then says nothing about the target.
func (p *Prober) Probe(ctx context.Context, target Target, timeout time.Duration) Result {
	started := p.clock.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result := p.probe(ctx, target)
	result.Duration = p.clock.Since(started)
	return result
}

func (p *Prober) probe(ctx context.Context, target Target) Result {
	conn, err := p.dialer.DialContext(ctx, "tcp", target.dialAddress())
	if err != nil {
		return Result{
			Outcome: v1alpha1.ProbeUnreachable, Message: describe("connecting", err), TimedOut: timedOut(err),
		}
	}
	return handshake(ctx, conn, target)
}

// handshake closes conn.
func handshake(ctx context.Context, conn net.Conn, target Target) Result {
	presented := false
	client := tls.Client(&boundedConn{Conn: conn, left: maxBytes}, &tls.Config{
		// The chain is taken as it is: who signed it is judged afterwards, against the trust bundle, because a
		// certificate that does not verify is exactly what has to be reported.
		InsecureSkipVerify: true, //nolint:gosec // nothing is sent and nothing read over this connection
		ServerName:         target.serverName(),
		MinVersion:         tls.VersionTLS12,
		VerifyConnection: func(state tls.ConnectionState) error {
			presented = true
			if len(state.PeerCertificates) > maxCertificates {
				return errTooManyCertificates
			}
			return nil
		},
	})
	// The error of closing a connection over which nothing was exchanged tells nothing.
	defer func() { _ = client.Close() }()

	err := client.HandshakeContext(ctx)
	switch {
	case err == nil:
		return Result{Outcome: v1alpha1.ProbeCertificatePresented, Chain: client.ConnectionState().PeerCertificates}
	case !presented && isInternalError(err):
		return Result{Outcome: v1alpha1.ProbeNoCertificate, Message: describe("handshake", err)}
	default:
		return Result{
			Outcome: v1alpha1.ProbeHandshakeFailed, Message: describe("handshake", err), TimedOut: timedOut(err),
		}
	}
}

// alertInternalError is what a kubelet without a valid serving certificate answers: crypto/tls sends it when the server's
// GetCertificate returns an error (RFC 8446 section 6.2).
const alertInternalError = tls.AlertError(80)

// isInternalError says whether err is the peer's alert internal_error. crypto/tls wraps the alerts it received in a
// net.OpError; their type is not exported, but prints like tls.AlertError.
func isInternalError(err error) bool {
	var opError *net.OpError
	return errors.As(err, &opError) && opError.Op == opRemoteError && opError.Err != nil &&
		opError.Err.Error() == alertInternalError.Error()
}

// boundedConn fails reads once the peer has sent too much.
type boundedConn struct {
	net.Conn
	left int
}

// Read implements net.Conn.
func (c *boundedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooManyBytes
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
