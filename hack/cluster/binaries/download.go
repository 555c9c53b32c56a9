// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

const (
	// envtestTool downloads; its version is pinned in the module of envtestModule.
	envtestTool   = "sigs.k8s.io/controller-runtime/tools/setup-envtest"
	envtestModule = "hack/cluster/modules/envtest"

	toolTimeout     = 2 * time.Minute  // to get and build the tool
	reachTimeout    = 10 * time.Second // to learn whether there is anything to download
	downloadTimeout = 5 * time.Minute  // for some 100 MB, once it is known that they can be had
)

// downloadable are the programs that an envtest archive has.
var downloadable = []Program{Etcd, APIServer, Kubectl}

// downloadOrSay downloads those of the programs that can be. That a download cannot be had is told and no error, for the
// programs can be built. The caller holds the lock.
func (s *store) downloadOrSay(ctx context.Context, programs []Program) {
	wanted := intersection(programs, downloadable)
	if len(wanted) == 0 {
		return
	}
	skip, err := downloadsSkipped()
	if err == nil && !skip {
		err = s.download(ctx, wanted)
	}
	if err != nil {
		s.say("%s: not downloaded: %v", names(wanted), err)
	}
}

// downloadsSkipped reads SkipDownloadEnv.
func downloadsSkipped() (bool, error) {
	value := os.Getenv(SkipDownloadEnv)
	if value == "" {
		return false, nil
	}
	skip, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("$%s: %q is neither true nor false", SkipDownloadEnv, value)
	}
	return skip, nil
}

// download gets programs with setup-envtest, which checks their hashes.
func (s *store) download(ctx context.Context, programs []Program) error {
	return s.workDir("download", func(dir string) error {
		tool, err := s.envtestTool(ctx, dir)
		if err != nil {
			return err
		}
		// Not every patch release has an archive: any of the same minor version will do.
		selector := strings.TrimPrefix(semver.MajorMinor(s.versions[kubernetes.name]), "v") + ".x!"
		list, err := tool(ctx, reachTimeout, "list", selector)
		if err != nil {
			return err
		}
		if list == "" {
			return fmt.Errorf("there is no envtest archive of Kubernetes %s for this machine", selector)
		}
		s.say("downloading %s", names(programs))
		unpacked, err := tool(ctx, downloadTimeout, "use", selector, "--print", "path")
		if err != nil {
			return err
		}
		if err := os.Chmod(unpacked, 0o700); err != nil { // it is read-only
			return fmt.Errorf("opening the downloaded folder: %w", err)
		}
		for _, program := range programs {
			if err := s.install(filepath.Join(unpacked, string(program)), program); err != nil {
				return err
			}
		}
		s.say("downloaded %s of %s", names(programs), filepath.Base(unpacked))
		return nil
	})
}

// envtestTool builds setup-envtest and returns a function that runs it and returns what it prints.
func (s *store) envtestTool(ctx context.Context, dir string) (
	func(ctx context.Context, timeout time.Duration, args ...string) (string, error), error,
) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	tool := filepath.Join(dir, "setup-envtest")
	if err := s.runGo(ctx, envtestModule, "build", "-v", "-o", tool, envtestTool); err != nil {
		return nil, fmt.Errorf("building setup-envtest: %w", err)
	}
	return func(ctx context.Context, timeout time.Duration, args ...string) (string, error) {
		args = append(args, "--bin-dir", dir)
		if s.index != "" {
			args = append(args, "--index", s.index)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		output, err := exec.CommandContext(ctx, tool, args...).Output()
		if ctx.Err() != nil {
			return "", fmt.Errorf("setup-envtest %s: no result within %s", args[0], timeout)
		}
		if err != nil {
			return "", fmt.Errorf("setup-envtest %s: %w%s", args[0], err, lastLine(err))
		}
		return strings.TrimSpace(string(output)), nil
	}, nil
}

// lastLine returns the last complaint of a command, after a colon.
func lastLine(err error) string {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || len(exit.Stderr) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
	return ": " + lines[len(lines)-1]
}
