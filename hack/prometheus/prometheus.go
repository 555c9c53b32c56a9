// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package prometheus runs a real Prometheus and its promtool for tests. Both are built from hack/tools/prometheus.
package prometheus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
)

const (
	startTimeout = 3 * time.Minute
	pollInterval = 100 * time.Millisecond
)

// program returns the path of a program of hack/tools/prometheus. If it was not built yet, this takes minutes.
func program(ctx context.Context, name string) (string, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, filepath.Join(root, "hack", "tools", "install.sh"), "prometheus", name)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	path, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, stderr.String())
	}
	return strings.TrimSpace(string(path)), nil
}

// Promtool runs promtool in a folder, with an input, and returns what it says. The error has that as well.
func Promtool(ctx context.Context, dir string, stdin io.Reader, args ...string) (string, error) {
	path, err := program(ctx, "promtool")
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Dir, command.Stdin = dir, stdin
	output, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("promtool %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return string(output), err
}

// OperatorCRDs returns the files with the CustomResourceDefinitions of the Prometheus Operator for these kinds, in their
// plural form.
func OperatorCRDs(ctx context.Context, plurals ...string) ([]string, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/prometheus-operator/prometheus-operator")
	command.Dir = filepath.Join(root, "hack", "cluster", "modules", "prometheus-operator")
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("downloading the Prometheus Operator's definitions: %w", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(output, &module); err != nil {
		return nil, fmt.Errorf("reading where the Prometheus Operator's definitions are: %w", err)
	}
	files := make([]string, 0, len(plurals))
	for _, plural := range plurals {
		files = append(files,
			filepath.Join(module.Dir, "example", "prometheus-operator-crd", "monitoring.coreos.com_"+plural+".yaml"))
	}
	return files, nil
}

// Server is a Prometheus that runs.
type Server struct {
	promv1.API
	command *exec.Cmd
	log     *os.File
}

// Start runs Prometheus in a folder, with the configuration that is there in prometheus.yml, and waits until it is ready.
func Start(ctx context.Context, dir string) (*Server, error) {
	path, err := program(ctx, "prometheus")
	if err != nil {
		return nil, err
	}
	free, err := cluster.FreeAddresses(ctx, 1)
	if err != nil {
		return nil, err
	}
	address := free[0].String()
	client, err := api.NewClient(api.Config{Address: "http://" + address})
	if err != nil {
		return nil, fmt.Errorf("making the client of Prometheus: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "prometheus.log"))
	if err != nil {
		return nil, fmt.Errorf("making the log of Prometheus: %w", err)
	}
	s := &Server{API: promv1.NewAPI(client), log: log}
	// The context would kill it, but Stop is what ends it.
	s.command = exec.CommandContext(context.WithoutCancel(ctx), path, "--config.file=prometheus.yml",
		"--storage.tsdb.path=data", "--web.listen-address="+address)
	s.command.Dir, s.command.Stdout, s.command.Stderr = dir, log, log
	if err := s.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting Prometheus: %w", err), log.Close())
	}
	if err := s.waitReady(ctx, "http://"+address+"/-/ready"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) waitReady(ctx context.Context, url string) error {
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, func(ctx context.Context) (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
	if err != nil {
		log, _ := os.ReadFile(s.log.Name()) // without it the error still says enough
		return fmt.Errorf("waiting for Prometheus: %w; its log:\n%s", err, log)
	}
	return nil
}

// Stop ends Prometheus and waits for it.
func (s *Server) Stop() error {
	err := s.command.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if ended := s.command.Wait(); ended != nil {
		err = errors.Join(err, fmt.Errorf("prometheus ended with %w", ended))
	}
	return errors.Join(err, s.log.Close())
}
