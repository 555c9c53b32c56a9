// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"
)

// Kubelet is one simulated kubelet. Its methods may be called from several goroutines.
type Kubelet struct {
	name    string
	shared  *shared
	release func() // closes what only this kubelet uses of shared; nil in a Fleet

	// presented is served instead of the kubelet's own certificate, and outlives a restart.
	presented atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // guards what follows
	options Options
	process *process // nil while stopped
}

// process is one life of a kubelet, from its start to its stop.
type process struct {
	options    Options
	log        klog.Logger
	ctx        context.Context //nolint:containedctx // the life of the process; it ends with Stop, not with a caller
	cancel     context.CancelFunc
	background sync.WaitGroup

	metrics          *metrics
	client           clientIdentity
	own              kubernetes.Interface
	closeConnections func()
	serving          *servingIdentity
	endpoint         *endpoint

	registered chan struct{} // closed once the Node exists
	lastError  atomic.Pointer[error]
}

// Start starts one kubelet. It returns once the kubelet listens; bootstrapping and registration go on in the
// background, see WaitRegistered and WaitServing. ctx bounds the start only: the kubelet runs until Stop.
func Start(ctx context.Context, o Options) (*Kubelet, error) {
	s, err := newShared(o.Join)
	if err != nil {
		return nil, err
	}
	k, err := start(ctx, s, o)
	if err != nil {
		s.closeBootstrap()
		return nil, err
	}
	k.release = s.closeBootstrap
	return k, nil
}

func start(ctx context.Context, s *shared, o Options) (*Kubelet, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	k := &Kubelet{name: o.Name, shared: s}
	pki := filepath.Join(o.Dir, "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return nil, fmt.Errorf("kubelet %q: make its folder: %w", o.Name, err)
	}
	ctx = klog.NewContext(ctx, s.log)
	if err := seed(ctx, clientStorePrefix, pki, o.ClientCertificate); err != nil {
		return nil, fmt.Errorf("kubelet %q: %w", o.Name, err)
	}
	if o.Serving == ServingRotation {
		if err := seed(ctx, servingStorePrefix, pki, o.ServingCertificate); err != nil {
			return nil, fmt.Errorf("kubelet %q: %w", o.Name, err)
		}
	}
	k.options = o
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.run(ctx)
}

func newStore(ctx context.Context, prefix, pki string) (certificate.Store, error) {
	store, err := certificate.NewFileStoreWithLogger(klog.FromContext(ctx).V(4), prefix, pki, pki, "", "")
	if err != nil {
		return nil, fmt.Errorf("open the certificate store %s in %s: %w", prefix, pki, err)
	}
	return store, nil
}

// run starts a process. The caller holds k.mu.
func (k *Kubelet) run(ctx context.Context) error {
	log := k.shared.log.WithValues("node", k.name)
	p := &process{options: k.options, log: log, registered: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), log))
	p.metrics = newMetrics(p)
	if err := k.assemble(ctx, p); err != nil {
		p.cancel()
		if p.closeConnections != nil {
			p.closeConnections()
		}
		return fmt.Errorf("kubelet %q: %w", k.name, err)
	}
	k.process = p
	// The next life must be found at the same place.
	k.options.Address, k.options.Port = p.endpoint.addr.Addr(), int(p.endpoint.addr.Port())
	p.options.Address, p.options.Port = k.options.Address, k.options.Port
	p.client.Start()
	p.background.Go(p.main)
	return nil
}

// assemble makes the parts of the process. The endpoint comes last: it is the only one that must be closed.
func (k *Kubelet) assemble(ctx context.Context, p *process) error {
	pki := filepath.Join(p.options.Dir, "pki")
	store, err := newStore(p.ctx, clientStorePrefix, pki)
	if err != nil {
		return err
	}
	currentClient := func() *tls.Certificate { return p.client.Current() }
	p.own, p.closeConnections, err = k.shared.client(p.options.Version, currentClient, "")
	if err != nil {
		return err
	}
	if p.options.NoClientRotation {
		p.client, err = newOneShotClient(p.ctx, k.name, store, k.shared.bootstrap)
	} else {
		p.client, err = newRotatingClient(p.ctx, k.name, store, k.shared.bootstrap, p.own, p.metrics.clientFailures)
	}
	if err != nil {
		return err
	}
	if p.serving, err = newServing(p.ctx, p.options, pki, p.own, p.metrics); err != nil {
		return err
	}
	handler, err := newHandler(k.shared, p)
	if err != nil {
		return err
	}
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  k.shared.clientCAs,
		NextProtos: []string{"h2", "http/1.1"},
		// An error here is what makes crypto/tls send the alert internal_error.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if observe := k.shared.onHandshake.Load(); observe != nil {
				(*observe)(k.name)
			}
			if current := k.served(p); current != nil {
				return current, nil
			}
			return nil, errors.New("no serving certificate available for the kubelet")
		},
	}
	p.endpoint, err = listen(ctx, p.options, handler, tlsConfig, p.log)
	return err
}

// main is what a kubelet does all its life.
func (p *process) main() {
	const bootstrapCheck = 100 * time.Millisecond
	bootstrapped := func(context.Context) (bool, error) { return p.client.Current() != nil, nil }
	if wait.PollUntilContextCancel(p.ctx, bootstrapCheck, true, bootstrapped) != nil {
		return
	}
	register := func(ctx context.Context) (bool, error) {
		err := p.register(ctx)
		p.note(err, "Cannot register the Node")
		return err == nil, nil
	}
	if wait.PollUntilContextCancel(p.ctx, time.Second, true, register) != nil {
		return
	}
	close(p.registered)
	p.serving.start()
	p.maintain()
}

// maintain renews the Lease, and drops the connections of a client certificate that was replaced: the API server would
// refuse them once that one expires.
func (p *process) maintain() {
	const connectionCheck = 10 * time.Second
	connections := time.NewTicker(connectionCheck)
	defer connections.Stop()
	var beats <-chan time.Time
	if p.options.Heartbeat > 0 {
		ticker := time.NewTicker(p.options.Heartbeat)
		defer ticker.Stop()
		beats = ticker.C
	}
	beat := &heartbeat{posted: time.Now()}
	if beats != nil {
		p.note(p.beat(beat), "Cannot renew the Lease")
	}
	used := p.client.Current()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-beats:
			p.note(p.beat(beat), "Cannot renew the Lease")
		case <-connections.C:
			if current := p.client.Current(); current != nil && current != used {
				used = current
				p.closeConnections()
			}
		}
	}
}

// note keeps an error for those who wait, and logs it.
func (p *process) note(err error, message string) {
	if err == nil || p.ctx.Err() != nil {
		return
	}
	p.lastError.Store(&err)
	p.log.Error(err, message)
}

// Stop ends the kubelet as if its process had been killed: the port is closed, the Node stays. Resume starts it again.
// It may be called again. The last goroutines of client-go's certificate managers end within seconds.
func (k *Kubelet) Stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.process
	if p == nil {
		return
	}
	k.process = nil
	p.cancel()
	p.endpoint.close()
	p.background.Wait()
	p.serving.stop()
	p.client.Stop()
	p.closeConnections()
	if k.release != nil {
		k.release()
	}
}

// Resume starts a stopped kubelet again with the certificates on its disk, its address and its port. The changes are
// what an admin could have changed meanwhile: version, labels, rotation switches. Name, Join, Dir, Address and Port
// stay.
func (k *Kubelet) Resume(ctx context.Context, changes ...func(*Options)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.process != nil {
		return fmt.Errorf("kubelet %q: resume: it is running: stop it first", k.name)
	}
	o := k.options
	for _, change := range changes {
		change(&o)
	}
	o.Name, o.Join, o.Dir = k.options.Name, k.options.Join, k.options.Dir
	o.Address, o.Port = k.options.Address, k.options.Port
	if err := o.complete(); err != nil {
		return err
	}
	k.options = o
	return k.run(ctx)
}

// Name returns the name of the Node.
func (k *Kubelet) Name() string { return k.name }

// Addr returns the address and port that the Node reports.
func (k *Kubelet) Addr() netip.AddrPort {
	k.mu.Lock()
	defer k.mu.Unlock()
	return netip.AddrPortFrom(k.options.Address, uint16(k.options.Port)) //nolint:gosec // it came from an AddrPort
}

// Dir returns the folder that stands for /var/lib/kubelet.
func (k *Kubelet) Dir() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.options.Dir
}

// ServeCertificate makes the endpoint present a certificate of the caller's instead of the kubelet's own, whose
// rotation goes on unseen. nil ends that. It survives Stop and Resume.
func (k *Kubelet) ServeCertificate(pair *tls.Certificate) { k.presented.Store(pair) }

// SetEndpoint changes how the port treats connections, and drops the ones there are.
func (k *Kubelet) SetEndpoint(mode Endpoint) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.process != nil {
		if err := k.process.endpoint.set(mode); err != nil {
			return fmt.Errorf("kubelet %q: %w", k.name, err)
		}
	}
	k.options.Endpoint = mode
	return nil
}

// ServingCertificate returns what the endpoint presents, nil while it has none.
func (k *Kubelet) ServingCertificate() *x509.Certificate {
	p := k.running()
	if p == nil {
		return nil
	}
	return leaf(k.served(p))
}

// ClientCertificate returns what the kubelet authenticates with, nil while it has none.
func (k *Kubelet) ClientCertificate() *x509.Certificate {
	p := k.running()
	if p == nil {
		return nil
	}
	return leaf(p.client.Current())
}

// UpdateNode changes the Node's labels, annotations or status as the kubelet itself, so that the API server's rules for
// nodes apply. A change of addresses makes the kubelet request a new serving certificate. change may be called more than
// once.
func (k *Kubelet) UpdateNode(ctx context.Context, change func(*corev1.Node)) error {
	p := k.running()
	if p == nil {
		return fmt.Errorf("kubelet %q: update its Node: it is stopped: resume it first", k.name)
	}
	if err := p.updateNode(ctx, change); err != nil {
		return fmt.Errorf("kubelet %q: %w", k.name, err)
	}
	return nil
}

// WaitRegistered waits until the kubelet has a client certificate and its Node exists.
func (k *Kubelet) WaitRegistered(ctx context.Context) error {
	p := k.running()
	if p == nil {
		return fmt.Errorf("kubelet %q: wait until it is registered: it is stopped", k.name)
	}
	select {
	case <-p.registered:
		return nil
	case <-p.ctx.Done():
		return fmt.Errorf("kubelet %q: stopped before it was registered", k.name)
	case <-ctx.Done():
		return k.unready(p, "not registered", ctx.Err())
	}
}

// WaitServing waits until the endpoint has a certificate to present.
func (k *Kubelet) WaitServing(ctx context.Context) error {
	p := k.running()
	if p == nil {
		return fmt.Errorf("kubelet %q: wait until it serves: it is stopped", k.name)
	}
	const check = 50 * time.Millisecond
	err := wait.PollUntilContextCancel(ctx, check, true, func(context.Context) (bool, error) {
		return k.served(p) != nil, p.ctx.Err()
	})
	if err != nil {
		return k.unready(p, "no serving certificate", err)
	}
	return nil
}

func (k *Kubelet) unready(p *process, what string, err error) error {
	if last := p.lastError.Load(); last != nil {
		return fmt.Errorf("kubelet %q: %s: %w; last error: %w", k.name, what, err, *last)
	}
	return fmt.Errorf("kubelet %q: %s: %w", k.name, what, err)
}

func (k *Kubelet) running() *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.process
}

func (k *Kubelet) served(p *process) *tls.Certificate {
	if presented := k.presented.Load(); presented != nil {
		return presented
	}
	return p.serving.current()
}

func leaf(pair *tls.Certificate) *x509.Certificate {
	if pair == nil || len(pair.Certificate) == 0 {
		return nil
	}
	if pair.Leaf != nil {
		return pair.Leaf
	}
	parsed, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil // a test may present bytes that are no certificate
	}
	return parsed
}
