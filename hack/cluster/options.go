// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// Options say what kind of cluster to start. The zero value is an API server without a controller manager.
type Options struct {
	// Dir is the folder for the cluster's keys, data and logs. It must be absent, empty, or that of a cluster that does
	// not run any more, and all that is in it belongs to the cluster: the next Start in it, or Down, removes it. Default: a
	// new folder under the repository's .cache, which Stop removes.
	Dir string
	// parent is where the new folder comes instead, and where those of dead clusters are looked for.
	parent string
	// ControllerManager also runs kube-controller-manager with the controllers that certificates, their requests and
	// objects with owners need: it approves and signs certificates, publishes kube-root-ca.crt and collects garbage.
	ControllerManager bool
	// Address is where nodes with networks of their own reach the API server, and where the service kubernetes.default leads.
	// With it the API server listens on every address, so use it in a network namespace only. Default: 127.0.0.1 alone.
	Address net.IP
	// Scheduler also runs kube-scheduler.
	Scheduler bool
	// ExtraControllers also run, such as "node-lifecycle-controller"; "-garbage-collector-controller" leaves one out.
	ExtraControllers []string
	// SigningDuration is the longest lifetime of a certificate that the controller manager signs. Default: its own, one
	// year.
	SigningDuration time.Duration
	// InstallCRDs are files or folders of CustomResourceDefinitions to install.
	InstallCRDs []string
	// APIServerFlags and ControllerManagerFlags are added to the command lines and win over what is there.
	APIServerFlags         []string
	ControllerManagerFlags []string
	// Detached lets the cluster outlive this process; Down ends it. Otherwise it dies with this process, even when that
	// is killed.
	Detached bool
	// Log is told of what takes long, such as building the programs. Default: os.Stderr.
	Log io.Writer
}

// controllers are those that every controller manager here runs.
var controllers = []string{
	"certificatesigningrequest-approving-controller",
	"certificatesigningrequest-cleaner-controller",
	"certificatesigningrequest-signing-controller",
	"bootstrap-signer-controller",
	"token-cleaner-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"clusterrole-aggregation-controller",
	"garbage-collector-controller",
	"namespace-controller",
}

// complete returns the options with their defaults, except for the folders.
func (o Options) complete() (Options, error) {
	if o.Log == nil {
		o.Log = os.Stderr
	}
	if o.SigningDuration < 0 {
		return o, fmt.Errorf("signing duration %s: must not be negative", o.SigningDuration)
	}
	return o, nil
}

// programs are those that a cluster with these options needs.
func (o Options) programs() []binaries.Program {
	wanted := []binaries.Program{binaries.Etcd, binaries.APIServer, binaries.Kubectl}
	if o.ControllerManager {
		wanted = append(wanted, binaries.ControllerManager)
	}
	if o.Scheduler {
		wanted = append(wanted, binaries.Scheduler)
	}
	return wanted
}

var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// NamedDir returns the folder of the cluster that goes by a name in this repository.
func NamedDir(name string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("cluster name %q: use up to 40 lower-case letters, digits and inner hyphens", name)
	}
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache", "clusters", name), nil
}

// claim makes sure that a folder exists and that what is in it is a cluster's. It returns the one name of the folder: the
// command lines of the cluster's processes carry it, and that is how they are recognized.
func claim(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the cluster's folder: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the cluster's folder: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", fmt.Errorf("finding the cluster's folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("reading the cluster's folder: %w", err)
	}
	if len(entries) > 0 && !exists(lockPath(dir)) {
		return "", fmt.Errorf("%s has files but no cluster's: choose an empty folder", dir)
	}
	return dir, nil
}
