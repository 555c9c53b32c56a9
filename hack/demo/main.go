// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo shows in about a minute what notafter does: on a real control plane with simulated kubelets, of which some
// fail, it runs the manager with the permissions that its manifests grant, and tells what happens.
//
// It fails when what it tells does not happen, so it is also a test.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/notafter/notafter/hack/cluster"
)

// signingDuration is what the signer's certificates live for, so that those of the healthy node stay current throughout.
const signingDuration = time.Hour

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

func run(ctx context.Context) (err error) {
	if len(os.Args) != 3 {
		return errors.New("usage: demo MANAGER-BINARY CONFIG-FOLDER; make demo gives them")
	}
	say("A control plane starts: etcd, kube-apiserver and kube-controller-manager, all real.")
	c, err := cluster.Start(ctx, cluster.Options{ControllerManager: true, SigningDuration: signingDuration})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	s, err := newStage(ctx, c, os.Args[1], os.Args[2])
	if err != nil {
		return err
	}
	defer s.close()
	for _, act := range []func(context.Context) error{s.install, s.silentFailure, s.otherFailures, s.repair} {
		if err := act(ctx); err != nil {
			return s.explain(err)
		}
	}
	if os.Getenv("KEEP") == "" {
		say("That was it. Nothing is left behind; `make demo KEEP=1` leaves it running to explore.")
		return nil
	}
	say("All of it keeps running until you press Ctrl-C. In another terminal:\n\n" +
		"    export KUBECONFIG=" + c.KubeconfigPath() + "\n    " + c.Kubectl() + " get certificatepolicies,nodecertificates,nodes,csr")
	<-ctx.Done()
	return nil
}
