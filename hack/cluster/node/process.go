// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

const (
	// restartDelay is how long a program that ended by itself stays so, as with the usual unit of systemd.
	restartDelay = 2 * time.Second
	// stopTimeout is how long a killed program may take to be gone.
	stopTimeout = 10 * time.Second
)

// process is a program that is started again whenever it ends, until it is stopped.
type process struct {
	name     string
	command  func() (*exec.Cmd, error)
	stopped  chan struct{} // closed to stop it
	stopOnce sync.Once
	done     chan struct{} // closed when it is

	mu  sync.Mutex
	cmd *exec.Cmd
}

// run starts a program of the node with its output in a log.
func (n *Node) run(program binaries.Program, args ...string) (*process, error) {
	return startProcess(string(program), func() (*exec.Cmd, error) {
		log, err := os.OpenFile(n.LogPath(program), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		defer func() { _ = log.Close() }() // the program has its own handle
		name, args := n.entered(n.group.programs[program], args...)
		cmd := exec.CommandContext(context.Background(), name, args...) // until it is told to end
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = append(os.Environ(), "PATH="+n.path())
		return cmd, cmd.Start()
	})
}

func startProcess(name string, command func() (*exec.Cmd, error)) (*process, error) {
	p := &process{name: name, command: command, stopped: make(chan struct{}), done: make(chan struct{})}
	var err error
	if p.cmd, err = command(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go p.keep()
	return p, nil
}

// keep waits for the program to end and starts it again, until it is stopped.
func (p *process) keep() {
	defer close(p.done)
	for {
		_ = p.cmd.Wait() // that it ended is what counts; its log says why
		select {
		case <-p.stopped:
			return
		case <-time.After(restartDelay):
		}
		if !p.again() {
			return
		}
	}
}

// again starts the program anew, unless it was stopped, or cannot be.
func (p *process) again() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stopped:
		return false
	default:
	}
	cmd, err := p.command()
	if err == nil {
		p.cmd = cmd
	}
	return err == nil
}

func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop kills the program. Nothing on a node here is worth an orderly end, and a real node may die like this too.
func (p *process) stop() error {
	if !p.alive() {
		return nil
	}
	p.stopOnce.Do(func() { close(p.stopped) })
	p.mu.Lock()
	err := p.cmd.Process.Kill()
	p.mu.Unlock()
	select {
	case <-p.done: // an error of Kill was that it had ended
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("stopping %s: it does not end", p.name), err)
	}
}
