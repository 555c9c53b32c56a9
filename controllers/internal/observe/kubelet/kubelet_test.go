// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

const (
	secret = "very-secret-token"
	// timeout is for peers that answer, or end it, and short for those that hang.
	timeout = 30 * time.Second
	short   = 2 * time.Second
)

var (
	clusterCA = pkitest.NewCA("cluster-ca")
	now       = pkitest.Start().Add(24 * time.Hour)
	good      = []pkitest.Option{pkitest.Node("one"), pkitest.IPAddresses("127.0.0.1")}
)

// fixed is a source of one token.
type fixed struct {
	err      error
	rejected int
}

func (f *fixed) Token(context.Context) (string, error) { return secret, f.err }
func (f *fixed) Rejected(context.Context, string)      { f.rejected++ }
func (f *fixed) Account() string                       { return "notafter-system/notafter-kubelet-reader" }

// tap records all bytes that connections to it carried, as the peer saw them before TLS and after.
type tap struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes.Write(b)
}

func (p *tap) saw(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.bytes.String(), text)
}

// listen hands each connection to serve, on loopback.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				serve(conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); group.Wait() })
	return netip.MustParseAddrPort(listener.Addr().String())
}

// speakTLS presents the certificate, and writes all that is said over the connection to seen.
func speakTLS(certificate tls.Certificate, seen io.Writer, answer func(*http.Request) string) func(net.Conn) {
	return func(raw net.Conn) {
		// A client that goes away ends what waits for it.
		_ = raw.SetDeadline(time.Now().Add(timeout))
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{certificate}})
		var request bytes.Buffer
		for {
			b := make([]byte, 4096)
			n, err := conn.Read(b)
			_, _ = seen.Write(b[:n])
			request.Write(b[:n])
			if err != nil {
				return
			}
			if !strings.HasSuffix(request.String(), "\r\n\r\n") {
				continue
			}
			line, _, _ := strings.Cut(request.String(), "\r\n")
			path := strings.Fields(line)[1]
			request.Reset()
			parsed, _ := http.NewRequest(http.MethodGet, path, http.NoBody)
			if _, err := io.WriteString(conn, answer(parsed)); err != nil {
				return
			}
		}
	}
}

func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

const (
	healthyMetrics = "# HELP kubelet_node_name The node's name.\nkubelet_node_name{node=\"one\"} 1\n" +
		seriesClientTTL + " 3600\n" + seriesClientErrors + " 2\n" + seriesServingErrors + " 1e+00\n"
	healthyConfig = `{"kubeletconfig":{"rotateCertificates":true,"serverTLSBootstrap":true,"tlsCertFile":"/a"}}`
)

func healthy(request *http.Request) string {
	if request.URL.Path == configPath {
		return ok(healthyConfig)
	}
	return ok(healthyMetrics)
}

func bundle(t *testing.T) *pki.TrustBundle {
	t.Helper()
	trust, err := pki.NewTrustBundle(clusterCA.PEM())
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func read(t *testing.T, address netip.AddrPort, within time.Duration, tokens Tokens) Result {
	t.Helper()
	reader := New(clocktesting.NewFakePassiveClock(now), tokens)
	return reader.Read(t.Context(), Target{Address: address, Trust: bundle(t)}, within)
}

func TestRead(t *testing.T) {
	var seen tap
	address := listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), &seen, healthy))
	result := read(t, address, timeout, &fixed{})
	want := Result{
		Outcome: v1alpha1.KubeletRead, At: now,
		Metrics: &Metrics{
			RotateCertificates: true, ClientRemaining: new(time.Hour), ClientErrors: new(int64(2)), ServingErrors: new(int64(1)),
		},
		Config: &Config{RotateCertificates: true, ServerTLSBootstrap: true, TLSCertFile: "/a"},
	}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Error(diff)
	}
	if !seen.saw("Authorization: Bearer "+secret) || seen.saw("gzip") {
		t.Error("the request has no token, or asks for compression")
	}
}

// Whoever does not verify learns nothing, however it behaves.
func TestTokenReachesVerifiedPeersOnly(t *testing.T) {
	other := pkitest.NewCA("cluster-ca")
	for name, certificate := range map[string]*pkitest.Certificate{
		"another CA of that name": other.Leaf(good...),
		"self-signed":             pkitest.KubeletSelfSigned("one"),
		"self-signed as on AKS":   pkitest.AKSSelfSigned("one"),
		"another address":         clusterCA.Leaf(pkitest.Node("one"), pkitest.IPAddresses("127.0.0.2")),
		"a name, and no address":  clusterCA.Leaf(pkitest.Node("one"), pkitest.DNSNames("127.0.0.1", "localhost")),
		"expired":                 clusterCA.Leaf(append(good, pkitest.Lifetime(now.Add(-time.Hour), now.Add(-time.Second)))...),
		"not valid yet":           clusterCA.Leaf(append(good, pkitest.Lifetime(now.Add(time.Second), now.Add(time.Hour)))...),
		"a client certificate":    clusterCA.Leaf(append(good, pkitest.ExtKeyUsages(x509.ExtKeyUsageClientAuth))...),
	} {
		t.Run(name, func(t *testing.T) {
			var seen tap
			address := listen(t, speakTLS(certificate.TLS(), &seen, healthy))
			tokens := &fixed{}
			result := read(t, address, timeout, tokens)
			if result.Outcome != v1alpha1.KubeletUnverified || result.Config != nil || result.Metrics != nil {
				t.Errorf("result = %+v", result)
			}
			if !strings.HasPrefix(result.Message, "its serving certificate does not verify: ") || strings.Contains(result.Message, "2026") {
				t.Errorf("message = %q", result.Message)
			}
			if seen.saw("Bearer") || seen.saw(secret) || seen.saw("GET") {
				t.Error("an unverified peer was sent a request")
			}
		})
	}
	t.Run("no TLS at all", func(t *testing.T) {
		var seen tap
		address := listen(t, func(conn net.Conn) { _, _ = io.Copy(&seen, conn) })
		if result := read(t, address, short, &fixed{}); result.Outcome != v1alpha1.KubeletFailed || !result.TimedOut {
			t.Errorf("result = %+v", result)
		}
		if seen.saw(secret) {
			t.Error("the token was sent in the clear")
		}
	})
	t.Run("no trust bundle", func(t *testing.T) {
		reader := New(clocktesting.NewFakePassiveClock(now), &fixed{})
		result := reader.Read(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:1")}, short)
		if result.Outcome != v1alpha1.KubeletUnverified {
			t.Errorf("result = %+v", result)
		}
	})
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var elsewhere tap
	trap := listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), &elsewhere, healthy))
	plain := listen(t, func(conn net.Conn) { _, _ = io.Copy(&elsewhere, conn) })
	for _, to := range []string{"https://" + trap.String() + "/metrics", "http://" + plain.String() + "/"} {
		address := listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), io.Discard, func(*http.Request) string {
			return "HTTP/1.1 307 Temporary Redirect\r\nLocation: " + to + "\r\nContent-Length: 0\r\n\r\n"
		}))
		result := read(t, address, timeout, &fixed{})
		if result.Outcome != v1alpha1.KubeletFailed || result.Message != "/metrics: the kubelet answers with status 307" {
			t.Errorf("result = %+v", result)
		}
	}
	if elsewhere.bytes.Len() > 0 {
		t.Errorf("the redirect was followed: %q", elsewhere.bytes.String())
	}
}

// A second connection, which a kubelet may force, is verified like the first.
func TestEveryConnectionIsVerified(t *testing.T) {
	var impostor tap
	connections := 0
	first := speakTLS(clusterCA.Leaf(good...).TLS(), io.Discard, func(*http.Request) string {
		return strings.Replace(ok(healthyMetrics), "OK\r\n", "OK\r\nConnection: close\r\n", 1)
	})
	second := speakTLS(pkitest.NewCA("cluster-ca").Leaf(good...).TLS(), &impostor, healthy)
	var mu sync.Mutex
	address := listen(t, func(conn net.Conn) {
		mu.Lock()
		connections++
		serve := first
		if connections > 1 {
			serve = second
		}
		mu.Unlock()
		serve(conn)
	})
	result := read(t, address, timeout, &fixed{})
	if result.Outcome != v1alpha1.KubeletUnverified || result.Metrics == nil || result.Config != nil {
		t.Errorf("result = %+v", result)
	}
	if impostor.saw(secret) {
		t.Error("the impostor was sent the token")
	}
}

func TestRefusals(t *testing.T) {
	refuse := func(status string, paths ...string) func(*http.Request) string {
		return func(request *http.Request) string {
			if slices.Contains(paths, request.URL.Path) {
				return "HTTP/1.1 " + status + "\r\nContent-Length: 9\r\n\r\nForbidden"
			}
			return healthy(request)
		}
	}
	for name, test := range map[string]struct {
		answer          func(*http.Request) string
		missing         []string
		says            []string
		metrics, config bool
		rejected        int
	}{
		"metrics": {
			refuse("403 Forbidden", metricsPath), []string{"get nodes/metrics"},
			[]string{"get on nodes/metrics", "notafter-system/notafter-kubelet-reader"}, false, true, 0,
		},
		"configz": {
			refuse("403 Forbidden", configPath), []string{"get nodes/configz"},
			[]string{"get on nodes/configz", "before 1.33"}, true, false, 0,
		},
		"both": {
			refuse("403 Forbidden", metricsPath, configPath), []string{"get nodes/metrics", "get nodes/configz"},
			[]string{"nodes/metrics", "nodes/configz"}, false, false, 0,
		},
		"token": {
			refuse("401 Unauthorized", metricsPath, configPath), []string{"get nodes/metrics", "get nodes/configz"},
			[]string{"status 401", "authentication.webhook"}, false, false, 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := &fixed{}
			result := read(t, listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), io.Discard, test.answer)), timeout, tokens)
			if result.Outcome != v1alpha1.KubeletAccessDenied || (result.Metrics != nil) != test.metrics || (result.Config != nil) != test.config {
				t.Errorf("result = %+v", result)
			}
			if diff := cmp.Diff(test.missing, result.Missing); diff != "" {
				t.Error(diff)
			}
			for _, part := range test.says {
				if !strings.Contains(result.Message, part) {
					t.Errorf("message %q does not say %q", result.Message, part)
				}
			}
			if tokens.rejected != test.rejected {
				t.Errorf("the token was rejected %d times", tokens.rejected)
			}
		})
	}
	t.Run("no token", func(t *testing.T) {
		address := listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), io.Discard, healthy))
		result := read(t, address, timeout, &fixed{err: &AccessError{Permission: "create x", Reason: "grant it"}})
		if result.Outcome != v1alpha1.KubeletAccessDenied || result.Message != "grant it" || !slices.Equal(result.Missing, []string{"create x"}) {
			t.Errorf("result = %+v", result)
		}
		result = read(t, address, timeout, &fixed{err: errors.New("requesting a token: no route")})
		if result.Outcome != v1alpha1.KubeletFailed {
			t.Errorf("result = %+v", result)
		}
	})
}

// A kubelet without debugging handlers has no /configz, and says all that is judged in its metrics. One without /metrics does not.
func TestAbsentEndpoints(t *testing.T) {
	for absent, want := range map[string]v1alpha1.KubeletOutcome{
		configPath: v1alpha1.KubeletRead, metricsPath: v1alpha1.KubeletFailed,
	} {
		address := listen(t, speakTLS(clusterCA.Leaf(good...).TLS(), io.Discard, func(request *http.Request) string {
			if request.URL.Path == absent {
				return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
			}
			return healthy(request)
		}))
		result := read(t, address, timeout, &fixed{})
		if result.Outcome != want || (result.Message == "") != (want == v1alpha1.KubeletRead) || result.Config != nil {
			t.Errorf("without %s: %+v", absent, result)
		}
	}
}

// endless writes until the other side has had enough.
func endless(conn io.Writer, chunk string) {
	for {
		if _, err := io.WriteString(conn, chunk); err != nil {
			return
		}
	}
}

// A verified kubelet may be taken over: whatever it does costs bounded time and memory, and is reported.
func TestHostileAnswers(t *testing.T) {
	var zeros, bomb bytes.Buffer
	zeros.Write(make([]byte, 64<<20))
	packer := gzip.NewWriter(&bomb)
	if _, err := io.Copy(packer, &zeros); err != nil {
		t.Fatal(err)
	}
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	line := strings.Repeat("kubelet_other_series 1\n", 1000)
	for name, test := range map[string]struct {
		// start is sent first, then rest for ever.
		start, rest string
		message     string
	}{
		"hangs":             {"", "", "/metrics: timed out"},
		"hangs in a header": {"HTTP/1.1 200 OK\r\nA: b", "", "/metrics: timed out"},
		"hangs in a body":   {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nkubelet_a 1\n", "", "/metrics: timed out"},
		"garbage":           {"\x00\xff\x1b[2J nonsense\r\n\r\n", "", "malformed"},
		"endless header":    {"HTTP/1.1 200 OK\r\n", "A: " + strings.Repeat("b", 1000) + "\r\n", "exceeded"},
		"endless 1xx":       {"", "HTTP/1.1 103 Early Hints\r\nA: " + strings.Repeat("b", 1000) + "\r\n\r\n", "exceeded"},
		"endless body":      {chunked, fmt.Sprintf("%x\r\n%s\r\n", len(line), line), "the answer is too long"},
		"endless line":      {chunked, "400\r\n" + strings.Repeat("a", 1024) + "\r\n", "a line of the answer is too long"},
		"no metrics":        {ok("<html>hello</html>\n"), "", "no metrics of a kubelet"},
		"gzip bomb": {
			fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", bomb.Len(), bomb.String()), "",
			"the answer is compressed",
		},
		"switches protocols": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "", "status 101"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := clusterCA.Leaf(good...).TLS()
			address := listen(t, func(raw net.Conn) {
				_ = raw.SetDeadline(time.Now().Add(timeout))
				conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{certificate}})
				if _, err := conn.Read(make([]byte, 4096)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, test.start)
				if test.rest != "" {
					endless(conn, test.rest)
				}
				_, _ = io.Copy(io.Discard, conn)
			})
			within := timeout
			if strings.Contains(test.message, "timed out") {
				within = short
			}
			started := time.Now()
			result := read(t, address, within, &fixed{})
			if took := time.Since(started); took > within+time.Minute {
				t.Errorf("it took %v", took)
			}
			if result.Outcome != v1alpha1.KubeletFailed || !strings.Contains(result.Message, test.message) {
				t.Errorf("result = %+v, want %q in its message", result, test.message)
			}
			if result.TimedOut != (within == short) || strings.ContainsAny(result.Message, "\x00\x1b\n") {
				t.Errorf("timed out: %t, message = %q", result.TimedOut, result.Message)
			}
		})
	}
}

func TestHostileHandshakes(t *testing.T) {
	chain := clusterCA.Leaf(good...).TLS()
	for len(chain.Certificate) < 600 {
		chain.Certificate = append(chain.Certificate, chain.Certificate[0])
	}
	for name, serve := range map[string]func(net.Conn){
		"hangs":   func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"garbage": func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n") },
		"endless": func(conn net.Conn) { endless(conn, "\x16\x03\x03\x00\x04\x00\x00\x00\x00") },
		"closes":  func(net.Conn) {},
		"huge chain": func(conn net.Conn) {
			_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{chain}}).Handshake()
		},
		"no certificate": func(conn net.Conn) { _ = tls.Server(conn, &tls.Config{}).Handshake() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within := timeout
			if name == "hangs" {
				within = short
			}
			result := read(t, listen(t, serve), within, &fixed{})
			if result.Outcome != v1alpha1.KubeletFailed || !strings.HasPrefix(result.Message, "handshake: ") {
				t.Errorf("result = %+v", result)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := netip.MustParseAddrPort(listener.Addr().String())
		_ = listener.Close()
		if result := read(t, address, timeout, &fixed{}); result.Message != "connecting: connection refused" {
			t.Errorf("result = %+v", result)
		}
	})
}
