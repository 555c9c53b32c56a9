// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// portAttempts is how often a program is started on other ports when its own were taken before it got to them.
const portAttempts = 5

// serviceIP is the address of the service kubernetes.default, the first of the range.
var serviceIP = net.IPv4(10, 96, 0, 1)

const serviceRange = "10.96.0.0/16"

// onFreePorts starts a program on as many free ports as it needs and waits until it is ready.
func onFreePorts(ctx context.Context, count int, start func(ports []int) (*child, error)) error {
	for attempt := 1; ; attempt++ {
		addresses, err := FreeAddresses(ctx, count)
		if err != nil {
			return err
		}
		ports := make([]int, count)
		for i, address := range addresses {
			ports[i] = int(address.Port())
		}
		p, err := start(ports)
		if err == nil {
			return nil
		}
		if p == nil || !p.portTaken() || attempt == portAttempts {
			return err
		}
	}
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (c *Cluster) startEtcd(ctx context.Context) error {
	return onFreePorts(ctx, 2, func(ports []int) (*child, error) {
		c.etcdPorts = ports
		return c.runEtcd(ctx)
	})
}

func (c *Cluster) runEtcd(ctx context.Context) (*child, error) {
	client, peer := c.etcdURL(), "https://"+local(c.etcdPorts[1])
	dir := c.options.Dir
	p, err := c.startChild(binaries.Etcd, []string{
		identity(dir, binaries.Etcd),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer,
		"--cert-file=" + pkiFile(dir, "etcd.crt"), "--key-file=" + pkiFile(dir, "etcd.key"),
		"--trusted-ca-file=" + pkiFile(dir, "etcd-ca.crt"), "--client-cert-auth",
		"--peer-cert-file=" + pkiFile(dir, "etcd.crt"), "--peer-key-file=" + pkiFile(dir, "etcd.key"),
		"--peer-trusted-ca-file=" + pkiFile(dir, "etcd-ca.crt"), "--peer-client-cert-auth",
		"--unsafe-no-fsync", // nothing here must survive a power cut
	})
	if err != nil {
		return nil, err
	}
	config := &rest.Config{Host: client, TLSClientConfig: rest.TLSClientConfig{
		CAFile:   pkiFile(dir, "etcd-ca.crt"),
		CertFile: pkiFile(dir, "etcd-client.crt"), KeyFile: pkiFile(dir, "etcd-client.key"),
	}}
	return p, waitHealthy(ctx, p, config, "/health")
}

func (c *Cluster) etcdURL() string { return "https://" + local(c.etcdPorts[0]) }

func (c *Cluster) startAPIServer(ctx context.Context) error {
	return onFreePorts(ctx, 1, func(ports []int) (*child, error) {
		var err error
		c.apiServerPort = ports[0]
		if c.config, err = c.clientConfig("https://"+local(ports[0]), adminUser, adminGroup); err != nil {
			return nil, err
		}
		return c.runAPIServer(ctx)
	})
}

func (c *Cluster) runAPIServer(ctx context.Context) (*child, error) {
	p, err := c.startChild(binaries.APIServer, append(c.apiServerFlags(), c.options.APIServerFlags...))
	if err != nil {
		return nil, err
	}
	return p, waitHealthy(ctx, p, c.config, "/readyz")
}

func (c *Cluster) apiServerFlags() []string {
	dir := c.options.Dir
	flags := []string{
		identity(dir, binaries.APIServer), "--tls-private-key-file=" + pkiFile(dir, "apiserver.key"),
		"--secure-port=" + strconv.Itoa(c.apiServerPort),
		"--etcd-servers=" + c.etcdURL(), "--etcd-cafile=" + pkiFile(dir, "etcd-ca.crt"),
		"--etcd-certfile=" + pkiFile(dir, "etcd-client.crt"), "--etcd-keyfile=" + pkiFile(dir, "etcd-client.key"),
		"--client-ca-file=" + pkiFile(dir, clientCAFile),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth",
		"--allow-privileged",
		"--service-cluster-ip-range=" + serviceRange,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pkiFile(dir, "service-account.key"),
		"--service-account-signing-key-file=" + pkiFile(dir, "service-account.key"),
		"--kubelet-certificate-authority=" + pkiFile(dir, trustFile),
		"--kubelet-client-certificate=" + pkiFile(dir, "kubelet-client.crt"),
		"--kubelet-client-key=" + pkiFile(dir, "kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pkiFile(dir, "front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pkiFile(dir, "front-proxy-client.crt"),
		"--proxy-client-key-file=" + pkiFile(dir, "front-proxy-client.key"),
		// Thousands of simulated kubelets start at the same moment.
		"--max-requests-inflight=3000", "--max-mutating-requests-inflight=1000",
		"--event-ttl=2h", // for who leaves a cluster running to explore it
	}
	if c.options.Address != nil {
		return append(flags, "--bind-address=0.0.0.0", "--advertise-address="+c.options.Address.String())
	}
	// The service kubernetes.default gets no endpoint: the API refuses loopback addresses there.
	return append(flags, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none")
}

// startScheduler starts the scheduler. It serves nothing that could tell that it works; Pods do.
func (c *Cluster) startScheduler() error {
	dir := c.options.Dir
	found, err := running(dir, binaries.Scheduler)
	if err != nil || len(found) > 0 {
		return err
	}
	config, err := c.clientConfig(c.config.Host, "system:kube-scheduler")
	if err != nil {
		return err
	}
	if err := WriteKubeconfig(schedulerKubeconfig(dir), config); err != nil {
		return err
	}
	_, err = c.startChild(binaries.Scheduler, []string{
		identity(dir, binaries.Scheduler), "--leader-elect=false", "--secure-port=0",
	})
	return err
}

// StartControllerManager starts the controller manager, if it does not run, and waits until it works.
func (c *Cluster) StartControllerManager(ctx context.Context) error {
	c.manager.Lock()
	defer c.manager.Unlock()
	found, err := running(c.options.Dir, binaries.ControllerManager)
	if err != nil || len(found) > 0 {
		return err
	}
	manager, err := binaries.Find(ctx, c.options.Log, binaries.ControllerManager)
	if err != nil {
		return err
	}
	maps.Copy(c.programs, manager)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return fmt.Errorf("starting %s: %w", binaries.ControllerManager, err)
	}
	if err := unpublishRootCA(ctx, client); err != nil {
		return err
	}
	flags, err := c.controllerManagerFlags()
	if err != nil {
		return err
	}
	p, err := c.startChild(binaries.ControllerManager, append(flags, c.options.ControllerManagerFlags...))
	if err != nil {
		return err
	}
	return p.waitFor(ctx, "the first ConfigMaps "+RootCAConfigMap, func(ctx context.Context) error {
		return rootCAPublished(ctx, client)
	})
}

func (c *Cluster) controllerManagerFlags() ([]string, error) {
	dir := c.options.Dir
	config, err := c.clientConfig(c.config.Host, "system:kube-controller-manager", adminGroup)
	if err != nil {
		return nil, err
	}
	if err := WriteKubeconfig(managerKubeconfig(dir), config); err != nil {
		return nil, err
	}
	flags := []string{
		identity(dir, binaries.ControllerManager),
		// An extra one comes first: the first mention of a controller counts.
		"--controllers=" + strings.Join(slices.Concat(c.options.ExtraControllers, controllers), ","),
		"--leader-elect=false", // there is only one, and it must work at once
		"--secure-port=0",
		"--kube-api-qps=1000", "--kube-api-burst=2000", // as for the API server
		"--root-ca-file=" + pkiFile(dir, trustFile),
		"--service-account-private-key-file=" + pkiFile(dir, "service-account.key"),
		"--cluster-signing-cert-file=" + pkiFile(dir, clusterCA+".crt"),
		"--cluster-signing-key-file=" + pkiFile(dir, clusterCA+".key"),
	}
	if c.options.SigningDuration > 0 {
		flags = append(flags, "--cluster-signing-duration="+c.options.SigningDuration.String())
	}
	return flags, nil
}

// StopControllerManager stops the controller manager, so that nothing is signed, approved or collected any more.
func (c *Cluster) StopControllerManager() error {
	c.manager.Lock()
	defer c.manager.Unlock()
	return end(c.options.Dir, binaries.ControllerManager)
}

// waitHealthy waits until the program answers OK on a path.
func waitHealthy(ctx context.Context, p *child, config *rest.Config, path string) error {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", p.program, err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	return p.waitFor(ctx, path, func(ctx context.Context) error {
		return getOK(ctx, client, config.Host+path)
	})
}
