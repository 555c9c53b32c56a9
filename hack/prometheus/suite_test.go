// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package prometheus_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
	"github.com/notafter/notafter/hack/prometheus"
)

const (
	// soon is how long anything may take on a busy machine.
	soon      = 2 * time.Minute
	namespace = "notafter-system"
	// serverName is what the certificate of the metrics is for: the Service's name, as docs/monitoring.md has it.
	serverName = "notafter-metrics.notafter-system.svc"
	policyName = "cluster"
)

var (
	root     string // of the repository
	dir      string // Prometheus' and the manager's files
	server   *cluster.Cluster
	admin    client.Client
	approver *kubelet.Approver
	fleet    *kubelet.Fleet
	manager  *operator.Operator
	scraper  *prometheus.Server
)

func TestPrometheus(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Prometheus")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(200 * time.Millisecond)
	var err error
	root, err = binaries.RepositoryRoot()
	Expect(err).NotTo(HaveOccurred())
	dir = GinkgoT().TempDir()
	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, SigningDuration: 24 * time.Hour, Log: GinkgoWriter,
		// It fills in the scraper's token.
		ExtraControllers: []string{"serviceaccount-token-controller"},
	})
	scheme := runtime.NewScheme()
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(corev1.AddToScheme(scheme)).To(Succeed())
	Expect(authenticationv1.AddToScheme(scheme)).To(Succeed())
	admin, err = client.New(server.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	Expect(operator.Install(ctx, server, filepath.Join(root, "config"))).To(Succeed())
	_, err = server.RunKubectl(ctx, "",
		"apply", "--server-side", "-f", filepath.Join(root, "config", "components", "prometheus", "scraper.yaml"))
	Expect(err).NotTo(HaveOccurred())
	startKubelets(ctx)
	createPolicy(ctx)
	startManager(ctx)
	startPrometheus(ctx)
}, NodeTimeout(15*time.Minute))

// startKubelets starts two nodes in good order.
func startKubelets(ctx context.Context) {
	GinkgoHelper()
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	approver, err = kubelet.StartApprover(ctx, server.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(approver.Stop)
	fleet, err = kubelet.NewFleet(
		kubelet.Join{API: server.Config(), BootstrapToken: token, ClientCA: server.CACertPEM()}, GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(fleet.Stop)
	startKubelet(ctx, kubelet.Options{Name: "blue-0"}, "blue")
	startKubelet(ctx, kubelet.Options{Name: "green-0"}, "green")
	Expect(fleet.WaitServing(ctx)).To(Succeed())
}

func startKubelet(ctx context.Context, o kubelet.Options, pool string) {
	GinkgoHelper()
	o.Labels = kubelet.AKSLabels(pool, "AKSUbuntu-2204gen2containerd-202501.12.0")
	k, err := fleet.Start(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	Expect(k.WaitRegistered(ctx)).To(Succeed())
}

func createPolicy(ctx context.Context) {
	GinkgoHelper()
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: policyName}}
	policy.Spec.Expiry.MinimumRemaining = &metav1.Duration{}
	policy.Spec.Nodes.Probe.Interval = &metav1.Duration{Duration: 10 * time.Second}
	policy.Spec.Nodes.SigningRequests.PendingTimeout = &metav1.Duration{Duration: 5 * time.Second}
	Expect(admin.Create(ctx, policy)).To(Succeed())
}

// startManager runs the manager with a certificate for its metrics that can be verified.
func startManager(ctx context.Context) {
	GinkgoHelper()
	binary := filepath.Join(dir, "manager")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/manager")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s", out)

	notBefore, notAfter := kubelet.Window(24*time.Hour, 10)
	pair, err := kubelet.ClusterCA(server.CA()).Issue(kubelet.Leaf{
		Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: notBefore, NotAfter: notAfter, Usage: x509.ExtKeyUsageServerAuth,
	})
	Expect(err).NotTo(HaveOccurred())
	key, err := keyutil.MarshalPrivateKeyToPEM(pair.PrivateKey)
	Expect(err).NotTo(HaveOccurred())
	certificates := filepath.Join(dir, "certificates")
	Expect(os.Mkdir(certificates, 0o700)).To(Succeed())
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	Expect(os.WriteFile(filepath.Join(certificates, "tls.crt"), certificate, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(certificates, "tls.key"), key, 0o600)).To(Succeed())

	manager, err = operator.Start(ctx, server, binary, dir, "--metrics-secure", "--metrics-cert-dir="+certificates,
		"--leader-elect", "--leader-election-namespace="+namespace)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(stopManager)
}

// stopManager stops the manager, if it runs.
func stopManager() {
	GinkgoHelper()
	if manager != nil {
		log := manager.LogTail()
		Expect(manager.Stop()).To(Succeed())
		manager = nil
		AddReportEntry("the end of the manager's log", ReportEntryVisibilityFailureOrVerbose, log)
	}
}

// scraperToken is what Kubernetes put into the scraper's Secret.
func scraperToken(ctx context.Context) string {
	GinkgoHelper()
	secret := &corev1.Secret{}
	Eventually(func(g Gomega) {
		g.Expect(admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "notafter-scraper"}, secret)).To(Succeed())
		g.Expect(secret.Data).To(HaveKey(corev1.ServiceAccountTokenKey))
	}).Should(Succeed())
	return string(secret.Data[corev1.ServiceAccountTokenKey])
}

// tokenOf is a token of another ServiceAccount of the namespace.
func tokenOf(ctx context.Context, account string) string {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{}
	serviceAccount := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	Expect(admin.SubResource("token").Create(ctx, serviceAccount, request)).To(Succeed())
	return request.Status.Token
}

// hurry is how long alerts wait that would wait for minutes: more than a busy machine may hold up a scrape.
const hurry = 20 * time.Second

// startPrometheus scrapes the manager as the component's ServiceMonitor has it, with the alerts in less of a hurry.
func startPrometheus(ctx context.Context) {
	GinkgoHelper()
	component := filepath.Join(root, "config", "components", "prometheus")
	alerts, err := os.ReadFile(filepath.Join(component, "alerts.yaml"))
	Expect(err).NotTo(HaveOccurred())
	// Those with a short wait get a shorter one, of several scrapes; what takes a quarter of an hour or more stays as it is.
	alerts = regexp.MustCompile(`(?m)^( +(?:for|keep_firing_for)): (?:5|10)m$`).
		ReplaceAll(alerts, fmt.Appendf(nil, "$1: %ds", int(hurry.Seconds())))
	Expect(os.WriteFile(filepath.Join(dir, "alerts.yaml"), alerts, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "ca.crt"), server.CACertPEM(), 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "token"), []byte(scraperToken(ctx)), 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(configuration(component)), 0o600)).To(Succeed())
	scraper, err = prometheus.Start(ctx, dir)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(scraper.Stop()).To(Succeed()) })
}

// configuration is what the Prometheus Operator would make of the ServiceMonitor, with the certificate verified.
func configuration(component string) string {
	GinkgoHelper()
	var monitor struct {
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			Endpoints []struct{ Scheme, Path, Port string }
		}
	}
	content, err := os.ReadFile(filepath.Join(component, "service_monitor.yaml"))
	Expect(err).NotTo(HaveOccurred())
	Expect(yaml.Unmarshal(content, &monitor)).To(Succeed())
	Expect(monitor.Spec.Endpoints).To(HaveLen(1))
	endpoint := monitor.Spec.Endpoints[0]
	return fmt.Sprintf(`global: {scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 1s}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: %s
    scheme: %s
    metrics_path: %s
    authorization: {credentials_file: token}
    tls_config: {ca_file: ca.crt, server_name: %s}
    static_configs:
      - targets: ["%s"]
        labels: {namespace: %s, pod: manager-0, endpoint: %s}
`, monitor.Metadata.Name, endpoint.Scheme, endpoint.Path, serverName, manager.MetricsAddress(), monitor.Metadata.Namespace, endpoint.Port)
}
