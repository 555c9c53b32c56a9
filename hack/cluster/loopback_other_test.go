// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package cluster

import "testing"

func expectLoopbackOnly(t *testing.T, _ *Cluster) {
	t.Helper()
	t.Skip("only Linux tells what listens where")
}
