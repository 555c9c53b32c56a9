// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// Kubectl returns the path of a kubectl of the cluster's version.
func (c *Cluster) Kubectl() string { return c.programs[binaries.Kubectl] }

// RunKubectl runs kubectl as the administrator with this input, and returns what it wrote to its standard output. The error has
// what it wrote to the other one.
func (c *Cluster) RunKubectl(ctx context.Context, input string, args ...string) (string, error) {
	// Another cluster may have had the same address: what was learned of it must not be taken for true of this one.
	all := append([]string{"--kubeconfig", c.KubeconfigPath(), "--cache-dir", filepath.Join(c.Dir(), "kubectl-cache")}, args...)
	command := exec.CommandContext(ctx, c.Kubectl(), all...)
	command.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}
