// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"context"
	"io"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// Prepare gets or builds all programs that a cluster with nodes runs. It is for outside of the sandbox, where the network is.
func Prepare(ctx context.Context, log io.Writer) error {
	if _, err := binaries.Find(ctx, log, binaries.All()...); err != nil {
		return err
	}
	_, err := buildPause(ctx)
	return err
}
