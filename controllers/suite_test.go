// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

// soon is how long anything may take on a busy machine. What has to be quick is measured.
const soon = time.Minute

var (
	server   *cluster.Cluster
	c        client.Client
	approver *kubelet.Approver
	fleet    *kubelet.Fleet
)

func TestOperator(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Operator")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)

	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, SigningDuration: 24 * time.Hour, Log: GinkgoWriter,
		InstallCRDs: []string{filepath.Join("..", "config", "crd", "bases")},
	})
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	approver, err = kubelet.StartApprover(ctx, server.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(approver.Stop)
	fleet, err = kubelet.NewFleet(kubelet.Join{API: server.Config(), BootstrapToken: token}, GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(fleet.Stop)
	c, err = client.New(server.Config(), client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	// Its series are those that a manager shows.
	operator.Embed(GinkgoTB(), server.Config(), func(o *controllers.Options) { o.Registerer = nil })
}, NodeTimeout(15*time.Minute))
