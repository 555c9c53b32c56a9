// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// helperEnv makes the test binary start a cluster instead and wait to be killed: "start" or "up".
const helperEnv = "NOTAFTER_TEST_CLUSTER_HELPER"

func TestMain(m *testing.M) {
	logf.SetLogger(logr.Discard()) // else controller-runtime complains
	if mode := os.Getenv(helperEnv); mode != "" {
		helper(mode, Options{Dir: os.Args[1], parent: os.Args[2], ControllerManager: true})
		return
	}
	os.Exit(m.Run())
}

// helper prints the cluster's folder when it runs.
func helper(mode string, options Options) {
	var c *Cluster
	var err error
	if mode == "up" {
		c, _, err = Up(context.Background(), options)
	} else {
		c, err = Start(context.Background(), options)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.Dir())
	select {}
}

// startHelper runs a helper, whose standard output is returned.
func startHelper(t *testing.T, mode string, o Options) (*exec.Cmd, io.Reader) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, o.Dir, o.parent)
	cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	cmd.Stderr = t.Output()
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, output
}

// kill sends SIGKILL, which no program can do anything about.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the helper was not killed")
	}
}

// killedWhenReady runs a helper until its cluster is ready, kills it and returns the cluster's folder.
func killedWhenReady(t *testing.T, mode string, o Options) string {
	t.Helper()
	cmd, output := startHelper(t, mode, o)
	line, err := bufio.NewReader(output).ReadString('\n')
	kill(t, cmd)
	if err != nil {
		t.Fatalf("the helper did not start a cluster: %v", err)
	}
	return strings.TrimSpace(line)
}

func TestClusterDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	parent := t.TempDir() // where no other process tidies up
	dir := killedWhenReady(t, "start", Options{parent: parent})
	if runtime.GOOS == "linux" {
		eventuallyNoProcesses(t, dir)
	}
	if !exists(dir) {
		t.Fatal("the killed helper removed its folder: this tests nothing")
	}

	c := StartForTest(t, Options{parent: parent, Log: t.Output()})
	expectNothingOf(t, dir) // the next cluster tidies up
	if filepath.Dir(dir) != filepath.Dir(c.Dir()) {
		t.Errorf("clusters in %s and %s: one would not find the other", dir, c.Dir())
	}
}

func TestStartReplacesADeadCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killedWhenReady(t, "start", Options{Dir: dir})
	c := StartForTest(t, Options{Dir: dir, Log: t.Output()})
	if _, err := clientOf(t, c.Config()).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDetached(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "with a space") // command lines are compared, not split, where that can be
	if runtime.GOOS != "linux" {
		dir = filepath.Join(t.TempDir(), "without")
	}
	t.Cleanup(func() {
		if _, err := Down(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	killedWhenReady(t, "up", Options{Dir: dir})

	opened, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatalf("the cluster did not outlive its owner: %v", err)
	}
	config, err := opened.UserConfig("jane", adminGroup)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clientOf(t, config).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}

	again, started, err := Up(t.Context(), Options{Dir: dir, ControllerManager: true, Log: t.Output()})
	if err != nil || started {
		t.Fatalf("Up on a cluster that runs: started %t, %v", started, err)
	}
	if again.Config().Host != opened.Config().Host {
		t.Errorf("Up moved the cluster from %s to %s", opened.Config().Host, again.Config().Host)
	}

	for _, want := range []bool{true, false} {
		found, err := Down(t.Context(), dir)
		if err != nil || found != want {
			t.Errorf("Down: found %t, %v, want %t", found, err, want)
		}
		expectNothingOf(t, dir)
	}
	if _, err := Open(t.Context(), dir); err == nil {
		t.Error("opened a cluster that is gone")
	}
}

func TestDownAfterAnInterruptedUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cluster")
	cmd, _ := startHelper(t, "up", Options{Dir: dir})
	eventuallyRunning(t, dir, binaries.APIServer)
	kill(t, cmd)
	if runtime.GOOS == "linux" { // elsewhere such a process cannot be seen once its folder is gone
		err := wait.PollUntilContextTimeout(t.Context(), pollInterval, eventually, true, func(context.Context) (bool, error) {
			return os.RemoveAll(dir) == nil, nil // it fails where a program makes a file at that moment
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found, err := Down(t.Context(), dir); err != nil || !found {
		t.Errorf("Down: found %t, %v", found, err)
	}
	expectNothingOf(t, dir)
}

// A process that merely looks like one of a cluster's must live on.
func TestOnlyOwnProcessesAreEnded(t *testing.T) {
	t.Parallel()
	dir, programs := t.TempDir(), t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	other := filepath.Join(programs, string(binaries.Etcd))
	if err := os.Symlink(sleep, other); err != nil {
		t.Fatal(err)
	}
	impostors := []*exec.Cmd{
		exec.Command(other, "60"), // the program, but of no cluster
		exec.Command("sh", "-c", "read line", "sh", identity(dir, binaries.Etcd)), // the argument, but of no program
	}
	if _, err := impostors[1].StdinPipe(); err != nil { // nothing to read: it waits
		t.Fatal(err)
	}
	for _, cmd := range impostors {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer kill(t, cmd)
	}
	if err := endAll(dir); err != nil {
		t.Error(err)
	}
	for _, cmd := range impostors {
		if commandLine(cmd.Process.Pid) == nil {
			t.Errorf("%s was ended", cmd.Args)
		}
	}
}

func expectNoProcesses(t *testing.T, dir string) {
	t.Helper()
	found, err := running(dir, binaries.All()...)
	if err != nil || len(found) > 0 {
		t.Errorf("still running: %v, %v", found, err)
	}
}

// expectNothingOf expects neither processes nor files of a cluster.
func expectNothingOf(t *testing.T, dir string) {
	t.Helper()
	expectNoProcesses(t, dir)
	if exists(dir) {
		t.Errorf("%s is still there", dir)
	}
}

func eventuallyNoProcesses(t *testing.T, dir string) {
	t.Helper()
	eventuallyRunningAre(t, dir, 0, binaries.All()...)
}

func eventuallyRunning(t *testing.T, dir string, program binaries.Program) {
	t.Helper()
	eventuallyRunningAre(t, dir, 1, program)
}

func eventuallyRunningAre(t *testing.T, dir string, count int, programs ...binaries.Program) {
	t.Helper()
	var found map[int]binaries.Program
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, eventually, true,
		func(context.Context) (bool, error) {
			var err error
			found, err = running(dir, programs...)
			return len(found) == count, err
		})
	if err != nil {
		t.Errorf("processes: got %v, want %d of %v: %v", found, count, programs, err)
	}
}

func requestPEM(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func parseIssued(t *testing.T, certificate []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certificate)
	if block == nil {
		t.Fatalf("not PEM: %q", certificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
