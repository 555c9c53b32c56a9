// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package operator installs the manifests into a local cluster and runs the manager against it: outside the cluster, where
// no Pod can run, but with no more permissions than the manifests grant.
package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/notafter/notafter/hack/cluster"
)

// ServiceAccount is whom the manager runs as: what config/default makes.
const ServiceAccount = "system:serviceaccount:notafter-system:notafter-controller-manager"

// Operator is a manager that runs.
type Operator struct {
	command *exec.Cmd
	log     *os.File
	address string
}

// Start runs the manager binary against the cluster, into which config/default has been applied. Its files, the log among
// them, go to dir.
func Start(ctx context.Context, c *cluster.Cluster, binary, dir string, args ...string) (*Operator, error) {
	kubeconfig := filepath.Join(dir, "manager.kubeconfig")
	if err := writeKubeconfig(c, kubeconfig); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "manager.log"))
	if err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	args = append([]string{
		"--log-format=console", "--health-probe-bind-address=0", "--metrics-secure=false", "--metrics-bind-address=" + address,
	}, args...)
	o := &Operator{log: log, address: address}
	// The context would kill it, but Stop is what ends it.
	o.command = exec.CommandContext(context.WithoutCancel(ctx), binary, args...)
	o.command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	o.command.Stdout, o.command.Stderr = log, log
	if err := o.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the manager: %w", err), log.Close())
	}
	return o, nil
}

// Stop ends the manager and waits for it. The error is that of its end, and has the end of its log.
func (o *Operator) Stop() error {
	err := o.command.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if ended := o.command.Wait(); ended != nil {
		err = errors.Join(err, fmt.Errorf("the manager ended with %w; the end of its log:\n%s", ended, o.LogTail()))
	}
	return errors.Join(err, o.log.Close())
}

// LogTail returns the last lines of the manager's log.
func (o *Operator) LogTail() string {
	const lines = 20
	log, err := os.ReadFile(o.log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// PID is the manager's process.
func (o *Operator) PID() int {
	return o.command.Process.Pid
}

// MetricsAddress is where the metrics are served: without TLS, unless the arguments say otherwise.
func (o *Operator) MetricsAddress() string {
	return o.address
}

// Metrics returns what the manager's metrics endpoint serves.
func (o *Operator) Metrics(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.address+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading the manager's metrics: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the manager's metrics: %s: %w", response.Status, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(body))
}

func writeKubeconfig(c *cluster.Cluster, path string) error {
	config, err := c.UserConfig(ServiceAccount, "system:serviceaccounts", "system:authenticated")
	if err != nil {
		return err
	}
	const name = "local"
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[name] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
	}
	kubeconfig.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	kubeconfig.CurrentContext = name
	return clientcmd.WriteToFile(*kubeconfig, path)
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// Install applies config/default with kubectl.
func Install(ctx context.Context, c *cluster.Cluster, configDir string) error {

	command := exec.CommandContext(ctx, c.Kubectl(), "--kubeconfig", c.KubeconfigPath(),
		"apply", "--server-side", "-k", filepath.Join(configDir, "default"))
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("applying config/default: %w\n%s", err, out)
	}
	return nil
}
