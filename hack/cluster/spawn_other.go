// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cluster

import (
	"os/exec"
	"syscall"
)

// attached keeps the process away from the terminal's Ctrl-C, for which the cluster is stopped in order. Nothing here can
// tie its life to that of this process: what a killed one leaves behind is ended by the next Start, Up or Down.
func attached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func spawn(cmd *exec.Cmd) error {
	return cmd.Start()
}
