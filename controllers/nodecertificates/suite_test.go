// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/intake"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

const (
	// soon is how long anything may take on a busy machine. What has to be quick is measured against quick.
	soon  = 60 * time.Second
	quick = 10 * time.Second
	// interval is the shortest that the API allows.
	interval = 10 * time.Second
	// silentLabel is on the Nodes whose kubelets do not answer.
	silentLabel = "test.notafter.dev/silent"
	// concurrency is how many nodes are probed at once, besides those that do not answer.
	concurrency = 2
)

var (
	trustBundle = types.NamespacedName{Namespace: "kube-system", Name: "kube-root-ca.crt"}
	server      *cluster.Cluster
	c           client.Client
	approver    *kubelet.Approver
	join        kubelet.Join
	scheme      = runtime.NewScheme()
	stopManager func()
	// registry has the metrics of the manager that runs.
	registry *prometheus.Registry
)

func TestNodeCertificates(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "NodeCertificates")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())

	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, SigningDuration: time.Hour, Log: GinkgoWriter,
		InstallCRDs:            []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ControllerManagerFlags: []string{"--kube-api-qps=500", "--kube-api-burst=1000"},
	})
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	join = kubelet.Join{API: server.Config(), BootstrapToken: token}
	// Nobody approves, as in Kubernetes, until a test says so.
	approver, err = kubelet.StartApprover(ctx, server.Config(), kubelet.Verdict{Decision: kubelet.Ignore})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(approver.Stop)

	c, err = client.New(server.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	// Nodes have time to answer on a busy machine, but for those that will not. They have a little more than the prober is patient
	// with a node it does not suspect.
	for operator, timeout := range map[metav1.LabelSelectorOperator]time.Duration{
		metav1.LabelSelectorOpDoesNotExist: quick, metav1.LabelSelectorOpExists: patience + patience/2,
	} {
		policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{GenerateName: "nodes-"}}
		policy.Spec.Nodes.Selector.MatchExpressions = []v1alpha1.NodeSelectorRequirement{{Key: silentLabel, Operator: operator}}
		policy.Spec.Nodes.Probe.Interval = &metav1.Duration{Duration: interval}
		policy.Spec.Nodes.Probe.Timeout = &metav1.Duration{Duration: timeout}
		Expect(c.Create(ctx, policy)).To(Succeed())
	}

	makeReader(ctx)
	startManager()
	DeferCleanup(func() { stopManager() })
}, NodeTimeout(15*time.Minute))

// startManager starts the controllers, wired as controllers.Setup does it, and sets stopManager.
func startManager() {
	GinkgoHelper()
	restConfig := server.Config()
	restConfig.QPS = -1
	missing := access.NewMissing()
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:  scheme,
		Cache:   intake.CacheOptions(missing, 0),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// Several managers run in this process, one after the other.
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	watching, err := client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	registry = prometheus.NewRegistry()
	requests, err := intake.AddSigningRequests(mgr, watching, 0)
	Expect(err).NotTo(HaveOccurred())
	configMap, err := intake.AddConfigMap(mgr, watching, trustBundle, 0)
	Expect(err).NotTo(HaveOccurred())
	_, err = Add(mgr, Options{
		Missing: missing,
		Clock:   clock.RealClock{}, SigningRequests: requests, ProbeConcurrency: concurrency, ProbeLoopback: true,
		KubeletReader: reader, Registerer: registry,
		Trust: trust.New(configMap, trustBundle, "ca.crt"), TrustConfigMap: configMap,
	})
	Expect(err).NotTo(HaveOccurred())

	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopManager = func() {
		cancel()
		Eventually(done).Should(Receive(BeNil()))
	}
}

// requestAs files a request for a serving certificate as the kubelet of a node does.
func requestAs(ctx context.Context, node string) *certificatesv1.CertificateSigningRequest {
	GinkgoHelper()
	config, err := server.UserConfig("system:node:"+node, "system:nodes")
	Expect(err).NotTo(HaveOccurred())
	asNode, err := client.New(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: servingSigner,
			Request:    pkitest.Request(pkitest.Node(node), pkitest.DNSNames(node)),
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
	Expect(asNode.Create(ctx, request)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(c.Delete(ctx, request))).To(Succeed()) })
	return request
}
