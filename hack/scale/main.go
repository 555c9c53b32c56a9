// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command scale measures the manager on a local cluster with many simulated kubelets: how long until every node has been
// judged, next to a bare loop of handshakes with the same concurrency; memory; and requests made, at work and idle.
//
// On one machine everything competes for the same cores, the API server and the kubelets included, so the figures are to be
// read against each other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	policyName  = "scale"
	concurrency = 64
	patience    = 15 * time.Minute
)

type options struct {
	nodes  int
	idle   time.Duration
	binary string
	config string
}

func main() {
	var o options
	flag.IntVar(&o.nodes, "nodes", 1000, "how many kubelets to simulate")
	flag.DurationVar(&o.idle, "idle", 2*time.Minute, "how long to watch while nothing happens")
	flag.StringVar(&o.binary, "manager", "bin/manager", "the manager to measure")
	flag.StringVar(&o.config, "config", "config", "the folder of manifests")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "notafter-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := cluster.Start(ctx, cluster.Options{ControllerManager: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fleet, err := startFleet(ctx, c, filepath.Join(dir, "kubelets"), o.nodes)
	if err != nil {
		return err
	}
	defer fleet.Stop()
	if err := operator.Install(ctx, c, o.config); err != nil {
		return err
	}
	policies, err := createPolicy(ctx, c)
	if err != nil {
		return err
	}
	if err := bareLoop(ctx, fleet); err != nil {
		return err
	}
	return measure(ctx, c, policies, o, dir)
}

// startFleet starts the kubelets and waits until each serves a certificate that the cluster signed.
func startFleet(ctx context.Context, c *cluster.Cluster, dir string, nodes int) (*kubelet.Fleet, error) {
	token, err := c.BootstrapToken(ctx, time.Hour)
	if err != nil {
		return nil, err
	}
	approver, err := kubelet.StartApprover(ctx, c.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	if err != nil {
		return nil, err
	}
	defer approver.Stop()
	fleet, err := kubelet.NewFleet(kubelet.Join{API: c.Config(), BootstrapToken: token}, dir)
	if err != nil {
		return nil, err
	}
	all := make([]kubelet.Options, nodes)
	for i := range all {
		all[i] = kubelet.Options{
			Name: fmt.Sprintf("node-%05d", i), Heartbeat: kubelet.NoHeartbeat,
			Labels: kubelet.AKSLabels("pool", "AKSUbuntu-2204gen2containerd-202501.12.0"),
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := errors.Join(fleet.StartAll(ctx, all...), fleet.WaitServing(ctx)); err != nil {
		fleet.Stop()
		return nil, err
	}
	report("%d simulated kubelets joined, with client and serving certificates", time.Since(began), nodes)
	return fleet, nil
}

func createPolicy(ctx context.Context, c *cluster.Cluster) (client.Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	policies, err := client.New(c.Config(), client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: policyName}}
	return policies, policies.Create(ctx, policy)
}

// measure runs the manager: from its start until every node has been judged, then while nothing happens, then again from
// a restart, which finds the facts that the first run stored.
func measure(ctx context.Context, c *cluster.Cluster, policies client.Client, o options, dir string) error {
	for _, life := range []string{"first start", "restart"} {
		began := time.Now()
		manager, err := operator.Start(ctx, c, o.binary, dir, fmt.Sprintf("--probe-concurrency=%d", concurrency))
		if err != nil {
			return err
		}
		err = errors.Join(observe(ctx, manager, policies, o, life, began), manager.Stop())
		if err != nil {
			return err
		}
	}
	return nil
}

func observe(
	ctx context.Context, manager *operator.Operator, policies client.Client, o options, life string, began time.Time,
) error {
	before, err := awaitProbes(ctx, manager, policies, o.nodes)
	if err != nil {
		return fmt.Errorf("%w; the end of the manager's log:\n%s", err, manager.LogTail())
	}
	report("%s: all %d nodes probed and judged compliant", time.Since(began), life, o.nodes)
	if err := printUsage(manager, life, before); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(o.idle):
	}
	after, err := read(ctx, manager)
	if err != nil {
		return err
	}
	return printUsage(manager, fmt.Sprintf("%s, %s later, difference", life, o.idle), after.since(before))
}

// awaitProbes waits until this manager has probed every node and the policy says that all comply.
func awaitProbes(ctx context.Context, manager *operator.Operator, policies client.Client, nodes int) (usage, error) {
	const interval = 50 * time.Millisecond
	var now usage
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		var err error
		if now, err = read(ctx, manager); err != nil || now.probes < float64(nodes) {
			return false, nil //nolint:nilerr // it has not started to serve metrics yet; its log is shown in the end
		}
		policy := &v1alpha1.CertificatePolicy{}
		if err := policies.Get(ctx, client.ObjectKey{Name: policyName}, policy); err != nil {
			return false, err
		}
		counts := policy.Status.Nodes
		return counts != nil && counts.Compliant != nil && *counts.Compliant == int32(nodes), nil
	})
	if err != nil {
		return now, fmt.Errorf("waiting until %d nodes are judged compliant (%v probes so far): %w", nodes, now.probes, err)
	}
	return now, nil
}

func report(format string, took time.Duration, args ...any) {
	fmt.Printf("%8.2fs  %s\n", took.Seconds(), fmt.Sprintf(format, args...))
}
