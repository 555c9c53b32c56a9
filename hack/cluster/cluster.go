// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/internal/filelock"
)

// startTimeout bounds the start of a cluster whose programs exist. It takes some 5 seconds on an idle machine.
const startTimeout = 2 * time.Minute

// Cluster is a control plane that runs.
type Cluster struct {
	options   Options
	temporary bool // the folder is ours to remove
	programs  map[binaries.Program]string
	pki       pki
	trust     []byte // the certificates of the Cluster CA that are published
	config    *rest.Config

	// etcdPorts, for clients and for peers, and apiServerPort are kept for the next start. They are not known of a cluster
	// that another process started.
	etcdPorts     []int
	apiServerPort int

	lock    *filelock.Lock // on the folder, while this process owns the cluster; nil when detached
	manager sync.Mutex     // starting and stopping the controller manager
	servers sync.Mutex     // starting and stopping etcd and the API server
}

// Start starts a cluster and returns when it is ready for use. Stop must be called in the end; should this process be
// killed first, the cluster dies too, unless it is detached.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	o, err := options.complete()
	if err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", err)
	}
	c, err := newCluster(ctx, o, filelock.Try)
	if err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", err)
	}
	return c.start(ctx)
}

type locker func(path string) (*filelock.Lock, error)

// newCluster returns a cluster that has a folder, locked, but does not run.
func newCluster(ctx context.Context, o Options, lock locker) (*Cluster, error) {
	c := &Cluster{options: o}
	var err error
	if o.Dir == "" {
		c.temporary = true
		if o.parent == "" {
			o.parent, err = temporaryParent()
		}
		if err == nil {
			c.options.Dir, c.lock, err = temporaryDir(o.parent)
		}
	} else if c.options.Dir, err = claim(o.Dir); err == nil {
		c.lock, err = lock(lockPath(c.options.Dir))
	}
	if err != nil {
		return nil, err
	}
	if c.programs, err = binaries.Find(ctx, o.Log, o.programs()...); err != nil {
		return nil, errors.Join(err, c.abandon())
	}
	return c, nil
}

// start starts all that is to run in the cluster's folder. After an error nothing runs.
func (c *Cluster) start(ctx context.Context) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := c.startAll(ctx)
	if err == nil && c.options.Detached {
		err = c.unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", errors.Join(err, c.Stop()))
	}
	return c, nil
}

func (c *Cluster) startAll(ctx context.Context) error {
	dir := c.options.Dir
	if err := wipe(dir); err != nil {
		return err
	}
	for _, folder := range []string{pkiDir(dir), etcdDir(dir), logsDir(dir)} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return fmt.Errorf("making the cluster's folders: %w", err)
		}
	}
	var err error
	if c.pki, err = writePKI(pkiDir(dir), c.options.Address); err != nil {
		return err
	}
	c.trust = certPEM(c.pki.cluster.cert)
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	if err := WriteKubeconfig(c.KubeconfigPath(), c.config); err != nil {
		return err
	}
	return c.populate(ctx)
}

// populate brings an API server to where its user wants it.
func (c *Cluster) populate(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return err
	}
	if err := waitForSystemNamespaces(ctx, client); err != nil {
		return err
	}
	if len(c.options.InstallCRDs) > 0 {
		if _, err := envtest.InstallCRDs(c.config, envtest.CRDInstallOptions{
			Paths: c.options.InstallCRDs, ErrorIfPathMissing: true, MaxTime: time.Minute,
		}); err != nil {
			return fmt.Errorf("installing CustomResourceDefinitions: %w", err)
		}
	}
	if c.options.Scheduler {
		if err := c.startScheduler(); err != nil {
			return err
		}
	}
	if c.options.ControllerManager {
		return c.StartControllerManager(ctx)
	}
	return publishRootCA(ctx, client, c.CACertPEM())
}

// Stop ends the cluster's processes. It removes the folder only if Start chose it.
func (c *Cluster) Stop() error {
	if err := endAll(c.options.Dir); err != nil {
		return fmt.Errorf("stopping the cluster in %s: %w", c.options.Dir, errors.Join(err, c.unlock()))
	}
	return c.abandon()
}

// abandon gives up the folder of a cluster that does not run.
func (c *Cluster) abandon() error {
	var err error
	if c.temporary {
		err = remove(c.options.Dir)
	}
	return errors.Join(err, c.unlock())
}

func (c *Cluster) unlock() error {
	if c.lock == nil {
		return nil
	}
	lock := c.lock
	c.lock = nil
	return lock.Release()
}
