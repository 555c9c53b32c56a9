// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest_test

import (
	"context"
	"hash/fnv"
	"maps"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/dnsserver"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// soon is how long anything may take on a busy machine, and while is how long nothing may happen.
	soon  = 60 * time.Second
	while = 2 * time.Second
	// poolLabel tells the nodes of one spec from those of the others.
	poolLabel = "pool"
	domain    = "nodes.example"
)

var (
	server   *cluster.Cluster
	c        client.Client
	nodes    kubernetes.Interface
	fleet    *kubelet.Fleet
	resolver *dnsserver.Server
	// silent are the names that the DNS server does not answer for.
	silent    sync.Map
	configDir = filepath.Join("..", "..", "config")
)

func TestSigningRequest(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "SigningRequest")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	SetDefaultConsistentlyDuration(while)
	EnforceDefaultTimeoutsWhenUsingContexts()

	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, SigningDuration: time.Hour, Log: GinkgoWriter,
	})
	Expect(operator.Install(ctx, server, configDir)).To(Succeed())
	var err error
	c, err = client.New(server.Config(), client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	unlimited := server.Config()
	unlimited.QPS = -1
	nodes, err = kubernetes.NewForConfig(unlimited)
	Expect(err).NotTo(HaveOccurred())
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	fleet, err = kubelet.NewFleet(kubelet.Join{API: server.Config(), BootstrapToken: token}, GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(fleet.Stop)
	resolver, err = dnsserver.Start(resolve)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(resolver.Stop)
}, NodeTimeout(15*time.Minute))

// resolve has every name in the domain stand for the address of the node that is called so.
func resolve(name string) dnsserver.Reply {
	if _, ok := silent.Load(name); ok {
		return dnsserver.Reply{BlackHole: true}
	}
	return dnsserver.Reply{Addresses: []netip.Addr{addressOf(name)}}
}

// addressOf is the address of a node: on loopback, because nodes are probed, and different for each, as far as these tests go.
func addressOf(node string) netip.Addr {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(node)) // it cannot fail
	sum := hash.Sum32()
	return netip.AddrFrom4([4]byte{127, 200 + byte(sum>>16)%50, byte(sum >> 8), byte(sum)})
}

// writes records the decisions that an operator wrote, or tried to, as the API server answered them.
type writes struct {
	mu sync.Mutex
	// before is called with the name of a request before the next decision on it reaches the API server; nil does nothing.
	before   func(name string)
	requests []string
	statuses map[int]int
}

func (w *writes) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		name, isApproval := strings.CutSuffix(request.URL.Path, "/approval")
		if isApproval && request.Method == http.MethodPut {
			w.interfere(filepath.Base(name))
		}
		response, err := next.RoundTrip(request)
		if err == nil && isApproval && request.Method == http.MethodPut {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.requests = append(w.requests, filepath.Base(name))
			w.statuses[response.StatusCode]++
		}
		return response, err
	})
}

// interfere does once what is to be done before a decision.
func (w *writes) interfere(name string) {
	w.mu.Lock()
	before := w.before
	w.before = nil
	w.mu.Unlock()
	if before != nil {
		before(name)
	}
}

// beforeNext has something done before the next decision.
func (w *writes) beforeNext(do func(name string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = do
}

// by is how often which answer was given.
func (w *writes) by() map[int]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.statuses)
}

// names are those of the requests, in the order of the answers.
func (w *writes) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requests)
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// startOperator runs the whole operator as cmd/manager does, in this process, with no more permissions than it is shipped with.
// What it returns stops it.
func startOperator(change ...func(*ctrl.Options)) (*writes, func()) {
	GinkgoHelper()
	user, err := server.UserConfig(operator.ServiceAccount, "system:serviceaccounts", "system:authenticated")
	Expect(err).NotTo(HaveOccurred())
	user.QPS, user.Burst = 200, 400
	written := &writes{statuses: map[int]int{}}
	user.Wrap(written.wrap)
	own := controllers.Options{
		TrustConfigMap: types.NamespacedName{Namespace: "kube-system", Name: cluster.RootCAConfigMap}, TrustKey: "ca.crt",
		ProbeConcurrency: 8, DNSServer: resolver.Addr(), Registerer: prometheus.NewRegistry(),
	}
	options := ctrl.Options{
		Scheme:  controllers.NewScheme(),
		Cache:   own.CacheOptions(),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// Several run in this process, one after the other.
		Controller: config.Controller{SkipNameValidation: new(true), EnableWarmup: new(true)},
	}
	for _, f := range change {
		f(&options)
	}
	mgr, err := ctrl.NewManager(user, options)
	Expect(err).NotTo(HaveOccurred())
	Expect(controllers.Setup(mgr, own)).To(Succeed())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	return written, sync.OnceFunc(func() {
		GinkgoHelper()
		Expect(done).NotTo(Receive(), "the operator must not end by itself")
		cancel()
		Eventually(done).Should(Receive(BeNil()))
	})
}

// approving is a policy for one pool that approves what asks for addresses on loopback, and for names in the domain.
func approving(pool string, change ...func(*v1alpha1.SigningRequestApprovalSpec)) *v1alpha1.CertificatePolicy {
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: pool}}
	policy.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{poolLabel: v1alpha1.LabelValue(pool)}
	policy.Spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored
	policy.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored
	policy.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{
		Mode:               v1alpha1.ApprovalApprove,
		AllowedIPRanges:    []v1alpha1.IPRange{"127.0.0.0/8"},
		AllowedDNSSuffixes: []v1alpha1.DNSSuffix{domain},
	}
	for _, f := range change {
		f(policy.Spec.SigningRequestApproval)
	}
	return policy
}

// create creates the object until the spec ends.
func create[T client.Object](ctx context.Context, o T) T {
	GinkgoHelper()
	Expect(c.Create(ctx, o)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(c.Delete(ctx, o))).To(Succeed()) })
	return o
}

// newNode is a Node of a pool, with one address and its name for names.
func newNode(name, pool string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{poolLabel: pool}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: addressOf(name).String()}, {Type: corev1.NodeHostName, Address: name},
		}},
	}
}

// ask files a request until the spec ends.
func ask(ctx context.Context, node string, names ...pkitest.Option) *certificatesv1.CertificateSigningRequest {
	GinkgoHelper()
	filed, err := file(ctx, node, names...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(c.Delete(ctx, filed))).To(Succeed()) })
	return filed
}

// file files a request for a serving certificate as the node does; by default for its own address and name.
func file(ctx context.Context, node string, names ...pkitest.Option) (*certificatesv1.CertificateSigningRequest, error) {
	if len(names) == 0 {
		names = []pkitest.Option{pkitest.DNSNames(node), pkitest.IPAddresses(addressOf(node).String())}
	}
	return fileAs(ctx, node, unfiled(node, names...))
}

// unfiled is a request for a serving certificate that is still to be filed.
func unfiled(node string, names ...pkitest.Option) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-", Labels: map[string]string{"kept": "yes"}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName,
			Request:    pkitest.Request(append(names, pkitest.Node(node))...),
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
}

// fileAs files a request as the node does.
func fileAs(
	ctx context.Context, node string, request *certificatesv1.CertificateSigningRequest,
) (*certificatesv1.CertificateSigningRequest, error) {
	filed := &certificatesv1.CertificateSigningRequest{}
	err := nodes.CertificatesV1().RESTClient().Post().Resource("certificatesigningrequests").
		SetHeader("Impersonate-User", "system:node:"+node).
		SetHeader("Impersonate-Group", "system:nodes", "system:authenticated").
		Body(request).Do(ctx).Into(filed)
	return filed, err
}

// conditions are what became of a request, such as "Approved KeepsRules".
func conditions(ctx context.Context, request *certificatesv1.CertificateSigningRequest) func(Gomega) []string {
	return func(g Gomega) []string {
		current := &certificatesv1.CertificateSigningRequest{}
		g.Expect(c.Get(ctx, client.ObjectKeyFromObject(request), current)).To(Succeed())
		var found []string
		for i := range current.Status.Conditions {
			condition := &current.Status.Conditions[i]
			found = append(found, string(condition.Type)+" "+condition.Reason)
		}
		return found
	}
}

const approved = "Approved KeepsRules"
