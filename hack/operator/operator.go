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
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"

	"github.com/notafter/notafter/hack/cluster"
)

// Namespace is where config/default installs the manager, and where its replicas elect their leader.
const Namespace = "notafter-system"

// ServiceAccount is whom the manager runs as: what config/default makes.
const ServiceAccount = "system:serviceaccount:" + Namespace + ":notafter-controller-manager"

// Kubeconfig is the name of the file, in the folder that Start is given, with which the manager connects to the cluster.
const Kubeconfig = "manager.kubeconfig"

// Operator is a manager that runs.
type Operator struct {
	command         *exec.Cmd
	log             *os.File
	metrics, health string        // addresses
	done            chan struct{} // closed when the process ended
	err             error         // how it ended; read after done
}

// Start runs the manager binary against the cluster, into which config/default has been applied. Its files, the log among
// them, go to dir. Each of several replicas has a dir of its own, and flags that are given win over those here.
func Start(ctx context.Context, c *cluster.Cluster, binary, dir string, args ...string) (*Operator, error) {
	kubeconfig := filepath.Join(dir, Kubeconfig)
	config, err := c.UserConfig(ServiceAccount, "system:serviceaccounts", "system:authenticated")
	if err != nil {
		return nil, err
	}
	if err := cluster.WriteKubeconfig(kubeconfig, config); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "manager.log"))
	if err != nil {
		return nil, err
	}
	addresses, err := cluster.FreeAddresses(ctx, 2)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	o := &Operator{log: log, metrics: addresses[0].String(), health: addresses[1].String(), done: make(chan struct{})}
	args = append([]string{
		"--log-format=console", "--health-probe-bind-address=" + o.health,
		"--metrics-secure=false", "--metrics-bind-address=" + o.metrics,
		"--probe-loopback", // where the simulated kubelets are
	}, args...)
	// The context would kill it, but Stop is what ends it.
	o.command = exec.CommandContext(context.WithoutCancel(ctx), binary, args...)
	o.command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	o.command.Stdout, o.command.Stderr = log, log
	if err := o.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the manager: %w", err), log.Close())
	}
	go func() {
		o.err = errors.Join(o.command.Wait(), log.Close())
		close(o.done)
	}()
	return o, nil
}

// Stop ends the manager as a kubelet does, and waits for it. The error is that of its end, and has the end of its log.
func (o *Operator) Stop() error {
	err := o.signal(syscall.SIGTERM)
	<-o.done
	if o.err != nil {
		err = errors.Join(err, fmt.Errorf("the manager ended with %w; the end of its log:\n%s", o.err, o.LogTail()))
	}
	return err
}

// Kill ends the manager without a warning, and waits for it.
func (o *Operator) Kill() error {
	err := o.signal(syscall.SIGKILL)
	<-o.done
	return err
}

// signal sends a signal to the manager if it runs.
func (o *Operator) signal(signal os.Signal) error {
	if err := o.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signalling the manager: %w", err)
	}
	return nil
}

// Done is closed when the manager's process ended.
func (o *Operator) Done() <-chan struct{} { return o.done }

// ExitCode is that of the manager's process once it ended; -1 before, and when a signal ended it.
func (o *Operator) ExitCode() int {
	select {
	case <-o.done:
		return o.command.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Log returns all that the manager logged.
func (o *Operator) Log() (string, error) {
	log, err := os.ReadFile(o.log.Name())
	return string(log), err
}

// LogTail returns the last lines of the manager's log.
func (o *Operator) LogTail() string {
	const lines = 20
	log, err := o.Log()
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// PID is the manager's process.
func (o *Operator) PID() int {
	return o.command.Process.Pid
}

// MetricsAddress is where the manager serves its metrics, unless flags said otherwise.
func (o *Operator) MetricsAddress() string { return o.metrics }

// HealthAddress is where the manager serves its health endpoints, unless flags said otherwise.
func (o *Operator) HealthAddress() string { return o.health }

// Metrics returns what the manager's metrics endpoint serves, where that was not secured by a flag.
func (o *Operator) Metrics(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.metrics+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading the manager's metrics: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the manager's metrics: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the manager's metrics: %s: %s", response.Status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(body))
}

// Install applies config/default with kubectl, and then the named components of config/components.
func Install(ctx context.Context, c *cluster.Cluster, configDir string, components ...string) error {
	folders := []string{"default"}
	for _, component := range components {
		folders = append(folders, filepath.Join("components", component))
	}
	for _, folder := range folders {
		if _, err := c.RunKubectl(ctx, "", "apply", "--server-side", "-k", filepath.Join(configDir, folder)); err != nil {
			return fmt.Errorf("applying config/%s: %w", folder, err)
		}
	}
	return nil
}
