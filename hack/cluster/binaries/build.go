// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/modfile"
	gomodule "golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// progressInterval is how often a long build says that it is alive.
const progressInterval = 15 * time.Second

// module is one of the Go modules under hack/cluster/modules. Its go.mod is the only place that says which version is
// used.
type module struct {
	name     string             // its folder, and that of its programs under .cache
	source   string             // the Go module whose version counts
	packages map[Program]string // the Go package of each program
	duration string             // of the first build
	ldflags  func(version string) string
}

var (
	kubernetes = module{
		name:   "kubernetes",
		source: "k8s.io/kubernetes",
		packages: map[Program]string{
			APIServer:         "k8s.io/kubernetes/cmd/kube-apiserver",
			ControllerManager: "k8s.io/kubernetes/cmd/kube-controller-manager",
			Kubectl:           "k8s.io/kubernetes/cmd/kubectl",
			Scheduler:         "k8s.io/kubernetes/cmd/kube-scheduler",
			Kubelet:           "k8s.io/kubernetes/cmd/kubelet",
			KubeProxy:         "k8s.io/kubernetes/cmd/kube-proxy",
		},
		duration: "about 5 minutes on 2 cores",
		ldflags:  kubernetesLDFlags,
	}
	etcd = module{
		name:     "etcd",
		source:   "go.etcd.io/etcd/server/v3",
		packages: map[Program]string{Etcd: "go.etcd.io/etcd/server/v3"},
		duration: "about 15 seconds on 2 cores",
		ldflags:  func(string) string { return stripFlags },
	}
	containerd = module{
		name:   "containerd",
		source: "github.com/containerd/containerd/v2",
		packages: map[Program]string{
			Containerd:     "github.com/containerd/containerd/v2/cmd/containerd",
			ContainerdShim: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			Ctr:            "github.com/containerd/containerd/v2/cmd/ctr",
		},
		duration: "about a minute on 2 cores",
		ldflags: func(version string) string {
			return stripFlags + " -X github.com/containerd/containerd/v2/version.Version=" + version
		},
	}
	cni = module{
		name:   "cni",
		source: "github.com/containernetworking/plugins",
		packages: map[Program]string{
			PTP:       "github.com/containernetworking/plugins/plugins/main/ptp",
			HostLocal: "github.com/containernetworking/plugins/plugins/ipam/host-local",
		},
		duration: "about 10 seconds on 2 cores",
		ldflags:  func(string) string { return stripFlags },
	}
	modules = []module{etcd, kubernetes, containerd, cni}
)

// stripFlags leave out what only debuggers use, half of the size.
const stripFlags = "-s -w"

// kubernetesLDFlags stamps the version: without it the API server calls itself v0.0.0 and clients misjudge it.
func kubernetesLDFlags(version string) string {
	const stamp = " -X k8s.io/component-base/version."
	major, minor, _ := strings.Cut(strings.TrimPrefix(semver.MajorMinor(version), "v"), ".")
	return stripFlags + stamp + "gitVersion=" + version + stamp + "gitMajor=" + major + stamp + "gitMinor=" + minor
}

func moduleOf(program Program) module {
	for _, m := range modules {
		if m.packages[program] != "" {
			return m
		}
	}
	return kubernetes
}

func (m module) programs() []Program {
	return slices.DeleteFunc(All(), func(p Program) bool { return m.packages[p] == "" })
}

// builtName is the file name that go build gives a program: that of its package's folder, without a major version.
func (m module) builtName(program Program) string {
	prefix, _, _ := gomodule.SplitPathVersion(m.packages[program])
	return path.Base(prefix)
}

// dir and file are relative to the repository.
func (m module) dir() string  { return filepath.Join("hack", "cluster", "modules", m.name) }
func (m module) file() string { return filepath.Join(m.dir(), "go.mod") }

// version reads the version of the programs, with its leading v.
func (m module) version(root string) (string, error) {
	name := filepath.Join(root, m.file())
	data, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", m.source, err)
	}
	file, err := modfile.Parse(name, data, nil)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", m.source, err)
	}
	for _, require := range file.Require {
		if require.Mod.Path == m.source {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", name, m.source)
}

// build compiles programs of one module into the store. The caller holds the lock.
func (s *store) build(ctx context.Context, m module, programs []Program) error {
	version := s.versions[m.name]
	s.say("building %s %s from source: %s the first time, then kept in %s",
		names(programs), version, m.duration, s.dir(m))
	begin := time.Now()
	err := s.workDir("build", func(dir string) error {
		args := []string{"build", "-v", "-trimpath", "-ldflags", m.ldflags(version), "-o", dir + string(filepath.Separator)}
		for _, program := range programs {
			args = append(args, m.packages[program])
		}
		if err := s.runGo(ctx, m.dir(), args...); err != nil {
			return err
		}
		for _, program := range programs {
			if err := s.install(filepath.Join(dir, m.builtName(program)), program); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.say("built %s in %s", names(programs), time.Since(begin).Round(time.Second))
	return nil
}

// runGo runs the go command in a folder of the repository and for this machine, whatever the environment says about
// cross-compiling, workspaces or vendoring for the repository's own code. Of its output (of go build -v) it passes on
// what is not just the name of a package, and counts those.
func (s *store) runGo(ctx context.Context, dir string, args ...string) error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("install Go, or set $%s: %w", AssetsEnv, err)
	}
	cmd := exec.CommandContext(ctx, goCommand, args...)
	cmd.Dir = filepath.Join(s.root, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=",
		"GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets go stop its compilers
	cmd.WaitDelay = 10 * time.Second
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer

	progress := buildProgress{say: s.say}
	done := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() { progress.read(reader) })
	tasks.Go(func() { progress.tick(progressInterval, done) })
	err = cmd.Run()
	close(done)
	_ = writer.Close() // never fails
	tasks.Wait()
	if err != nil {
		return fmt.Errorf("go %s in %s: %w", args[0], dir, err)
	}
	return nil
}

// buildProgress tells how a build goes.
type buildProgress struct {
	say      func(format string, args ...any)
	compiled atomic.Int64
}

// read reads what go build -v prints: a package path per line, and anything else is news.
func (p *buildProgress) read(output io.Reader) {
	scanner := bufio.NewScanner(output)
	for scanner.Scan() {
		if line := scanner.Text(); strings.ContainsAny(line, " \t") {
			p.say("  %s", line)
		} else {
			p.compiled.Add(1)
		}
	}
	_, _ = io.Copy(io.Discard, output) // after a line that is too long: it must not block the build
}

func (p *buildProgress) tick(interval time.Duration, done <-chan struct{}) {
	begin := time.Now()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			p.say("  still building: %d packages compiled in %s", p.compiled.Load(), now.Sub(begin).Round(time.Second))
		}
	}
}
