// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// commandLines returns the arguments of every process of this machine. ps cannot tell a space from the end of an
// argument, so a cluster's folder must have no space in its name to be recognized here.
func commandLines() (map[int][]string, error) {
	output, err := exec.CommandContext(context.Background(), "ps", "-axww", "-o", "pid=,command=").Output()
	if err != nil {
		return nil, fmt.Errorf("listing processes: ps: %w", err)
	}
	lines := map[int][]string{}
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if pid, err := strconv.Atoi(fields[0]); err == nil {
			lines[pid] = fields[1:]
		}
	}
	return lines, nil
}

// commandLine returns the arguments of a process, or nil when it is gone.
func commandLine(pid int) []string {
	output, err := exec.CommandContext(context.Background(), "ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil // ps fails when there is no such process
	}
	return strings.Fields(string(output))
}
