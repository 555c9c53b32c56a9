// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package filelock locks a file between processes. The kernel drops such a lock when its holder dies, however it dies.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// ErrHeld says that somebody else holds the lock, in this process or in another one.
var ErrHeld = errors.New("locked by another process")

// Lock is a lock that is held.
type Lock struct {
	file *os.File
}

// Try takes the lock on path, making the file and its folder if needed, or returns ErrHeld at once.
func Try(path string) (*Lock, error) {
	for {
		lock, err := try(path)
		if !errors.Is(err, errReplaced) {
			return lock, err
		}
	}
}

// Wait takes the lock on path as soon as it is free. It calls waiting once if it is not free at first.
func Wait(ctx context.Context, path string, waiting func()) (*Lock, error) {
	lock, err := Try(path)
	if !errors.Is(err, ErrHeld) {
		return lock, err
	}
	waiting()
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, false, func(context.Context) (bool, error) {
		lock, err = Try(path)
		if errors.Is(err, ErrHeld) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for the lock %s: %w", path, err)
	}
	return lock, nil
}

// Release gives the lock back. The file stays, unless its owner removed it while holding the lock.
func (l *Lock) Release() error {
	return l.file.Close()
}

// errReplaced: the file was removed or replaced between opening and locking it.
var errReplaced = errors.New("lock file was replaced")

func try(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of a lock file: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, os.ErrNotExist) { // the folder was removed after it was made
		return nil, errReplaced
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	if err := lockAndCheck(file, path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Lock{file: file}, nil
}

// lockAndCheck locks the open file and makes sure that it is still the one at path: a holder may remove the file
// together with its folder before it lets go, and a lock on a file that nobody can find excludes nobody.
func lockAndCheck(file *os.File, path string) error {
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return ErrHeld
		}
		return fmt.Errorf("locking %s: %w", path, err)
	}
	locked, err := file.Stat()
	if err != nil {
		return fmt.Errorf("reading the lock file: %w", err)
	}
	current, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(locked, current) {
		return errReplaced
	}
	if err != nil {
		return fmt.Errorf("reading the lock file: %w", err)
	}
	return nil
}
