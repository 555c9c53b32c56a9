// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notafter/notafter/hack/cluster/kubelet"
)

// TestFleet starts 200 kubelets, or as many as NOTAFTER_KUBELETS says, and reports what they cost.
func TestFleet(t *testing.T) {
	count := 200
	if n, err := strconv.Atoi(os.Getenv("NOTAFTER_KUBELETS")); err == nil {
		count = n
	}
	goroutines := runtime.NumGoroutine()
	before := residentMiB(t)
	fleet, err := kubelet.NewFleet(join, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Stop()
	var options []kubelet.Options
	for i := range count {
		name := fmt.Sprintf("fleet-%04d", i)
		options = append(options, kubelet.Options{Name: name, Heartbeat: kubelet.NoHeartbeat})
		approver.Set(name, kubelet.Verdict{Decision: kubelet.Approve})
	}
	ctx := t.Context()
	begin := time.Now()
	if err := fleet.StartAll(ctx, options...); err != nil {
		t.Fatal(err)
	}
	listening := time.Since(begin)
	if err := fleet.WaitRegistered(ctx); err != nil {
		t.Fatal(err)
	}
	registered := time.Since(begin)
	if err := fleet.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kubelets: listening after %s, registered after %s, serving after %s",
		count, listening.Round(time.Millisecond), registered.Round(time.Millisecond),
		time.Since(begin).Round(time.Millisecond))
	t.Logf("%d MiB resident before, %d after; %d goroutines", before, residentMiB(t), runtime.NumGoroutine())
	var handshakes sync.Map
	fleet.OnHandshake(func(node string) { handshakes.Store(node, true) })
	for _, k := range fleet.Kubelets() {
		chain, err := handshake(k)
		if err != nil {
			t.Fatalf("%s: %v", k.Name(), err)
		}
		if err := verify(chain, k); err != nil {
			t.Errorf("%s: %v", k.Name(), err)
		}
		if _, told := handshakes.Load(k.Name()); !told {
			t.Errorf("%s: the observer was not told of the handshake", k.Name())
		}
	}
	begin = time.Now()
	fleet.Stop()
	t.Logf("stopped after %s", time.Since(begin).Round(time.Millisecond))
	// client-go does not wait for its goroutines, but they must end.
	const others = 20 // the tests' own clients
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() < goroutines+others })
}

func residentMiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS in /proc/self/status")
	return 0
}
