// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/dnsserver"
	"github.com/notafter/notafter/hack/operator"
)

// silentShare is which part of the names DNS gives no answer for, where that is measured: one in so many.
const silentShare = 10

// approvals measures how fast requests are approved that are all there already, as after an outage: by the API server's own
// record, from the first approval to the last. Nobody signs, so that it is approving that is measured.
type approvals struct {
	options options
	cluster *cluster.Cluster
	objects client.Client
	audit   audit
	dir     string
	dns     *dnsserver.Server
	load    *approvalLoad
	manager *operator.Operator
}

func runApprovals(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "notafter-approve-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	audit, err := newAudit(dir)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{APIServerFlags: audit.flags()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := operator.Install(ctx, c, o.config, "approval"); err != nil {
		return err
	}
	objects, err := newClient(c)
	if err != nil {
		return err
	}
	load, err := newApprovalLoad(c, o.approve)
	if err != nil {
		return err
	}
	server, err := dnsserver.Start(load.resolve)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	a := &approvals{options: o, cluster: c, objects: objects, audit: audit, dir: dir, dns: server, load: load}
	return a.run(ctx)
}

func (a *approvals) run(ctx context.Context) (err error) {
	report("%d requests; load average %s", a.options.approve, loadAverage())
	if err := a.load.createNodes(ctx); err != nil {
		return err
	}
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: policyName}}
	if err := a.objects.Create(ctx, policy); err != nil {
		return err
	}
	a.manager, err = operator.Start(ctx, a.cluster, a.options.binary, a.dir, "--dns-server="+a.dns.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.manager.Stop()) }()
	if err := a.settle(ctx); err != nil {
		return err
	}
	before, err := a.bareLoop(ctx)
	if err != nil {
		return err
	}
	all := a.options.approve
	took, err := a.approve(ctx, v1alpha1.DNSResolutionIgnored, all)
	if err != nil {
		return err
	}
	after, err := a.bareLoop(ctx)
	if err != nil {
		return err
	}
	bare := (before + after).Seconds() / 2
	reportTime(took, "%d requests approved, next to as many of another signer: %.0f a second, %.2f times a bare loop of "+
		"approvals with the same concurrency, which took %.2f s before and %.2f s after",
		all, float64(all)/took.Seconds(), took.Seconds()/bare, before.Seconds(), after.Seconds())
	answered := all - a.load.silent()
	if took, err = a.approve(ctx, v1alpha1.DNSResolutionRequired, answered); err != nil {
		return err
	}
	reportTime(took, "%d requests approved whose names were resolved, while DNS gives no answer for another %d: "+
		"%.2f times the bare loop", answered, all-answered, took.Seconds()/bare/float64(answered)*float64(all))
	return a.expectPending(ctx, all-answered)
}

// settle waits until the manager has written down what it knows of the nodes.
func (a *approvals) settle(ctx context.Context) error {
	const interval = time.Second
	known := &metav1.PartialObjectMetadataList{}
	known.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeCertificatesList"))
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		err := a.objects.List(ctx, known)
		return len(known.Items) == a.options.approve, err
	})
	if err != nil {
		return fmt.Errorf("waiting until every Node is known: %w; the end of the manager's log:\n%s", err, a.manager.LogTail())
	}
	return (&measurement{manager: a.manager}).calm(ctx)
}

// bareLoop approves as many requests of the same kind by nothing but writes, and removes them.
func (a *approvals) bareLoop(ctx context.Context) (time.Duration, error) {
	if err := a.load.createRequests(ctx); err != nil {
		return 0, err
	}
	watched := a.audit.follow()
	kubeconfig := filepath.Join(a.dir, operator.Kubeconfig)
	loop := exec.CommandContext(ctx, os.Args[0], "-"+bareApprovalsFlag, kubeconfig) //nolint:gosec // this program itself
	if out, err := loop.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("the bare loop: %w: %s", err, out)
	}
	took, err := watched.await(ctx, a.options.approve)
	return took, errors.Join(err, a.load.deleteRequests(ctx))
}

// approve measures the manager, and leaves the requests.
func (a *approvals) approve(ctx context.Context, resolution v1alpha1.DNSResolution, expected int) (time.Duration, error) {
	if err := a.setPolicy(ctx, v1alpha1.ApprovalObserve, resolution); err != nil {
		return 0, err
	}
	if err := errors.Join(a.load.deleteRequests(ctx), a.load.createRequests(ctx)); err != nil {
		return 0, err
	}
	if err := createForeignRequests(ctx, a.cluster, a.options.approve); err != nil {
		return 0, err
	}
	asked, err := a.audit.read()
	if err != nil {
		return 0, err
	}
	watched := a.audit.follow()
	began := time.Now()
	if err := a.setPolicy(ctx, v1alpha1.ApprovalApprove, resolution); err != nil {
		return 0, err
	}
	took, err := watched.await(ctx, expected)
	if err != nil {
		return 0, fmt.Errorf("%w; the end of the manager's log:\n%s", err, a.manager.LogTail())
	}
	reportTime(time.Since(began), "since the policy was changed to approve")
	return took, errors.Join((&measurement{manager: a.manager, audit: a.audit}).usage(ctx, asked), a.load.deleteForeign(ctx))
}

func (a *approvals) setPolicy(ctx context.Context, mode v1alpha1.ApprovalMode, resolution v1alpha1.DNSResolution) error {
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: policyName}}
	patch := fmt.Sprintf(`{"spec":{"signingRequestApproval":{"mode":%q,"allowedIPRanges":["127.0.0.0/8"],`+
		`"allowedDNSSuffixes":[%q],"dnsResolution":%q}}}`, mode, approvalDomain, resolution)
	return a.objects.Patch(ctx, policy, client.RawPatch(types.MergePatchType, []byte(patch)))
}

// expectPending fails unless so many requests are undecided, and none was denied.
func (a *approvals) expectPending(ctx context.Context, expected int) error {
	var list certificatesv1.CertificateSigningRequestList
	servingOnly := client.MatchingFields{"spec.signerName": certificatesv1.KubeletServingSignerName}
	if err := a.objects.List(ctx, &list, servingOnly); err != nil {
		return err
	}
	pending := 0
	for i := range list.Items {
		conditions := list.Items[i].Status.Conditions
		switch {
		case len(conditions) == 0:
			pending++
		case conditions[0].Type != certificatesv1.CertificateApproved:
			return fmt.Errorf("request %s is %s: %s", list.Items[i].Name, conditions[0].Type, conditions[0].Message)
		}
	}
	if pending != expected {
		return fmt.Errorf("%d requests are undecided, want %d", pending, expected)
	}
	report("%9s  the %d without an answer from DNS are undecided, and none was denied", "", pending)
	return nil
}
