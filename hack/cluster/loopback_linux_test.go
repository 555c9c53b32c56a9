// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// expectLoopbackOnly looks the cluster's listening sockets up in /proc.
func expectLoopbackOnly(t *testing.T, c *Cluster) {
	t.Helper()
	sockets := map[string]bool{}
	found, err := running(c.Dir(), binaries.All()...)
	if err != nil {
		t.Fatal(err)
	}
	for pid := range found {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if target, err := os.Readlink(file); err == nil { // else closed meanwhile
				sockets[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
			}
		}
	}
	listeners := 0
	for table, loopback := range map[string]string{"/proc/net/tcp": "0100007F:", "/proc/net/tcp6": "none:"} {
		data, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line) // slot, local address, remote address, state, …, inode at 9
			if len(fields) < 10 || fields[3] != "0A" || !sockets[fields[9]] {
				continue
			}
			listeners++
			if !strings.HasPrefix(fields[1], loopback) {
				t.Errorf("a component listens on %s (%s)", fields[1], table)
			}
		}
	}
	if listeners != 3 {
		t.Errorf("%d listeners, want two of etcd and one of the API server", listeners)
	}
}
