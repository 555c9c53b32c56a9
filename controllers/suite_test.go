// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
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
	startOperator()
}, NodeTimeout(15*time.Minute))

// startOperator runs the operator as cmd/manager does, in this process.
func startOperator() {
	GinkgoHelper()
	options := controllers.Options{
		TrustConfigMap: types.NamespacedName{Namespace: "kube-system", Name: cluster.RootCAConfigMap}, TrustKey: "ca.crt",
		ProbeConcurrency: 8, ProbeLoopback: true,
	}
	mgr, err := ctrl.NewManager(server.Config(), ctrl.Options{
		Scheme:  controllers.NewScheme(),
		Cache:   options.CacheOptions(),
		Metrics: metricsserver.Options{BindAddress: "0"},
	})
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	Expect(controllers.Setup(mgr, options)).To(Succeed())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	DeferCleanup(func() {
		cancel()
		Eventually(done).Should(Receive(BeNil()))
	})
}
