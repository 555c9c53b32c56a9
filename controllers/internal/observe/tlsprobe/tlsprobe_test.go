// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package tlsprobe_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

const (
	// generous is for peers that answer, and short for those that do not, all of which have been connected to by then.
	generous = 30 * time.Second
	short    = 3 * time.Second
)

// newCertificate returns a self-signed certificate, presented that many times more in its chain.
func newCertificate(extra int) tls.Certificate {
	leaf := pkitest.SelfSigned(pkitest.Node("one"), pkitest.IPAddresses("127.0.0.1"))
	return leaf.TLS(slices.Repeat([]*x509.Certificate{leaf.X509}, extra)...)
}

// listen serves every connection with handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) tlsprobe.Target {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			go func() {
				defer stop()
				defer func() { _ = conn.Close() }()
				handle(conn)
			}()
		}
	}()
	return targetOf(t, listener.Addr())
}

func targetOf(t *testing.T, address net.Addr) tlsprobe.Target {
	t.Helper()
	parsed, err := netip.ParseAddrPort(address.String())
	if err != nil {
		t.Fatal(err)
	}
	return tlsprobe.Target{Address: parsed}
}

// serveTLS makes the handshake as a server and then waits for the peer to go.
func serveTLS(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		server := tls.Server(conn, config)
		if server.Handshake() == nil {
			_, _ = io.Copy(io.Discard, server)
		}
	}
}

func probe(t *testing.T, target tlsprobe.Target, timeout time.Duration) tlsprobe.Result {
	t.Helper()
	started := time.Now()
	result := tlsprobe.New(clock.RealClock{}).Probe(t.Context(), target, timeout)
	if took := time.Since(started); took > timeout+time.Minute {
		t.Errorf("the probe took %v, with a timeout of %v", took, timeout)
	}
	if result.Duration <= 0 {
		t.Errorf("Duration = %v", result.Duration)
	}
	return result
}

func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("no serving certificate available for the kubelet")
}

func TestProbeCertificatePresented(t *testing.T) {
	certificate := newCertificate(1)
	for name, config := range map[string]*tls.Config{
		"TLS 1.3": {MinVersion: tls.VersionTLS13},
		"TLS 1.2": {MaxVersion: tls.VersionTLS12},
		// Kubelets ask for a client certificate; there is none to be had here.
		"TLS 1.3 with a client certificate asked for": {MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert},
		"TLS 1.2 with a client certificate asked for": {MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert},
	} {
		t.Run(name, func(t *testing.T) {
			received := make(chan tls.ConnectionState, 1)
			config.Certificates = []tls.Certificate{certificate}
			config.VerifyConnection = func(state tls.ConnectionState) error {
				received <- state
				return nil
			}
			result := probe(t, listen(t, serveTLS(config)), generous)
			if result.Outcome != v1alpha1.ProbeCertificatePresented || result.Message != "" || result.TimedOut {
				t.Fatalf("result = %+v", result)
			}
			if len(result.Chain) != 2 || result.Chain[0].Subject.CommonName != "system:node:one" {
				t.Errorf("chain = %v", result.Chain)
			}
			if state := <-received; len(state.PeerCertificates) != 0 || state.ServerName != "" {
				t.Errorf("the probe sent a certificate or a server name: %+v", state)
			}
		})
	}
}

func TestProbeByHost(t *testing.T) {
	asked := make(chan string, 1)
	target := listen(t, serveTLS(&tls.Config{
		Certificates: []tls.Certificate{newCertificate(0)}, MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			asked <- hello.ServerName
			return nil, nil
		},
	}))
	target = tlsprobe.Target{Host: "localhost", Address: netip.AddrPortFrom(netip.Addr{}, target.Address.Port())}
	if result := probe(t, target, generous); result.Outcome != v1alpha1.ProbeCertificatePresented {
		t.Fatalf("result = %+v", result)
	}
	if name := <-asked; name != "localhost" {
		t.Errorf("asked for the server %q", name)
	}
}

func TestProbeFailures(t *testing.T) {
	certificate := newCertificate(0)
	for name, test := range map[string]struct {
		handle   func(net.Conn)
		timeout  time.Duration
		outcome  v1alpha1.ProbeOutcome
		message  string
		timedOut bool
	}{
		"alert internal_error, TLS 1.3": {
			handle:  serveTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: noCertificate}),
			outcome: v1alpha1.ProbeNoCertificate, message: "handshake: remote error: tls: internal error",
		},
		"alert internal_error, TLS 1.2": {
			handle:  serveTLS(&tls.Config{MaxVersion: tls.VersionTLS12, GetCertificate: noCertificate}),
			outcome: v1alpha1.ProbeNoCertificate, message: "handshake: remote error: tls: internal error",
		},
		"another alert": {
			handle:  serveTLS(&tls.Config{MaxVersion: tls.VersionTLS11}),
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: remote error: tls: protocol version not supported",
		},
		"alert internal_error after the certificate": {
			handle:  serveTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{brokenKey(certificate)}}),
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: remote error: tls: internal error",
		},
		"hang": {
			handle:  func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
			timeout: short, outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: timed out", timedOut: true,
		},
		"one byte at a time, for ever": {
			handle: func(conn net.Conn) {
				ticker := time.NewTicker(20 * time.Millisecond)
				defer ticker.Stop()
				for _, b := range append([]byte{22, 3, 3, 0x3f, 0xff}, make([]byte, 0x3fff)...) {
					<-ticker.C
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
				}
			},
			timeout: short, outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: timed out", timedOut: true,
		},
		"garbage": {
			handle: func(conn net.Conn) {
				_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n\x1b[31m"))
				_, _ = io.Copy(io.Discard, conn)
			},
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: the peer does not speak TLS",
		},
		"immediate close": {
			handle: func(conn net.Conn) {
				_, _ = io.ReadFull(conn, make([]byte, 5))
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			},
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: the peer closed the connection",
		},
		"reset": {
			handle: func(conn net.Conn) {
				_, _ = io.ReadFull(conn, make([]byte, 5))
				_ = conn.(*net.TCPConn).SetLinger(0)
			},
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: connection reset by peer",
		},
		"a length that the peer chose": {
			handle: func(conn net.Conn) {
				_, _ = conn.Write([]byte{22, 3, 3, 0, 4, 2, 0xfe, 0xfe, 0xfe})
				_, _ = io.Copy(io.Discard, conn)
			},
			outcome: v1alpha1.ProbeHandshakeFailed,
			message: "handshake: tls: handshake message of length N bytes exceeds maximum of N bytes",
		},
		"too many certificates": {
			handle:  serveTLS(&tls.Config{Certificates: []tls.Certificate{newCertificate(10)}}),
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: the peer presented more than 10 certificates",
		},
		"a giant chain": {
			handle:  serveTLS(&tls.Config{Certificates: []tls.Certificate{newCertificate(600)}}),
			outcome: v1alpha1.ProbeHandshakeFailed, message: "handshake: the peer sent more than 128 KiB",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.timeout == 0 {
				test.timeout = generous
			}
			result := probe(t, listen(t, test.handle), test.timeout)
			if result.Outcome != test.outcome || result.TimedOut != test.timedOut || len(result.Chain) != 0 {
				t.Errorf("result = %+v, want outcome %s", result, test.outcome)
			}
			if test.message != "" && result.Message != test.message {
				t.Errorf("message = %q, want %q", result.Message, test.message)
			}
		})
	}
}

// brokenKey makes a server that presents the certificate and then fails to sign with its key.
func brokenKey(certificate tls.Certificate) tls.Certificate {
	key := certificate.PrivateKey.(*ecdsa.PrivateKey)
	certificate.PrivateKey = failingSigner{key}
	return certificate
}

func TestProbeEndlessBytesBoundsMemory(t *testing.T) {
	// Records of a handshake message that never gets complete, as fast as the loopback carries them.
	record := make([]byte, 5+16000)
	copy(record, []byte{22, 3, 3})
	binary.BigEndian.PutUint16(record[3:], 16000)
	copy(record[5:], []byte{11, 3, 0xff, 0xff})
	target := listen(t, func(conn net.Conn) {
		for {
			if _, err := conn.Write(record); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	result := probe(t, target, generous)
	runtime.ReadMemStats(&after)
	if result.Outcome != v1alpha1.ProbeHandshakeFailed || result.TimedOut {
		t.Errorf("result = %+v", result)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8<<20 {
		t.Errorf("the probe allocated %d bytes", allocated)
	}
}

func TestProbeUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := targetOf(t, listener.Addr())
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	result := probe(t, target, generous)
	if result.Outcome != v1alpha1.ProbeUnreachable || result.TimedOut || result.Message != "connecting: connection refused" {
		t.Errorf("result = %+v", result)
	}
}

func TestProbeBlackHole(t *testing.T) {
	result := probe(t, blackHole(t), short)
	if result.Outcome != v1alpha1.ProbeUnreachable || !result.TimedOut || result.Message != "connecting: timed out" {
		t.Errorf("result = %+v", result)
	}
}

// blackHole returns an address that never answers: a listener that accepts nothing and whose backlog is full.
func blackHole(t *testing.T) tlsprobe.Target {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(bound.(*syscall.SockaddrInet4).Port))
	// There is always room for one, and several try to get it. They are not given up, or a busy machine might leave it free.
	ctx, cancel := context.WithCancel(context.Background())
	const dials = 8
	results := make(chan error, dials)
	var group sync.WaitGroup
	for range dials {
		group.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
			results <- err
			if err == nil {
				<-ctx.Done()
				_ = conn.Close()
			}
		})
	}
	t.Cleanup(func() { cancel(); group.Wait() })
	if err := <-results; err != nil {
		t.Fatal(err)
	}
	return tlsprobe.Target{Address: address}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	connected := make(chan struct{})
	target := listen(t, func(conn net.Conn) {
		close(connected)
		_, _ = io.Copy(io.Discard, conn)
	})
	done := make(chan tlsprobe.Result)
	go func() { done <- tlsprobe.New(clock.RealClock{}).Probe(ctx, target, time.Hour) }()
	<-connected
	cancel()
	select {
	case result := <-done:
		if result.TimedOut || strings.Contains(result.Message, "127.0.0.1") {
			t.Errorf("result = %+v", result)
		}
	case <-time.After(generous):
		t.Error("the probe outlives its context")
	}
}

type failingSigner struct{ *ecdsa.PrivateKey }

// Sign implements crypto.Signer.
func (failingSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}
