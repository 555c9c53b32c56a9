// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
)

// The process starts itself twice: first as the init process of the new namespaces, and then, under that, to do its work.
const (
	roleEnv   = "NOTAFTER_SANDBOX"
	roleInit  = "init"
	roleInner = "inside"

	// ownerEnv is the id of the outermost process, after which the sandbox's cgroup is called.
	ownerEnv = "NOTAFTER_SANDBOX_OWNER"
)

// failed is the exit code when the sandbox itself does not work.
const failed = 125

// Run runs prepare, and then do in a copy of this process, with the same arguments, that has namespaces of its own. It
// returns the exit code of that copy, which is what do returned. Call it first thing in main, for the copy begins there too;
// what is before it is done three times.
//
// In the sandbox there is a loopback interface and no other, so what has to be downloaded is for prepare.
func Run(prepare func() error, do func() int) int {
	var code int
	var err error
	switch os.Getenv(roleEnv) {
	case roleInner:
		return do()
	case roleInit:
		code, err = initialize()
	default:
		if err = prepare(); err == nil {
			code, err = outside()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return failed
	}
	return code
}

// Inside says whether this process is in a sandbox.
func Inside() bool { return os.Getenv(roleEnv) == roleInner }

// outside starts the namespaces' first process and cleans up after it.
func outside() (int, error) {
	if err := sweepCgroups(); err != nil {
		return failed, err
	}
	runtime.LockOSThread() // the kernel sends Pdeathsig when the thread ends that started the process
	defer runtime.UnlockOSThread()
	cmd := again(roleInit)
	cmd.Env = append(cmd.Env, ownerEnv+"="+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL, // and with the first process of a PID namespace go all others
	}
	outlive(os.Interrupt)
	code, err := exitCode(cmd.Run())
	return code, errors.Join(err, removeCgroup(os.Getpid()))
}

// initialize is the first process of the new namespaces: it makes them usable, and buries whoever is left to it.
func initialize() (int, error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return failed, fmt.Errorf("keeping mounts to itself: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return failed, fmt.Errorf("mounting /proc: %w", err)
	}
	if output, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil { //nolint:noctx // a moment
		return failed, fmt.Errorf("setting up the loopback interface: %w: %s", err, output)
	}
	outlive(os.Interrupt, syscall.SIGTERM)
	cmd := again(roleInner)
	if err := cmd.Start(); err != nil {
		return failed, fmt.Errorf("starting itself: %w", err)
	}
	for { // not cmd.Wait, which waits for that process alone
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return failed, fmt.Errorf("waiting for processes: %w", err)
		case pid == cmd.Process.Pid && status.Signaled():
			return failed, fmt.Errorf("ended by %s", status.Signal())
		case pid == cmd.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}

// again is the command that runs this program once more.
func again(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:gosec,noctx // itself, until this process ends
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// outlive leaves it to the innermost process, which gets the terminal's signals too, to end in order. The signals are caught
// instead of ignored: a started process would inherit the latter.
func outlive(signals ...os.Signal) {
	signal.Notify(make(chan os.Signal, 1), signals...)
}

func exitCode(err error) (int, error) {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 0, err
	}
	if code := exit.ExitCode(); code >= 0 {
		return code, nil
	}
	return failed, err
}
