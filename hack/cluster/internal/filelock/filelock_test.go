// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	lock, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); !errors.Is(err, ErrHeld) {
		t.Errorf("second lock: got %v, want ErrHeld", err)
	}

	waiting, got := make(chan struct{}), make(chan error)
	go func() {
		second, err := Wait(t.Context(), path, func() { close(waiting) })
		if err == nil {
			err = second.Release()
		}
		got <- err
	}()
	<-waiting
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("waiting for the lock: %v", err)
	}
}

func TestWaitGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // until then, it is not collected as garbage, and so not released
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Wait(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A holder may remove the file: whoever comes then must not share a lock on a file that no longer is there.
func TestLockOnARemovedFileIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	stale, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stale.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := lockAndCheck(stale, path); !errors.Is(err, errReplaced) {
		t.Errorf("removed: got %v, want errReplaced", err)
	}
	if _, err := Try(path); err != nil {
		t.Errorf("a new file: %v", err)
	}
	if err := lockAndCheck(stale, path); !errors.Is(err, errReplaced) {
		t.Errorf("replaced: got %v, want errReplaced", err)
	}
}
