// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

const (
	pollInterval = 25 * time.Millisecond
	// stopGrace is how long a program may take to end by itself. It is short, for nothing that it would save is needed.
	stopGrace = 3 * time.Second
	// tailLines of a log are shown when its program fails.
	tailLines = 15
)

// child is a program that this process started.
type child struct {
	program binaries.Program
	log     string
	done    chan struct{} // closed when it ended
	err     error         // how it ended; read after done
}

// startChild runs a program with its output in a log file of the cluster's folder.
func (c *Cluster) startChild(program binaries.Program, args []string) (*child, error) {
	p := &child{program: program, log: logPath(c.options.Dir, program), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	cmd := exec.CommandContext(context.Background(), c.programs[program], args...) // until it is told to end
	cmd.Dir = c.options.Dir
	cmd.Stdout, cmd.Stderr = log, log
	if c.options.Detached {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err = cmd.Start()
	} else {
		cmd.SysProcAttr = attached()
		err = spawn(cmd)
	}
	err = errors.Join(err, log.Close()) // the program has its own handle
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// waitFor polls ready until it returns no error, the program ends or ctx does. Its own error shows the end of the
// program's log.
func (p *child) waitFor(ctx context.Context, what string, ready func(context.Context) error) error {
	var notYet error
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		select {
		case <-p.done:
			return false, p.ended()
		default:
			notYet = ready(ctx)
			return notYet == nil, nil
		}
	})
	if ctx.Err() != nil {
		err = errors.Join(err, notYet)
	}
	if err != nil {
		return fmt.Errorf("waiting for %s from %s: %w\n%s", what, p.program, err, tail(p.log))
	}
	return nil
}

func (p *child) ended() error {
	if p.err != nil {
		return fmt.Errorf("it ended: %w", p.err)
	}
	return errors.New("it ended")
}

// portTaken says whether the program ended because something else listens on its port.
func (p *child) portTaken() bool {
	select {
	case <-p.done:
	default:
		return false
	}
	log, err := os.ReadFile(p.log)
	return err == nil && strings.Contains(string(log), syscall.EADDRINUSE.Error())
}

// tail returns the last lines of a log under a line that names it.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	return fmt.Sprintf("--- end of %s\n%s", path, strings.Join(lines, "\n"))
}

// identity is the argument that a program of the cluster in dir carries, and no other process does.
func identity(dir string, program binaries.Program) string {
	switch program {
	case binaries.Etcd:
		return "--data-dir=" + etcdDir(dir)
	case binaries.APIServer:
		return "--tls-cert-file=" + pkiFile(dir, "apiserver.crt")
	case binaries.Scheduler:
		return "--kubeconfig=" + schedulerKubeconfig(dir)
	default:
		return "--kubeconfig=" + managerKubeconfig(dir)
	}
}

// isProgram is the proof that a command line is that of a cluster's program.
func isProgram(commandLine []string, dir string, program binaries.Program) bool {
	return len(commandLine) > 0 && filepath.Base(commandLine[0]) == string(program) &&
		slices.Contains(commandLine[1:], identity(dir, program))
}

// running returns the process ids of a cluster's programs. It asks the system instead of files with process ids: such a
// file may be missing when its writer was killed, or name somebody else's process.
func running(dir string, programs ...binaries.Program) (map[int]binaries.Program, error) {
	lines, err := commandLines()
	if err != nil {
		return nil, err
	}
	found := map[int]binaries.Program{}
	for pid, line := range lines {
		for _, program := range programs {
			if isProgram(line, dir, program) {
				found[pid] = program
			}
		}
	}
	return found, nil
}

// end stops a cluster's programs, whoever started them, and returns when they are gone.
func end(dir string, programs ...binaries.Program) error {
	deadline := time.Now().Add(stopGrace)
	signal := syscall.SIGTERM
	signalled := map[int]syscall.Signal{}
	return wait.PollUntilContextTimeout(context.Background(), pollInterval, stopGrace+10*time.Second, true,
		func(context.Context) (bool, error) {
			found, err := running(dir, programs...)
			if err != nil || len(found) == 0 {
				return err == nil, err
			}
			if time.Now().After(deadline) {
				signal = syscall.SIGKILL
			}
			for pid, program := range found {
				if signalled[pid] == signal {
					continue
				}
				signalled[pid] = signal
				if err := signalProgram(pid, dir, program, signal); err != nil {
					return false, err
				}
			}
			return false, nil
		})
}

// signalProgram signals the process if it still is the program. The handle comes before the proof: on Linux it stays with
// the process, so that no other one with the same id can be hit.
func signalProgram(pid int, dir string, program binaries.Program, signal os.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("stopping %s (process %d): %w", program, pid, err)
	}
	if !isProgram(commandLine(pid), dir, program) {
		return process.Release()
	}
	err = process.Signal(signal)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s (process %d): %w", program, pid, errors.Join(err, process.Release()))
	}
	return process.Release()
}
