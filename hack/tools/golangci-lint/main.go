// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command golangci-lint is golangci-lint with the kube-api-linter plugin compiled in. Building it here, from pinned
// modules, needs no download but the module proxy's.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"
	// The plugin registers itself when it is imported.
	_ "sigs.k8s.io/kube-api-linter"
)

const module = "github.com/golangci/golangci-lint/v2"

func main() {
	if err := commands.Execute(buildInfo()); err != nil {
		fmt.Fprintln(os.Stderr, "golangci-lint:", err)
		os.Exit(exitcodes.Failure)
	}
}

// buildInfo reports the version of golangci-lint rather than that of this module, which has none.
func buildInfo() commands.BuildInfo {
	info := commands.BuildInfo{Version: "unknown", Commit: "unknown", Date: "unknown"}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	info.GoVersion = build.GoVersion
	for _, dependency := range build.Deps {
		if dependency.Path == module {
			info.Version = dependency.Version
			info.Commit = dependency.Sum
		}
	}
	return info
}
