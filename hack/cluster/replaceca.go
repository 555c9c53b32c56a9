// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"
)

// AddCA begins to replace the Cluster CA, as a careful admin does: from now on a new CA signs, and both are trusted and
// published. The cluster must have a controller manager. Configurations that Config returned before trust the old one alone.
func (c *Cluster) AddCA(ctx context.Context) error {
	next, err := newCA(clusterCAName)
	if err != nil {
		return fmt.Errorf("replacing the Cluster CA: %w", err)
	}
	both := slices.Concat(c.trust, certPEM(next.cert))
	for _, name := range []string{trustFile, clientCAFile} {
		if err := writeFile(pkiFile(c.options.Dir, name), both); err != nil {
			return err
		}
	}
	if err := next.write(pkiDir(c.options.Dir), clusterCA); err != nil {
		return err
	}
	c.pki.cluster, c.trust = next, both
	c.config.CAData = both
	if err := WriteKubeconfig(c.KubeconfigPath(), c.config); err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// DropOldCA stops publishing every Cluster CA but the newest. The API server still serves a certificate of the old one, until
// RenewAPIServer, and accepts clients with one.
func (c *Cluster) DropOldCA(ctx context.Context) error {
	c.trust = certPEM(c.pki.cluster.cert)
	if err := writeFile(pkiFile(c.options.Dir, trustFile), c.trust); err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// RenewAPIServer gives the API server a serving certificate of the newest Cluster CA. It takes it up within a minute or so.
func (c *Cluster) RenewAPIServer() error {
	pair, err := c.pki.cluster.sign(apiServerTemplate(c.options.Address))
	if err != nil {
		return fmt.Errorf("renewing the API server's certificate: %w", err)
	}
	return pair.write(pkiDir(c.options.Dir), "apiserver")
}

func (c *Cluster) restartControllerManager(ctx context.Context) error {
	if err := c.StopControllerManager(); err != nil {
		return err
	}
	return c.StartControllerManager(ctx)
}
