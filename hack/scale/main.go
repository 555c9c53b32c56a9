// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command scale measures the manager on a local cluster with many simulated kubelets and as many signing requests of other
// signers as there are of kubelets: how long a sweep over all kubelets takes, next to a bare loop of handshakes with the same
// concurrency; how long an evaluation takes; memory; and what is asked of the API server, at work and idle.
//
// With -approve it measures instead how fast so many signing requests are approved, next to a bare loop of approvals.
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

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/operator"
)

const (
	policyName  = "scale"
	concurrency = 64
	patience    = 15 * time.Minute
)

type options struct {
	nodes   int
	foreign int
	approve int
	idle    time.Duration
	binary  string
	config  string
}

func main() {
	var o options
	flag.IntVar(&o.nodes, "nodes", 1000, "how many kubelets to simulate; each makes two signing requests")
	flag.IntVar(&o.foreign, "foreign", -1, "how many signing requests of other signers to make; -1: as many as the kubelets")
	flag.IntVar(&o.approve, "approve", 0, "measure how this many signing requests are approved, and nothing else")
	flag.DurationVar(&o.idle, "idle", 2*time.Minute, "how long to watch while nothing happens")
	flag.StringVar(&o.binary, "manager", "bin/manager", "the manager to measure")
	flag.StringVar(&o.config, "config", "config", "the folder of manifests")
	bare := flag.Bool(bareLoopFlag, false, "only make a handshake with each address on the standard input")
	approvals := flag.String(bareApprovalsFlag, "", "only approve every pending request, with the permissions of this kubeconfig")
	flag.Parse()
	logf.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := run
	switch {
	case *bare:
		run = func(ctx context.Context, _ options) error { return shakeHands(ctx, os.Stdin) }
	case *approvals != "":
		run = func(ctx context.Context, _ options) error { return approveAll(ctx, *approvals) }
	case o.approve > 0:
		run = runApprovals
	}
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
	audit, err := newAudit(dir)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{ControllerManager: true, APIServerFlags: audit.flags()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fleet, err := startFleet(ctx, c, filepath.Join(dir, "kubelets"), o.nodes)
	if err != nil {
		return err
	}
	defer fleet.Stop()
	if o.foreign < 0 {
		o.foreign = requestsPerKubelet * o.nodes
	}
	if err := createForeignRequests(ctx, c, o.foreign); err != nil {
		return err
	}
	if err := operator.Install(ctx, c, o.config); err != nil {
		return err
	}
	objects, err := newClient(c)
	if err != nil {
		return err
	}
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: policyName}}
	if err := objects.Create(ctx, policy); err != nil {
		return err
	}
	m := &measurement{
		options: o, cluster: c, objects: objects, dir: dir, audit: audit, addresses: addresses(fleet), sweep: &sweep{},
	}
	fleet.OnHandshake(m.sweep.note)
	return m.run(ctx)
}

func report(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func reportTime(took time.Duration, format string, args ...any) {
	report("%8.2fs  %s", took.Seconds(), fmt.Sprintf(format, args...))
}
