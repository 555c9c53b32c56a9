// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// attached lets the kernel kill the process when this one dies, even by SIGKILL. It keeps it away from the terminal's
// Ctrl-C, for which the cluster is stopped in order.
func attached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// spawner runs functions on one operating system thread that lives as long as this process. The kernel sends Pdeathsig
// when the thread that started the process ends, and Go ends threads at times.
var spawner = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread() // and never unlocked
		for call := range calls {
			call()
		}
	}()
	return calls
})

func spawn(cmd *exec.Cmd) error {
	result := make(chan error)
	spawner() <- func() { result <- cmd.Start() }
	return <-result
}
