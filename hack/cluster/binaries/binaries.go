// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package binaries finds the programs of a Kubernetes control plane and of nodes, or gets them: by download where that is
// possible, else by building them from Go modules.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/notafter/notafter/hack/cluster/internal/filelock"
)

// Program is the name of a program's file.
type Program string

// The programs that can be found.
const (
	Etcd              Program = "etcd"
	APIServer         Program = "kube-apiserver"
	ControllerManager Program = "kube-controller-manager"
	Kubectl           Program = "kubectl"
	Scheduler         Program = "kube-scheduler"

	Kubelet        Program = "kubelet"
	KubeProxy      Program = "kube-proxy"
	Containerd     Program = "containerd"
	ContainerdShim Program = "containerd-shim-runc-v2"
	Ctr            Program = "ctr"
	PTP            Program = "ptp"        // the CNI plugin that connects a pod with its node
	HostLocal      Program = "host-local" // the CNI plugin that gives it an address
)

const (
	// AssetsEnv names the environment variable with a folder of programs that are preferred to all others, one by one.
	AssetsEnv = "KUBEBUILDER_ASSETS"
	// SkipDownloadEnv names the environment variable that, when true, has what is missing built without a look for downloads.
	SkipDownloadEnv = "NOTAFTER_SKIP_DOWNLOAD"
)

// ControlPlane lists the programs of a control plane without nodes, and kubectl.
func ControlPlane() []Program {
	return []Program{Etcd, APIServer, ControllerManager, Kubectl}
}

// Nodes lists what real nodes add: the scheduler, and what runs on each of them.
func Nodes() []Program {
	return []Program{Scheduler, Kubelet, KubeProxy, Containerd, ContainerdShim, Ctr, PTP, HostLocal}
}

// All lists every Program.
func All() []Program {
	return slices.Concat(ControlPlane(), Nodes())
}

// Find returns the path of each program: the one in $KUBEBUILDER_ASSETS, else the one that an earlier call downloaded or
// built into the repository's .cache folder, else it downloads or builds it now. It tells log what it does when that
// takes time or may surprise.
func Find(ctx context.Context, log io.Writer, programs ...Program) (map[Program]string, error) {
	found, missing, err := assets(ctx, log, programs)
	if err != nil || len(missing) == 0 {
		return found, err
	}
	got, err := fromRepository(ctx, log, missing)
	if err != nil {
		return nil, fmt.Errorf("getting %s: %w", names(missing), err)
	}
	maps.Copy(found, got)
	return found, nil
}

func fromRepository(ctx context.Context, log io.Writer, programs []Program) (map[Program]string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	s, err := openStore(root, log)
	if err != nil {
		return nil, err
	}
	return s.provide(ctx, programs)
}

// store is the repository's folder of programs, one folder per version of each module.
type store struct {
	root     string
	log      io.Writer
	versions map[string]string // module name to version
	index    string            // where to look for downloads; empty is the default of setup-envtest
}

func openStore(root string, log io.Writer) (*store, error) {
	s := &store{root: root, log: log, versions: map[string]string{}}
	for _, m := range modules {
		version, err := m.version(root)
		if err != nil {
			return nil, err
		}
		s.versions[m.name] = version
	}
	return s, nil
}

func (s *store) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.log, format+"\n", args...)
}

func (s *store) cache() string       { return filepath.Join(s.root, ".cache") }
func (s *store) dir(m module) string { return filepath.Join(s.cache(), m.name, s.versions[m.name]) }
func (s *store) path(program Program) string {
	return filepath.Join(s.dir(moduleOf(program)), string(program))
}

// provide returns the paths of programs, getting first those that are missing.
func (s *store) provide(ctx context.Context, programs []Program) (map[Program]string, error) {
	found, missing := split(programs, s.path)
	if len(missing) == 0 {
		return found, nil
	}
	lock, err := filelock.Wait(ctx, filepath.Join(s.cache(), "binaries.lock"), func() {
		s.say("%s: another process is getting programs; waiting for it", names(missing))
	})
	if err != nil {
		return nil, err
	}
	err = s.get(ctx, programs)
	if err = errors.Join(err, lock.Release()); err != nil {
		return nil, err
	}
	found, missing = split(programs, s.path)
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s: still missing under %s", names(missing), s.cache())
	}
	return found, nil
}

// get downloads or builds what is missing of the programs. The caller holds the lock.
func (s *store) get(ctx context.Context, programs []Program) error {
	_, missing := split(programs, s.path) // again: whoever had the lock before may have got them
	if len(missing) == 0 {
		return nil
	}
	s.downloadOrSay(ctx, missing)
	_, missing = split(missing, s.path)
	for _, m := range modules {
		if wanted := intersection(missing, m.programs()); len(wanted) > 0 {
			if err := s.build(ctx, m, wanted); err != nil {
				return fmt.Errorf("building %s: %w", names(wanted), err)
			}
		}
	}
	return nil
}

// install moves a finished program to its place in one step, so that nobody ever sees half of it.
func (s *store) install(from string, program Program) error {
	if err := os.MkdirAll(filepath.Dir(s.path(program)), 0o755); err != nil {
		return fmt.Errorf("installing %s: %w", program, err)
	}
	if err := os.Rename(from, s.path(program)); err != nil {
		return fmt.Errorf("installing %s: %w", program, err)
	}
	return nil
}

// workDir calls do with an empty folder on the file system of the store.
func (s *store) workDir(name string, do func(dir string) error) (err error) {
	dir := filepath.Join(s.cache(), name)
	if err := removeAll(dir); err != nil { // an interrupted run may have left it
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making a folder to work in: %w", err)
	}
	defer func() { err = errors.Join(err, removeAll(dir)) }()
	return do(dir)
}

// removeAll removes a folder even if folders in it are read-only, as those of setup-envtest are.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

// assets looks the programs up in $KUBEBUILDER_ASSETS.
func assets(ctx context.Context, log io.Writer, programs []Program) (map[Program]string, []Program, error) {
	if os.Getenv(AssetsEnv) == "" {
		return map[Program]string{}, programs, nil
	}
	dir, err := filepath.Abs(os.Getenv(AssetsEnv))
	if err != nil {
		return nil, nil, fmt.Errorf("$%s: %w", AssetsEnv, err)
	}
	found, missing := split(programs, func(p Program) string { return filepath.Join(dir, string(p)) })
	if len(missing) > 0 {
		_, _ = fmt.Fprintf(log, "%s: not in $%s (%s)\n", names(missing), AssetsEnv, dir)
	}
	if path, ok := found[APIServer]; ok {
		sayIfOtherVersion(ctx, log, path)
	}
	return found, missing, nil
}

// sayIfOtherVersion tells about an API server of another minor version than the one this repository is tested with. It
// is used nevertheless: whoever sets $KUBEBUILDER_ASSETS wants it.
func sayIfOtherVersion(ctx context.Context, log io.Writer, apiServer string) {
	root, err := RepositoryRoot()
	if err != nil {
		return // nothing to compare with
	}
	tested, err := kubernetes.version(root)
	if err != nil {
		_, _ = fmt.Fprintln(log, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, apiServer, "--version").Output()
	if err != nil {
		_, _ = fmt.Fprintf(log, "%s --version: %v\n", apiServer, err)
		return
	}
	actual := strings.TrimPrefix(strings.TrimSpace(string(output)), "Kubernetes ")
	if semver.MajorMinor(actual) != semver.MajorMinor(tested) {
		_, _ = fmt.Fprintf(log, "using kube-apiserver %s from $%s; this repository is tested with %s\n",
			actual, AssetsEnv, tested)
	}
}

// split separates the programs that exist, with their paths, from the others.
func split(programs []Program, path func(Program) string) (map[Program]string, []Program) {
	found := map[Program]string{}
	var missing []Program
	for _, program := range programs {
		info, err := os.Stat(path(program))
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			found[program] = path(program)
		} else {
			missing = append(missing, program)
		}
	}
	return found, missing
}

// RepositoryRoot returns the folder of this repository that the working directory is in.
func RepositoryRoot() (string, error) {
	working, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the notafter repository: %w", err)
	}
	for dir := working; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, kubernetes.file())); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the notafter repository: change to it, or set $%s to a folder with "+
				"all the programs", working, AssetsEnv)
		}
	}
}

func names(programs []Program) string {
	texts := make([]string, 0, len(programs))
	for _, program := range programs {
		texts = append(texts, string(program))
	}
	return strings.Join(texts, ", ")
}

func intersection(a, b []Program) []Program {
	return slices.DeleteFunc(slices.Clone(a), func(p Program) bool { return !slices.Contains(b, p) })
}
