// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// StopAPIServer stops the API server, as an upgrade of the control plane does. Whoever holds a connection loses it.
func (c *Cluster) StopAPIServer() error {
	c.servers.Lock()
	defer c.servers.Unlock()
	return end(c.options.Dir, binaries.APIServer)
}

// StartAPIServer starts the API server again, at the same address and with the same certificates, and waits until it is
// ready. The cluster must be one that this process started.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if c.apiServerPort == 0 {
		return fmt.Errorf("starting %s: %w", binaries.APIServer, errNotOurs)
	}
	return c.startAgain(ctx, binaries.APIServer, c.runAPIServer)
}

// StopEtcd stops etcd. The API server keeps running, and fails whatever it is asked.
func (c *Cluster) StopEtcd() error {
	c.servers.Lock()
	defer c.servers.Unlock()
	return end(c.options.Dir, binaries.Etcd)
}

// StartEtcd starts etcd again, at the same address and with its data, and waits until it is healthy. The cluster must be one
// that this process started.
func (c *Cluster) StartEtcd(ctx context.Context) error {
	if len(c.etcdPorts) == 0 {
		return fmt.Errorf("starting %s: %w", binaries.Etcd, errNotOurs)
	}
	return c.startAgain(ctx, binaries.Etcd, c.runEtcd)
}

var errNotOurs = errors.New("another process started this cluster: start it from there")

// startAgain starts a program that does not run. It has to get the ports it had, which somebody may use for a moment.
func (c *Cluster) startAgain(
	ctx context.Context, program binaries.Program, start func(context.Context) (*child, error),
) error {
	c.servers.Lock()
	defer c.servers.Unlock()
	found, err := running(c.options.Dir, program)
	if err != nil || len(found) > 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		p, err := start(ctx)
		if err != nil && p != nil && p.portTaken() {
			return false, nil
		}
		return err == nil, err
	})
}
