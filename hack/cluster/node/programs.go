// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	// socketTimeout is how long containerd may take to listen.
	socketTimeout = time.Minute
)

// containerdConfig is for version 2 of containerd. Snapshots are plain copies, which works on every file system, in containers
// too. restrict_oom_score_adj is for machines whose root lacks CAP_SYS_RESOURCE. What would write to /opt is off.
const containerdConfig = `version = 3
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q, %q]
    conf_dir = "/run/cni"
    use_internal_loopback = true
`

// startContainerd starts containerd and gives it the images.
func (n *Node) startContainerd(ctx context.Context) error {
	programs := n.group.programs
	config := fmt.Sprintf(containerdConfig, PauseImage,
		filepath.Dir(programs[binaries.PTP]), filepath.Dir(programs[binaries.HostLocal]))
	configPath := filepath.Join(n.dir, "containerd.toml")
	if err := os.WriteFile(configPath, []byte(config), 0o644); err != nil {
		return err
	}
	if err := n.writeNetworkConfig(); err != nil {
		return err
	}
	var err error
	if n.containerd, err = n.run(binaries.Containerd, "--config="+configPath); err != nil {
		return err
	}
	if err := n.waitContainerd(ctx); err != nil {
		return err
	}
	for _, image := range n.group.images {
		if err := n.enter(ctx, programs[binaries.Ctr], "--namespace=k8s.io", "images", "import", "--local", "--no-unpack",
			image); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) waitContainerd(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 2*pollInterval, socketTimeout, true, func(ctx context.Context) (bool, error) {
		last = n.enter(ctx, n.group.programs[binaries.Ctr], "version")
		return last == nil, nil
	})
	if wait.Interrupted(err) {
		return fmt.Errorf("waiting for containerd: %w\n%s", last, tail(n.LogPath(binaries.Containerd)))
	}
	return err
}

// writeNetworkConfig has pods connected with the node, and each given an address of the node's part of the pod network.
func (n *Node) writeNetworkConfig() error {
	return writeJSON(filepath.Join(n.dir, "run", "cni", "pods.conflist"), map[string]any{
		"cniVersion": "1.0.0", "name": "pods",
		"plugins": []map[string]any{{
			"type": "ptp",
			"ipam": map[string]any{
				"type":   "host-local",
				"ranges": [][]map[string]string{{{"subnet": n.podCIDR()}}},
				"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// startKubelet starts the kubelet as its options say.
func (n *Node) startKubelet() error {
	config := filepath.Join(n.dir, "kubelet.json")
	if err := writeJSON(config, n.kubeletConfig()); err != nil {
		return err
	}
	bootstrap := filepath.Join(n.dir, "bootstrap.kubeconfig")
	if err := cluster.WriteKubeconfig(bootstrap, &rest.Config{
		Host: n.group.server(), BearerToken: n.options.Token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: n.group.caFile()},
	}); err != nil {
		return err
	}
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(n.options.Labels)) {
		labels = append(labels, key+"="+n.options.Labels[key])
	}
	var err error
	n.kubelet, err = n.run(binaries.Kubelet, "--config="+config, "--bootstrap-kubeconfig="+bootstrap,
		"--kubeconfig=/var/lib/kubelet/kubeconfig", "--hostname-override="+n.options.Name, "--node-ip="+n.IP(),
		"--node-labels="+strings.Join(labels, ","), "--v=2")
	return err
}

func (n *Node) kubeletConfig() map[string]any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": n.group.caFile()},
		},
		"authorization":      map[string]any{"mode": "Webhook"},
		"rotateCertificates": true, "serverTLSBootstrap": true,

		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"cgroupDriver":             "cgroupfs", "cgroupRoot": n.cgroup, "failCgroupV1": false,
		"enforceNodeAllocatable": []string{}, "failSwapOn": false,
		"clusterDNS": []string{"10.96.0.10"}, "clusterDomain": "cluster.local", "resolvConf": "", // nobody answers there
		"volumePluginDir":             "/var/lib/kubelet/volumeplugins",
		"nodeStatusUpdateFrequency":   "5s",
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"evictionHard": map[string]string{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
			"imagefs.inodesFree": "0%",
		},
	}
	maps.Copy(config, n.options.Kubelet)
	return config
}

// proxyFlags make Services work. Limits of the machine's connection tracking are left alone.
func (n *Node) proxyFlags() []string {
	return []string{
		"--kubeconfig=" + n.group.proxyKubeconfig(), "--hostname-override=" + n.options.Name, "--proxy-mode=nftables",
		"--cluster-cidr=" + podNetwork, "--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
