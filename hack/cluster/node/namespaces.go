// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/sandbox"
)

// mounts are the folders that programs of a node write to, wherever the paths are not for us to choose. Each node has its own.
var mounts = []struct{ from, to string }{{"lib", "/var/lib"}, {"log", "/var/log"}, {"run", "/run"}}

// kernelSettings are those that a kubelet sets for the whole machine. It gets to see them set, and the machine keeps its own.
var kernelSettings = map[string]string{
	"kernel/keys/root_maxbytes": "25000000",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
}

// unshare makes the node's namespaces and connects its network with the sandbox's.
func (n *Node) unshare(ctx context.Context) error {
	var err error
	n.holder, err = startProcess("the node's namespaces", func() (*exec.Cmd, error) {
		cmd := exec.CommandContext(context.Background(), "sleep", "infinity") // until it is told to end
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		}
		return cmd, cmd.Start()
	})
	if err != nil {
		return err
	}
	if err := n.connect(ctx); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := n.mount(ctx); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	return n.enter(ctx, "sh", "-c", `printf %s "$1" >/proc/sys/kernel/hostname`, "sh", n.options.Name)
}

// connect makes a link to the sandbox, which is the router between all nodes and the control plane.
func (n *Node) connect(ctx context.Context) error {
	holder, gateway := strconv.Itoa(n.holder.cmd.Process.Pid), Gateway.String()
	for _, args := range [][]string{
		{"link", "add", n.link(), "type", "veth", "peer", "name", "eth0", "netns", holder},
		{"link", "set", n.link(), "up"},
		{"route", "add", n.IP(), "dev", n.link(), "src", gateway},
	} {
		if err := run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", n.IP() + "/32", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", gateway, "dev", "eth0", "src", n.IP()},
		{"route", "add", "default", "via", gateway, "dev", "eth0", "src", n.IP()},
	} {
		if err := n.enter(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return run(ctx, "ip", "route", "add", n.podCIDR(), "via", n.IP(), "dev", n.link(), "src", gateway)
}

// mount gives the node files of its own.
func (n *Node) mount(ctx context.Context) error {
	if err := n.enter(ctx, "mount", "--make-rprivate", "/"); err != nil {
		return err
	}
	for name, value := range kernelSettings {
		path := filepath.Join(n.dir, "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := n.enter(ctx, "mount", "--bind", path, filepath.Join("/proc/sys", name)); err != nil {
			return err
		}
	}
	for _, dir := range mounts {
		if err := n.enter(ctx, "mount", "--bind", filepath.Join(n.dir, dir.from), dir.to); err != nil {
			return err
		}
	}
	return nil
}

// entered is the command that runs a program in the node's namespaces. Not `ip netns exec`, which mounts /sys anew and so
// hides the cgroups from the kubelet.
func (n *Node) entered(program string, args ...string) (string, []string) {
	holder := strconv.Itoa(n.holder.cmd.Process.Pid)
	return "nsenter", append([]string{"--target=" + holder, "--mount", "--net", "--uts", "--", program}, args...)
}

// enter runs a program on the node and waits for it.
func (n *Node) enter(ctx context.Context, program string, args ...string) error {
	_, err := n.output(ctx, program, args...)
	return err
}

// output runs a program on the node and returns what it prints.
func (n *Node) output(ctx context.Context, program string, args ...string) (string, error) {
	name, args := n.entered(program, args...)
	return output(ctx, name, args...)
}

// path is where the node's programs find others: containerd its shim, and both runc.
func (n *Node) path() string {
	return filepath.Dir(n.group.programs[binaries.ContainerdShim]) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
}

func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, name, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(output), nil
}

// killCgroup kills the processes of a node's pods.
func killCgroup(path string) error {
	pids, err := sandbox.Processes(path)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// tail returns the end of a log.
func tail(path string) string {
	const size = 3000
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(data[max(0, len(data)-size):])
}
