// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/sandbox"
)

// pollInterval is how often something is looked at again while waiting for it.
const pollInterval = 50 * time.Millisecond

// Options say how a node is.
type Options struct {
	// Name is the name of the Node.
	Name string
	// Token is the bootstrap token it joins with.
	Token string
	// Labels are those that the kubelet gives its Node.
	Labels map[string]string
	// Kubelet has fields of the KubeletConfiguration that differ from the usual, such as "serverTLSBootstrap": false.
	Kubelet map[string]any
}

// Node is a real node.
type Node struct {
	group  *Group
	number int
	dir    string

	mu         sync.Mutex // starting and stopping its programs
	options    Options
	cgroup     string
	holder     *process // keeps the namespaces
	containerd *process
	kubelet    *process
	proxy      *process
}

// Name returns the name of the Node.
func (n *Node) Name() string { return n.options.Name }

// IP returns the node's address.
func (n *Node) IP() string { return "10.200.1." + strconv.Itoa(n.number) }

func (n *Node) podCIDR() string { return fmt.Sprintf("10.244.%d.0/24", n.number) }
func (n *Node) link() string    { return "node-" + strconv.Itoa(n.number) }

// PKIDir returns the kubelet's folder of certificates, which it sees as /var/lib/kubelet/pki.
func (n *Node) PKIDir() string { return filepath.Join(n.dir, "lib", "kubelet", "pki") }

// LogPath returns the log of a program, such as kubelet.
func (n *Node) LogPath(program binaries.Program) string {
	return filepath.Join(n.dir, "log", string(program)+".log")
}

// start starts everything, from nothing.
func (n *Node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, dir := range mounts {
		if err := os.MkdirAll(filepath.Join(n.dir, dir.from), 0o755); err != nil {
			return err
		}
	}
	var err error
	if n.cgroup, err = sandbox.Cgroup(n.options.Name); err != nil {
		return err
	}
	if err := n.unshare(ctx); err != nil {
		return err
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	if n.proxy, err = n.run(binaries.KubeProxy, n.proxyFlags()...); err != nil {
		return err
	}
	return n.startKubelet()
}

// stop ends everything. Pods are killed with the cgroup: an orderly end is of no use to anybody.
func (n *Node) stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range []*process{n.kubelet, n.proxy, n.containerd} {
		if err := p.stop(); err != nil {
			return fmt.Errorf("node %s: %w", n.options.Name, err)
		}
	}
	if err := killCgroup(n.cgroup); err != nil {
		return fmt.Errorf("node %s: ending its pods: %w", n.options.Name, err)
	}
	return n.holder.stop()
}

// StopKubelet ends the kubelet. Pods live on, as they do on every node.
func (n *Node) StopKubelet() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kubelet.stop()
}

// StartKubelet starts the kubelet, after it was stopped, with options that may have changed.
func (n *Node) StartKubelet(change func(*Options)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.options.Kubelet, n.options.Labels = maps.Clone(n.options.Kubelet), maps.Clone(n.options.Labels)
	change(&n.options)
	return n.startKubelet()
}

// Forget removes what the kubelet, which must be stopped, knows of its cluster, as if the machine were new.
func (n *Node) Forget() error {
	if err := os.RemoveAll(n.PKIDir()); err != nil {
		return fmt.Errorf("node %s: %w", n.Name(), err)
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "lib", "kubelet", "kubeconfig")); err != nil {
		return fmt.Errorf("node %s: %w", n.Name(), err)
	}
	return nil
}

// WaitReady waits until the Node is ready.
func (n *Node) WaitReady(ctx context.Context) error {
	state := "not registered"
	err := wait.PollUntilContextCancel(ctx, 4*pollInterval, true, func(ctx context.Context) (bool, error) {
		object, err := n.group.client.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for _, condition := range object.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				state = condition.Message
				return condition.Status == corev1.ConditionTrue, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for node %s: %w (%s)\n%s", n.Name(), err, state, tail(n.LogPath(binaries.Kubelet)))
	}
	return nil
}

// ContainerPID returns the id of a container's first process, as the sandbox sees it. The id is that in a Pod's status.
func (n *Node) ContainerPID(ctx context.Context, containerID string) (int, error) {
	output, err := n.output(ctx, n.group.programs[binaries.Ctr], "--namespace=k8s.io", "tasks", "list")
	if err != nil {
		return 0, err
	}
	id := strings.TrimPrefix(containerID, "containerd://")
	for line := range strings.Lines(output) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == id {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("node %s has no container %s", n.Name(), id)
}
