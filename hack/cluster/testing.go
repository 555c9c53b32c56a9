// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// T is what StartForTest needs of a *testing.T, or of what GinkgoTB() returns.
type T interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// StartForTest starts a cluster for one test or, from Ginkgo's BeforeSuite, for a suite, and stops it when that ends. If
// that fails, the ends of the components' logs are shown.
func StartForTest(t T, options Options) *Cluster {
	t.Helper()
	c, err := Start(context.Background(), options) // t's own context ends before its cleanup
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, program := range binaries.All() {
				if log := logPath(c.options.Dir, program); exists(log) {
					t.Logf("%s", tail(log))
				}
			}
		}
		if err := c.Stop(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return c
}
