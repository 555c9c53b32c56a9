// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRunUsage(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"version", []string{"--version"}, 0, version, ""},
		{"help", []string{"--help"}, 0, "", "--kubelet-trust-configmap"},
		{"help on what it is for", []string{"--help"}, 0, "", "approves the kubelets' requests for serving certificates"},
		{"unknown flag", []string{"--nope"}, exitUsage, "", "unknown flag: --nope"},
		{"argument", []string{"cluster"}, exitUsage, "", `unexpected argument "cluster"`},
		{"trust without namespace", []string{"--kubelet-trust-configmap=ca"}, exitUsage, "", "want namespace/name"},
		{"reader without namespace", []string{"--kubelet-reader-service-account=a"}, exitUsage, "", "want namespace/name"},
		{"no reader", []string{"--kubelet-reader-service-account=", "--version"}, 0, version, ""},
		{"trust key", []string{"--kubelet-trust-key=a/b"}, exitUsage, "", "--kubelet-trust-key"},
		{"no probes", []string{"--probe-concurrency=0"}, exitUsage, "", "--probe-concurrency 0: want 1 to 1024"},
		{"no requests", []string{"--kube-api-qps=0"}, exitUsage, "", "--kube-api-qps"},
		{"no number", []string{"--probe-concurrency=many"}, exitUsage, "", `"many" for "--probe-concurrency"`},
		{"no port", []string{"--metrics-bind-address=localhost"}, exitUsage, "", `--metrics-bind-address "localhost": want an address`},
		{"no address", []string{"--health-probe-bind-address="}, exitUsage, "", `--health-probe-bind-address "": want an address`},
		{
			"no port, twice", []string{"--health-probe-bind-address=a", "--metrics-bind-address=b"}, exitUsage, "",
			`--metrics-bind-address "b": want an address`,
		},
		{"port out of range", []string{"--metrics-bind-address=:65536"}, exitUsage, "", "--metrics-bind-address"},
		{"nothing served", []string{"--metrics-bind-address=0", "--health-probe-bind-address=0", "--version"}, 0, version, ""},
		{"no namespace", []string{"--leader-election-namespace=a/b"}, exitUsage, "", `--leader-election-namespace "a/b"`},
		{"no certificate", []string{"--metrics-cert-dir=none"}, exitUsage, "", `--metrics-cert-dir "none": want a folder with tls.crt`},
		{
			"certificate without TLS", []string{"--metrics-cert-dir=none", "--metrics-secure=false"}, exitUsage, "",
			"--metrics-cert-dir is for metrics over TLS",
		},
		{"DNS server", []string{"--dns-server=dns.example.com:53"}, exitUsage, "", "want an IP address and a port"},
		{"log format", []string{"--log-format=xml"}, exitUsage, "", "want json or console"},
		{"log level", []string{"--log-level=loud"}, exitUsage, "", "want debug, info or error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), test.args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("stdout %q, stderr %q: want %q and %q in them", stdout.String(), stderr.String(), test.stdout, test.stderr)
			}
		})
	}
}

func TestRunWithoutCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("HOME", t.TempDir())
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"--log-format=console"}, &stdout, &stderr); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if !strings.Contains(stderr.String(), "finding a cluster to connect to") {
		t.Errorf("stderr %q does not say that no cluster was found", stderr.String())
	}
}
