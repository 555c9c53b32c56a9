// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/sandbox"
)

// Gateway is the address in the sandbox at which nodes reach the control plane. It is for cluster.Options.Address.
var Gateway = net.IPv4(10, 200, 0, 1)

// podNetwork has a part for each node.
const podNetwork = "10.244.0.0/16"

// Controllers are those of the controller manager that Pods and Nodes need. They are for cluster.Options.ExtraControllers.
var Controllers = []string{
	"daemonset-controller", "deployment-controller", "disruption-controller", "endpoints-controller",
	"endpointslice-controller", "node-lifecycle-controller", "pod-garbage-collector-controller", "replicaset-controller",
	"taint-eviction-controller",
}

// Group is the nodes of one cluster.
type Group struct {
	cluster  *cluster.Cluster
	client   kubernetes.Interface
	programs map[binaries.Program]string
	dir      string
	images   []string

	mu    sync.Mutex
	nodes []*Node
}

// NewGroup prepares a cluster, which must have Gateway as its address, for nodes. images are archives that every node
// imports, as `docker save` or an OCI layout has them: there is no registry.
func NewGroup(ctx context.Context, c *cluster.Cluster, images ...string) (*Group, error) {
	if !sandbox.Inside() {
		return nil, errors.New("nodes: this is not a sandbox, and they would change the machine: see sandbox.Run")
	}
	g := &Group{cluster: c, dir: filepath.Join(c.Dir(), "nodes")}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	var err error
	if g.client, err = kubernetes.NewForConfig(c.Config()); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	if g.programs, err = binaries.Find(ctx, os.Stderr, binaries.Nodes()...); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	pause, err := buildPause(ctx)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	image := filepath.Join(g.dir, "pause.tar")
	if err := writeImage(image, PauseImage, pause, 65535); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	g.images = append([]string{image}, images...)
	if err := g.route(ctx); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	return g, g.writeShared()
}

// route makes the sandbox the router between the nodes and the control plane.
func (g *Group) route(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	return run(ctx, "ip", "address", "replace", Gateway.String()+"/32", "dev", "lo")
}

// TrustCA gives the nodes the Cluster CA as it is published now. Kubelets that run may take minutes to heed it all.
func (g *Group) TrustCA() error {
	if err := os.WriteFile(g.caFile(), g.cluster.CACertPEM(), 0o644); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	return nil
}

// writeShared writes the files that the nodes have in common.
func (g *Group) writeShared() error {
	if err := g.TrustCA(); err != nil {
		return err
	}
	config, err := g.cluster.UserConfig("system:kube-proxy")
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	config.Host = g.server()
	return cluster.WriteKubeconfig(g.proxyKubeconfig(), config)
}

// server is the address of the API server for nodes.
func (g *Group) server() string {
	return "https://" + net.JoinHostPort(Gateway.String(), g.cluster.Port())
}

func (g *Group) caFile() string          { return filepath.Join(g.dir, "ca.crt") }
func (g *Group) proxyKubeconfig() string { return filepath.Join(g.dir, "kube-proxy.kubeconfig") }

// Nodes returns the nodes that were started, in order.
func (g *Group) Nodes() []*Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.nodes)
}

// Start starts a node and returns when its programs run; the Node may take a moment to appear. See Node.WaitReady.
func (g *Group) Start(ctx context.Context, options Options) (*Node, error) {
	g.mu.Lock()
	n := &Node{group: g, options: options, number: len(g.nodes) + 1, dir: filepath.Join(g.dir, options.Name)}
	g.nodes = append(g.nodes, n)
	g.mu.Unlock()
	if err := n.start(ctx); err != nil {
		return nil, fmt.Errorf("node %s: %w", options.Name, err)
	}
	return n, nil
}

// Stop ends all nodes and their pods. What is left of them goes with the sandbox.
func (g *Group) Stop() error {
	var failed error
	for _, n := range g.Nodes() {
		failed = errors.Join(failed, n.stop())
	}
	return failed
}
