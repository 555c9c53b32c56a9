// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/cluster/node"
	"github.com/notafter/notafter/hack/cluster/sandbox"
)

// What `make e2e` sets. See README.md.
const (
	enabledEnv    = "NOTAFTER_E2E"
	kubeconfigEnv = "E2E_KUBECONFIG"
	imageEnv      = "E2E_IMAGE"
)

const (
	// soon is how long anything may take on a busy machine. What has to be quick is measured.
	soon = 2 * time.Minute
	// signingDuration makes kubelets renew every one or two minutes: see hack/cluster/kubelet on what the signer makes of it.
	signingDuration = 3 * time.Minute
)

// What every spec may use.
var (
	config *rest.Config
	admin  client.Client
	// kubectl is the path of a kubectl, kubeconfig that of its configuration.
	kubectl, kubeconfig string
)

// What there is in a cluster of our own only; nil in one that was there already.
var (
	server   *cluster.Cluster
	group    *node.Group
	nodes    = map[string]*node.Node{}
	approver *kubelet.Approver
	history  *recorder
)

// TestMain gives the tests namespaces of their own, as nodes need them.
func TestMain(m *testing.M) {
	if os.Getenv(enabledEnv) == "" || os.Getenv(kubeconfigEnv) != "" {
		os.Exit(m.Run())
	}
	prepare := func() error {
		return errors.Join(buildImage(), node.Prepare(context.Background(), os.Stderr))
	}
	os.Exit(sandbox.Run(prepare, m.Run))
}

func TestEndToEnd(t *testing.T) {
	if os.Getenv(enabledEnv) == "" {
		t.Skip("end-to-end tests need root and some minutes: run `make e2e`")
	}
	RegisterFailHandler(Fail)
	RunSpecs(t, "End to end")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(200 * time.Millisecond)
	if kubeconfig = os.Getenv(kubeconfigEnv); kubeconfig != "" {
		useCluster(ctx)
	} else {
		startCluster(ctx)
	}
	var err error
	admin, err = client.New(config, client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	install(ctx)
	if server != nil {
		history = startRecorder()
		for name := range nodes {
			createPolicy(ctx, name)
		}
		fileSpoofed(ctx)
		startWitnesses(ctx)
	}
}, NodeTimeout(10*time.Minute))

// useCluster uses the cluster of a kubeconfig, whatever it is.
func useCluster(ctx context.Context) {
	GinkgoHelper()
	var err error
	config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	Expect(err).NotTo(HaveOccurred())
	programs, err := binaries.Find(ctx, GinkgoWriter, binaries.Kubectl)
	Expect(err).NotTo(HaveOccurred())
	kubectl = programs[binaries.Kubectl]
}

// startCluster starts a control plane and all nodes, at once.
func startCluster(ctx context.Context) {
	GinkgoHelper()
	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, Scheduler: true, ExtraControllers: node.Controllers, Address: node.Gateway,
		SigningDuration: signingDuration, Log: GinkgoWriter,
	})
	config, kubectl, kubeconfig = server.Config(), server.Kubectl(), server.KubeconfigPath()
	token := newToken(ctx)
	startApprover(ctx)
	DeferCleanup(func() { approver.Stop() })

	image, err := filepath.Abs(imageArchive)
	Expect(err).NotTo(HaveOccurred())
	group, err = node.NewGroup(ctx, server, image)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(stopNodes)
	type result struct {
		node *node.Node
		err  error
	}
	results := make(chan result)
	for _, options := range fixtures {
		options.Token = token
		go func() {
			n, err := group.Start(ctx, options)
			results <- result{n, err}
		}()
	}
	for range fixtures {
		r := <-results
		Expect(r.err).NotTo(HaveOccurred())
		nodes[r.node.Name()] = r.node
	}
	for _, n := range nodes {
		Expect(n.WaitReady(ctx)).To(Succeed())
	}
}

// startApprover starts what decides about serving requests, but for those that are left to notafter.
func startApprover(ctx context.Context) {
	GinkgoHelper()
	var err error
	approver, err = kubelet.StartApprover(ctx, config, kubelet.Verdict{Decision: kubelet.Approve})
	Expect(err).NotTo(HaveOccurred())
	approver.Set(approved, kubelet.Verdict{Decision: kubelet.Ignore})
}

// stopNodes ends the nodes, and shows what their kubelets said if something failed.
func stopNodes() {
	if GinkgoTB().Failed() {
		for _, n := range group.Nodes() {
			AddReportEntry("kubelet of "+n.Name(), tail(n.LogPath(binaries.Kubelet)), ReportEntryVisibilityFailureOrVerbose)
		}
	}
	Expect(group.Stop()).To(Succeed())
}

// newToken makes a bootstrap token that lives longer than the suite.
func newToken(ctx context.Context) string {
	GinkgoHelper()
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	return token
}

// needsOwnCluster skips a spec on a cluster that was there already: its nodes are not ours to break.
func needsOwnCluster() {
	if server == nil {
		Skip("only in a cluster of the suite's own: leave $" + kubeconfigEnv + " out")
	}
}

func tail(path string) string {
	const size = 6000
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return strings.ToValidUTF8(string(data[max(0, len(data)-size):]), "?")
}
