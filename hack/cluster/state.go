// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/internal/filelock"
)

const (
	// openTimeout is how long a running API server may take to answer.
	openTimeout = 30 * time.Second
	// downTimeout is how long Down waits for another process that is starting the cluster.
	downTimeout = time.Minute
)

// Up starts a detached cluster in options.Dir, unless it runs already: then it only does what is left to do. It says
// whether it started one.
func Up(ctx context.Context, options Options) (c *Cluster, started bool, err error) {
	o, err := options.complete()
	if err == nil && o.Dir == "" {
		err = errors.New("Options.Dir is needed to find it again")
	}
	if err != nil {
		return nil, false, fmt.Errorf("starting a detached cluster: %w", err)
	}
	o.Detached = true
	c, err = newCluster(ctx, o, func(path string) (*filelock.Lock, error) {
		return filelock.Wait(ctx, path, func() {
			_, _ = fmt.Fprintln(o.Log, "another process is starting or stopping this cluster; waiting for it")
		})
	})
	if err != nil {
		return nil, false, fmt.Errorf("starting a detached cluster: %w", err)
	}
	if err := c.load(ctx); err != nil { // there is none, or what is left of one
		c, err = c.start(ctx)
		return c, err == nil, err
	}
	if err := errors.Join(c.populate(ctx), c.unlock()); err != nil {
		return nil, false, fmt.Errorf("completing the cluster in %s: %w", c.options.Dir, err)
	}
	return c, false, nil
}

// Open returns the cluster that runs in dir, whoever started it.
func Open(ctx context.Context, dir string) (*Cluster, error) {
	o, err := Options{Dir: dir}.complete()
	if err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.EvalSymlinks(dir); err == nil {
		o.Dir, err = filepath.Abs(o.Dir)
	}
	c := &Cluster{options: o}
	if err == nil {
		err = c.load(ctx)
	}
	if err == nil {
		c.programs, err = binaries.Find(ctx, o.Log, binaries.Kubectl)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the cluster in %s: %w", dir, err)
	}
	return c, nil
}

// load fills in what start would have, from a cluster that runs.
func (c *Cluster) load(ctx context.Context) error {
	for _, program := range []binaries.Program{binaries.Etcd, binaries.APIServer} {
		found, err := running(c.options.Dir, program)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("%s does not run", program)
		}
	}
	var err error
	if c.pki.cluster, err = readKeyPair(pkiDir(c.options.Dir), clusterCA); err != nil {
		return err
	}
	if c.trust, err = os.ReadFile(pkiFile(c.options.Dir, trustFile)); err != nil {
		return fmt.Errorf("reading the Cluster CA: %w", err)
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.KubeconfigPath()); err != nil {
		return fmt.Errorf("reading its kubeconfig: %w", err)
	}
	c.config.QPS, c.config.Burst = clientQPS, clientBurst
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return getOK(ctx, client, c.config.Host+"/readyz")
}

// Down ends the cluster in dir, in whatever state it is, and removes the folder. It says whether there was anything.
func Down(ctx context.Context, dir string) (found bool, err error) {
	existed := exists(dir)
	if dir, err = claim(dir); err != nil { // even if it is absent: its processes may still be there
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	lock, err := filelock.Wait(ctx, lockPath(dir), func() {})
	if err != nil {
		return true, fmt.Errorf("the cluster in %s is in use by a process that runs: end that: %w", dir, err)
	}
	processes, err := running(dir, binaries.All()...)
	if err == nil {
		err = remove(dir)
	}
	return existed || len(processes) > 0, errors.Join(err, lock.Release())
}

// temporaryParent is where the folders are of clusters that were given none.
func temporaryParent() (string, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return "", fmt.Errorf("finding a place for it (or set Options.Dir): %w", err)
	}
	return filepath.Join(root, ".cache", "cluster-runs"), nil
}

// temporaryDir makes and locks a folder for a cluster under parent, after removing those that killed processes left behind.
func temporaryDir(parent string) (string, *filelock.Lock, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, fmt.Errorf("making the clusters' folder: %w", err)
	}
	if err := sweep(parent); err != nil {
		return "", nil, err
	}
	for {
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			return "", nil, fmt.Errorf("making the cluster's folder: %w", err)
		}
		if dir, err = claim(dir); err != nil {
			return "", nil, err
		}
		lock, err := filelock.Try(lockPath(dir))
		if !errors.Is(err, filelock.ErrHeld) { // else another process's sweep was faster
			return dir, lock, err
		}
	}
}

// sweep ends and removes the clusters under parent that no living process owns.
func sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("looking for dead clusters: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(parent, entry.Name())
		lock, err := filelock.Try(lockPath(dir))
		if errors.Is(err, filelock.ErrHeld) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking for dead clusters: %w", err)
		}
		if err := errors.Join(remove(dir), lock.Release()); err != nil {
			return fmt.Errorf("removing the dead cluster in %s: %w", dir, err)
		}
	}
	return nil
}

// endAll ends all of a cluster's programs: first those that need etcd, then etcd.
func endAll(dir string) error {
	return errors.Join(end(dir, binaries.Scheduler, binaries.ControllerManager, binaries.APIServer), end(dir, binaries.Etcd))
}

// wipe empties a cluster's folder, whatever became of the cluster. Only the lock stays: the caller holds it.
func wipe(dir string) error {
	if err := endAll(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("emptying the cluster's folder: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if path == lockPath(dir) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("emptying the cluster's folder: %w", err)
		}
	}
	return nil
}

// remove ends what runs of a cluster and removes its folder. The caller holds the lock, which goes last: another process
// may then find the folder and take it over, which is right, for everything else is gone.
func remove(dir string) error {
	if err := wipe(dir); err != nil {
		return err
	}
	err := errors.Join(os.Remove(lockPath(dir)), os.Remove(dir))
	if err != nil && exists(dir) && !exists(lockPath(dir)) {
		return fmt.Errorf("removing the cluster's folder: %w", err)
	}
	return nil
}

// getOK returns an error unless the answer is OK.
func getOK(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close() // nothing was written
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// lockPath is the file that makes a folder a cluster's.
func lockPath(dir string) string          { return filepath.Join(dir, "notafter-cluster.lock") }
func etcdDir(dir string) string           { return filepath.Join(dir, "etcd") }
func pkiDir(dir string) string            { return filepath.Join(dir, "pki") }
func logsDir(dir string) string           { return filepath.Join(dir, "logs") }
func pkiFile(dir, name string) string     { return filepath.Join(pkiDir(dir), name) }
func managerKubeconfig(dir string) string { return filepath.Join(dir, "controller-manager.kubeconfig") }
func schedulerKubeconfig(dir string) string {
	return filepath.Join(dir, "scheduler.kubeconfig")
}
func adminKubeconfig(dir string) string { return filepath.Join(dir, "kubeconfig") }

func logPath(dir string, program binaries.Program) string {
	return filepath.Join(logsDir(dir), string(program)+".log")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
