// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/sets"
)

// endpoint is the kubelet's port, whose treatment of connections can be changed.
type endpoint struct {
	addr    netip.AddrPort
	handler http.Handler
	tls     *tls.Config
	log     logr.Logger

	mu   sync.Mutex
	stop func() // ends what serves the port now; nil when nothing does
}

// nextAddress starts at random, so that processes that run at the same time seldom try the same addresses.
var nextAddress = startAtRandom()

func startAtRandom() *atomic.Uint32 {
	var counter atomic.Uint32
	counter.Store(rand.Uint32()) //nolint:gosec // it spreads addresses and keeps no secret
	return &counter
}

// PickAddress returns an address of 127.64.0.0/10 that no other kubelet of this process has: for a certificate that
// must exist before its kubelet starts.
func PickAddress() netip.Addr {
	for {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], nextAddress.Add(1))
		if last := n[3]; last != 0 && last != 255 {
			return netip.AddrFrom4([4]byte{127, 64 | n[1]&63, n[2], last})
		}
	}
}

func listen(
	ctx context.Context, o Options, handler http.Handler, tlsConfig *tls.Config, log logr.Logger,
) (*endpoint, error) {
	listener, err := bind(ctx, o.Address, o.Port)
	if err != nil {
		return nil, err
	}
	bound, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("parse the address it listens on: %w", err), listener.Close())
	}
	e := &endpoint{addr: bound, handler: handler, tls: tlsConfig, log: log}
	return e, e.serve(o.Endpoint, listener)
}

func bind(ctx context.Context, address netip.Addr, port int) (net.Listener, error) {
	const tries = 100
	fixed := address.IsValid()
	var config net.ListenConfig
	for try := 0; ; try++ {
		if !fixed {
			address = PickAddress()
		}
		target := netip.AddrPortFrom(address, uint16(max(port, 0))).String() //nolint:gosec // a port fits
		listener, err := config.Listen(ctx, "tcp", target)
		if err == nil {
			return listener, nil
		}
		if fixed || try == tries || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %s: %w", target, err)
		}
	}
}

// set changes how connections are treated. The ones there are end.
func (e *endpoint) set(mode Endpoint) error {
	e.close()
	listener, err := bind(context.Background(), e.addr.Addr(), int(e.addr.Port()))
	if err != nil {
		return err
	}
	return e.serve(mode, listener)
}

func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}

func (e *endpoint) serve(mode Endpoint, listener net.Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch mode {
	case EndpointServes:
		e.stop = e.serveTLS(listener)
	case EndpointHangs:
		e.stop = accept(listener, discard)
	case EndpointGarbage:
		e.stop = accept(listener, garble)
	case EndpointRefuses:
		return listener.Close()
	case EndpointBlackHole:
		held, err := fillBacklog(listener)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		e.stop = func() {
			closeAll(e.log, listener, held)
		}
	default:
		err := fmt.Errorf("endpoint mode %q is unknown: use one of the Endpoint constants", mode)
		return errors.Join(err, listener.Close())
	}
	return nil
}

func (e *endpoint) serveTLS(listener net.Listener) func() {
	server := &http.Server{
		Handler:           e.handler,
		TLSConfig:         e.tls,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          slog.NewLogLogger(logr.ToSlogHandler(e.log.V(4)), slog.LevelInfo),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			e.log.Error(err, "The endpoint failed")
		}
	}()
	return func() {
		closeAll(e.log, server)
		<-done
	}
}

// accept hands every connection to treat, and closes it afterwards. The returned function ends all of them.
func accept(listener net.Listener, treat func(net.Conn)) func() {
	var (
		mu      sync.Mutex
		open    = sets.New[net.Conn]()
		stopped bool
		group   sync.WaitGroup
	)
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			if stopped {
				_ = conn.Close()
			} else {
				open.Insert(conn)
				group.Go(func() {
					treat(conn)
					mu.Lock()
					defer mu.Unlock()
					open.Delete(conn)
					_ = conn.Close()
				})
			}
			mu.Unlock()
		}
	})
	return func() {
		_ = listener.Close()
		mu.Lock()
		stopped = true
		for conn := range open {
			_ = conn.Close() // ends treat
		}
		mu.Unlock()
		group.Wait()
	}
}

// discard reads until the other side, or the endpoint, hangs up.
func discard(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// garble answers the first bytes with some that are not TLS.
func garble(conn net.Conn) {
	const patience = 10 * time.Second
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		_, _ = conn.Write([]byte("\x00\x01\x02 this is not TLS\r\n"))
	}
}

// backlog are connections that wait for accept, or to become some that do.
type backlog struct {
	cancel context.CancelFunc
	dials  sync.WaitGroup
	mu     sync.Mutex
	open   []net.Conn
}

// dial connects, however long that takes, and says how it went.
func (b *backlog) dial(ctx context.Context, address string, result chan<- error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err == nil {
		b.mu.Lock()
		b.open = append(b.open, conn)
		b.mu.Unlock()
	}
	result <- err
}

// Close ends all of them.
func (b *backlog) Close() (err error) {
	b.cancel()
	b.dials.Wait()
	for _, conn := range b.open {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// fillBacklog shortens the queue of connections that wait for accept to the one that there is always room for, and fills it,
// so that the kernel drops the packets of every further one: what a client sees of a host that is down. That a dial takes long
// does not show that the queue is full, on a busy machine. So there are several, of which one gets the place.
func fillBacklog(listener net.Listener) (io.Closer, error) {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("black hole: a %T has no backlog", listener)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("black hole: reach the socket: %w", err)
	}
	var shortened error
	if err := raw.Control(func(fd uintptr) { shortened = syscall.Listen(int(fd), 0) }); err != nil {
		return nil, fmt.Errorf("black hole: reach the socket: %w", err)
	}
	if shortened != nil {
		return nil, fmt.Errorf("black hole: shorten the backlog: %w", shortened)
	}
	const dials = 8
	ctx, cancel := context.WithCancel(context.Background())
	held, results := &backlog{cancel: cancel}, make(chan error, dials)
	for range dials {
		held.dials.Go(func() { held.dial(ctx, listener.Addr().String(), results) })
	}
	if err := <-results; err != nil {
		return nil, errors.Join(fmt.Errorf("black hole: fill the backlog of %s: %w", listener.Addr(), err), held.Close())
	}
	return held, nil
}

func closeAll(log logr.Logger, closers ...io.Closer) {
	for _, closer := range closers {
		if err := closer.Close(); err != nil {
			log.V(4).Info("Cannot close", "error", err)
		}
	}
}
