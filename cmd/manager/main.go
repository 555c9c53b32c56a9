// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command manager is the operator: it judges CertificatePolicies inside the cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/controllers"
)

// version is stamped by the build.
var version = "dev"

const (
	exitFailure = 1
	exitUsage   = 2
	// reconcileTimeout bounds one reconcile. It is far above what any takes, so that one that hangs is noticed.
	reconcileTimeout = 2 * time.Minute
	// shutdownTimeout leaves time, within the pod's grace period, to finish a write and give up the lease.
	shutdownTimeout = 20 * time.Second
	// gcPercent, unless $GOGC says otherwise, is half of Go's own: the manager keeps much and allocates little, so garbage
	// costs more in memory than collecting it costs in time.
	gcPercent = 50
)

func main() {
	os.Exit(run(ctrl.SetupSignalHandler(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its inputs and its exit code as values.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "manager:", err)
		return exitUsage
	case o.version:
		_, _ = fmt.Fprintln(stdout, version)
		return 0
	}
	log := o.logger(stderr)
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	if err := start(ctx, log, o); err != nil {
		log.Error(err, "manager failed")
		return exitFailure
	}
	return 0
}

func start(ctx context.Context, log logr.Logger, o *options) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding a cluster to connect to (in-cluster configuration, $KUBECONFIG, ~/.kube/config): %w", err)
	}
	if _, err := rest.InClusterConfig(); o.leaderElect && o.leaderElectionNamespace == "" && errors.Is(err, rest.ErrNotInCluster) {
		return errors.New("--leader-elect outside a cluster: name the Lease's namespace with --leader-election-namespace")
	}
	restConfig.UserAgent = "notafter/" + version
	restConfig.QPS, restConfig.Burst = o.kubeAPIQPS, o.kubeAPIBurst
	operator := controllers.Options{
		TrustConfigMap: o.trustConfigMap, TrustKey: o.trustKey, ProbeConcurrency: o.probeConcurrency,
		ProbeLoopback: o.probeLoopback, KubeletReader: o.kubeletReader, DNSServer: o.dnsServer,
	}
	mgr, err := ctrl.NewManager(restConfig, o.managerOptions(log, operator.CacheOptions()))
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	if err := controllers.Setup(mgr, operator); err != nil {
		return err
	}
	log.Info("starting", "version", version)
	if err := runUntilStopped(ctx, mgr); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}

// runUntilStopped gives the manager the shutdown timeout to end, and a little more. It needs that: while a cache cannot
// sync, because a permission is missing, say, controller-runtime does not look at its context.
func runUntilStopped(ctx context.Context, mgr manager.Manager) error {
	const more = 2 * time.Second
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(shutdownTimeout + more):
		return errors.New("it did not stop in time: a cache may be waiting for what it may not list, see the log")
	}
}

func (o *options) managerOptions(log logr.Logger, cached cache.Options) manager.Options {
	metricsOptions := metricsserver.Options{BindAddress: o.metricsAddress, SecureServing: o.metricsSecure}
	if o.metricsSecure {
		metricsOptions.FilterProvider = filters.WithAuthenticationAndAuthorization
		metricsOptions.CertDir = o.metricsCertDir
	}
	return manager.Options{
		Scheme:                        controllers.NewScheme(),
		MapperProvider:                controllers.NewMapper,
		Logger:                        log,
		Cache:                         cached,
		Metrics:                       metricsOptions,
		HealthProbeBindAddress:        o.healthAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "notafter.dev",
		LeaderElectionNamespace:       o.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       new(shutdownTimeout),
		Controller: config.Controller{
			ReconciliationTimeout: reconcileTimeout,
			EnableWarmup:          new(true),
		},
	}
}
