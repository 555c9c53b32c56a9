// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupPrefix = "notafter-"
	// cgroupEmpty is how long the kernel may take to notice that a cgroup's processes are gone.
	cgroupEmpty = 10 * time.Second
)

// Cgroup makes a cgroup in the sandbox's own, in every hierarchy, and returns its path below their roots.
func Cgroup(name string) (string, error) {
	path := filepath.Join("/", cgroupPrefix+os.Getenv(ownerEnv), name)
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return "", err
	}
	for _, root := range hierarchies {
		for parent := root; parent != filepath.Join(root, path); {
			if err := delegate(parent); err != nil {
				return "", fmt.Errorf("cgroup %s: %w", path, err)
			}
			relative, _, _ := strings.Cut(strings.TrimPrefix(filepath.Join(root, path), parent+"/"), "/")
			parent = filepath.Join(parent, relative)
			if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return "", fmt.Errorf("cgroup %s: %w", path, err)
			}
		}
	}
	return path, nil
}

// Processes returns the ids of the processes in a cgroup that Cgroup made, and below it.
func Processes(path string) ([]int, error) {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, root := range hierarchies {
		err := filepath.WalkDir(filepath.Join(root, path), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return err
			}
			content, err := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil {
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for processes: %w", err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// delegate lets the children of a cgroup of version 2 have all controllers that it has itself.
func delegate(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // version 1
	}
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if err != nil {
			return fmt.Errorf("controller %s: %w", controller, err)
		}
	}
	return nil
}

// cgroupHierarchies are the folders that cgroups are made in: one of version 2, or one for each controller of version 1.
func cgroupHierarchies() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	if _, statErr := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); statErr == nil {
		return []string{cgroupRoot}, nil
	}
	if err == nil && len(paths) == 0 {
		err = errors.New("none is mounted")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups under %s: %w", cgroupRoot, err)
	}
	dirs := make([]string, 0, len(paths))
	for _, path := range paths {
		dir := filepath.Dir(path)
		if target, err := filepath.EvalSymlinks(dir); err == nil { // cpu and cpuacct may be one
			dir = target
		}
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// sweepCgroups removes the cgroups of sandboxes whose outermost process is dead.
func sweepCgroups() error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, root := range hierarchies {
		paths, err := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
		if err != nil {
			return fmt.Errorf("looking for dead sandboxes: %w", err)
		}
		for _, path := range paths {
			pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), cgroupPrefix))
			if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				continue
			}
			if err := removeCgroup(pid); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup removes the cgroup of the sandbox of a process, with all in it. They have no processes any more.
func removeCgroup(owner int) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, root := range hierarchies {
		var dirs []string
		top := filepath.Join(root, cgroupPrefix+strconv.Itoa(owner))
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("removing cgroups: %w", err)
		}
		for _, dir := range slices.Backward(dirs) { // the inner ones first
			if err := removeEmptied(dir); err != nil {
				return fmt.Errorf("removing cgroups: %w", err)
			}
		}
	}
	return nil
}

// removeEmptied removes a cgroup as soon as the kernel sees that it is empty.
func removeEmptied(dir string) error {
	var last error
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, cgroupEmpty, true,
		func(context.Context) (bool, error) {
			last = os.Remove(dir)
			if errors.Is(last, syscall.EBUSY) {
				return false, nil
			}
			return true, last
		})
	if wait.Interrupted(err) {
		return last
	}
	return err
}
