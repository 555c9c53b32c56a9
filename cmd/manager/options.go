// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// options are the command line, parsed and checked.
type options struct {
	version bool

	metricsAddress string
	metricsSecure  bool
	metricsCertDir string
	healthAddress  string

	leaderElect             bool
	leaderElectionNamespace string

	trustConfigMap   types.NamespacedName
	trustKey         string
	kubeletReader    types.NamespacedName
	probeConcurrency int
	probeLoopback    bool
	dnsServer        string

	kubeAPIQPS   float32
	kubeAPIBurst int

	logFormat string
	logLevel  string
}

const usage = `notafter manager: watches the certificates that a cluster lives by: the kubelets' serving and client
certificates and their signing requests, the control plane's certificates, and the CA bundles that it trusts. It judges
every CertificatePolicy and reports the verdict in its status, as Events and as metrics. Where a policy says so, and only
then, it approves the kubelets' requests for serving certificates.

Usage: manager [flags]

`

// parseFlags returns pflag.ErrHelp when only the usage was asked for, which it has then written to out.
func parseFlags(args []string, out io.Writer) (*options, error) {
	o := &options{}
	var trustConfigMap, kubeletReader string
	flags := pflag.NewFlagSet("manager", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(out)
	flags.Usage = func() { _, _ = fmt.Fprint(out, usage, flags.FlagUsagesWrapped(100)) }

	flags.BoolVar(&o.leaderElect, "leader-elect", false,
		"run as one of several replicas, of which only the elected leader acts")
	flags.StringVar(&o.leaderElectionNamespace, "leader-election-namespace", "",
		"namespace of the leader's Lease; in a cluster it defaults to the pod's own")
	flags.StringVar(&trustConfigMap, "kubelet-trust-configmap", "kube-system/kube-root-ca.crt",
		"namespace/name of the ConfigMap with the Cluster CA, which kubelet serving certificates are verified against; "+
			"the manager's Role must allow reading it")
	flags.StringVar(&o.trustKey, "kubelet-trust-key", "ca.crt", "key of that ConfigMap that holds the PEM certificates")
	flags.StringVar(&kubeletReader, "kubelet-reader-service-account", "notafter-system/notafter-kubelet-reader",
		"namespace/name of the ServiceAccount whose short-lived tokens kubelets are asked with about their rotation settings "+
			"and renewals; it needs get on nodes/metrics and nodes/configz, and nothing else. Empty asks no kubelet: "+
			"rotation is then judged by certificates alone")
	flags.IntVar(&o.probeConcurrency, "probe-concurrency", 64, "how many kubelets to connect to at once, 1 to 1024; "+
		"besides, four times as many are waited for that did not answer within a second")
	flags.BoolVar(&o.probeLoopback, "probe-loopback", false,
		"connect to kubelets on loopback addresses, too: for tests and clusters whose nodes are all on this machine. A node "+
			"chooses its address, and elsewhere this would let it choose what the manager connects to on its own machine")
	flags.StringVar(&o.dnsServer, "dns-server", "",
		"IP address and port of the DNS server that resolves names in signing requests, for policies with dnsResolution: "+
			"Required; empty uses those that the machine or Pod is configured with")
	flags.Float32Var(&o.kubeAPIQPS, "kube-api-qps", 200, "requests per second to the API server, on average")
	flags.IntVar(&o.kubeAPIBurst, "kube-api-burst", 400, "requests to the API server in a burst")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "address to serve metrics on; 0 serves none")
	flags.BoolVar(&o.metricsSecure, "metrics-secure", true,
		"serve metrics over TLS, to clients that the API server authenticates and that may get the path /metrics")
	flags.StringVar(&o.metricsCertDir, "metrics-cert-dir", "",
		"folder with tls.crt and tls.key for the metrics endpoint; empty makes a self-signed certificate at start")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081",
		"address to serve /healthz and /readyz on; 0 serves none")
	flags.StringVar(&o.logFormat, "log-format", "json", "json or console")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info or error")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")

	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if extra := flags.Args(); len(extra) > 0 {
		return nil, fmt.Errorf("unexpected argument %q: the manager takes flags only, see --help", extra[0])
	}
	if err := o.checkNames(trustConfigMap, kubeletReader); err != nil {
		return nil, err
	}
	return o, o.check()
}

func (o *options) checkNames(trustConfigMap, kubeletReader string) (err error) {
	if o.trustConfigMap, err = namespacedName(trustConfigMap); err != nil {
		return fmt.Errorf("--kubelet-trust-configmap %w, like kube-system/kube-root-ca.crt", err)
	}
	if kubeletReader == "" {
		return nil
	}
	if o.kubeletReader, err = namespacedName(kubeletReader); err != nil {
		return fmt.Errorf("--kubelet-reader-service-account %w, like notafter-system/notafter-kubelet-reader", err)
	}
	return nil
}

func namespacedName(text string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%q: want namespace/name", text)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

func (o *options) check() error {
	if problems := validation.IsConfigMapKey(o.trustKey); len(problems) > 0 {
		return fmt.Errorf("--kubelet-trust-key %q: %s", o.trustKey, problems[0])
	}
	if o.probeConcurrency < 1 || o.probeConcurrency > 1024 {
		return fmt.Errorf("--probe-concurrency %d: want 1 to 1024", o.probeConcurrency)
	}
	if _, err := netip.ParseAddrPort(o.dnsServer); o.dnsServer != "" && err != nil {
		return fmt.Errorf("--dns-server %q: want an IP address and a port, like 10.0.0.10:53", o.dnsServer)
	}
	if o.kubeAPIQPS <= 0 || o.kubeAPIBurst < 1 {
		return fmt.Errorf("--kube-api-qps %v and --kube-api-burst %d: want more than 0", o.kubeAPIQPS, o.kubeAPIBurst)
	}
	if err := o.checkServing(); err != nil {
		return err
	}
	if o.logFormat != "json" && o.logFormat != "console" {
		return fmt.Errorf("--log-format %q: want json or console", o.logFormat)
	}
	if _, ok := logLevels[o.logLevel]; !ok {
		return fmt.Errorf("--log-level %q: want debug, info or error", o.logLevel)
	}
	return nil
}

// checkServing checks what would otherwise fail only when the manager has started, and in words that name no flag.
func (o *options) checkServing() error {
	for _, bind := range []struct{ flag, address string }{
		{"--metrics-bind-address", o.metricsAddress}, {"--health-probe-bind-address", o.healthAddress},
	} {
		_, port, err := net.SplitHostPort(bind.address)
		number, malformed := strconv.ParseUint(port, 10, 16)
		if bind.address != "0" && (err != nil || malformed != nil || number == 0) {
			return fmt.Errorf("%s %q: want an address and port like :8443, or 0 to serve none", bind.flag, bind.address)
		}
	}
	if namespace := o.leaderElectionNamespace; namespace != "" && len(validation.IsDNS1123Label(namespace)) > 0 {
		return fmt.Errorf("--leader-election-namespace %q: want the name of a namespace", namespace)
	}
	if o.metricsCertDir == "" {
		return nil
	}
	if !o.metricsSecure {
		return errors.New("--metrics-cert-dir is for metrics over TLS: leave it out, or --metrics-secure=false")
	}
	if _, err := tls.LoadX509KeyPair(
		filepath.Join(o.metricsCertDir, "tls.crt"), filepath.Join(o.metricsCertDir, "tls.key")); err != nil {
		return fmt.Errorf("--metrics-cert-dir %q: want a folder with tls.crt and tls.key: %w", o.metricsCertDir, err)
	}
	return nil
}

var logLevels = map[string]zapcore.Level{
	"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "error": zapcore.ErrorLevel,
}

func (o *options) logger(out io.Writer) logr.Logger {
	encoder := zap.JSONEncoder()
	if o.logFormat == "console" {
		encoder = zap.ConsoleEncoder()
	}
	return zap.New(zap.WriteTo(out), zap.Level(logLevels[o.logLevel]), encoder)
}
