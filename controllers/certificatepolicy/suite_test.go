// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/intake"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/hack/cluster"
)

// soon is how long anything may take on a busy machine. What has to be prompt is measured.
const soon = time.Minute

// poolLabel is what a spec's policy selects its nodes by.
const poolLabel = "test.notafter.dev/pool"

var (
	kubernetes *cluster.Cluster
	restConfig *rest.Config
	k8s        client.WithWatch
	scheme     = runtime.NewScheme()
	rootCA     = types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: cluster.RootCAConfigMap}
)

func TestCertificatePolicy(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "CertificatePolicy controller")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	EnforceDefaultTimeoutsWhenUsingContexts()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme))

	var err error
	kubernetes, err = cluster.Start(ctx, cluster.Options{
		InstallCRDs: []string{filepath.Join("..", "..", "config", "crd", "bases")}, Log: GinkgoWriter,
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() error { return kubernetes.Stop() })
	restConfig = kubernetes.Config()
	restConfig.QPS = -1
	k8s, err = client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
}, NodeTimeout(10*time.Minute))

// controllerRun is one life of the controller, as in one manager process.
type controllerRun struct {
	verdicts     *metrics.Verdicts
	controlPlane *controlPlane
	approvals    *approvals
	stop         func()
}

// startController runs the controller in a manager of its own, until it is stopped or the spec ends.
func startController(changes ...func(*Options)) *controllerRun {
	GinkgoHelper()
	return startControllerAs(restConfig, changes...)
}

// startControllerAs runs it with the permissions of another user, except for what the optional sources here read.
func startControllerAs(restConfig *rest.Config, changes ...func(*Options)) *controllerRun {
	GinkgoHelper()
	mgr, err := manager.New(restConfig, manager.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Cache: intake.CacheOptions(access.NewMissing(), 0),
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	Expect(err).NotTo(HaveOccurred())
	requests, err := intake.AddSigningRequests(mgr, k8s, 0)
	Expect(err).NotTo(HaveOccurred())
	configMap, err := intake.AddConfigMap(mgr, k8s, rootCA, 0)
	Expect(err).NotTo(HaveOccurred())
	watching, err := client.NewWithWatch(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	run := &controllerRun{verdicts: metrics.NewVerdicts(), controlPlane: newControlPlane(), approvals: newApprovals()}
	options := Options{
		Clock: clock.RealClock{}, SigningRequests: requests, Verdicts: run.verdicts,
		Trust: trust.New(configMap, rootCA, "ca.crt"), TrustConfigMap: configMap, ControlPlane: run.controlPlane, Approvals: run.approvals,
		Watching: watching, Registerer: prometheus.NewRegistry(),
	}
	for _, change := range changes {
		change(&options)
	}
	Expect(Add(mgr, options)).To(Succeed())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		Expect(mgr.Start(ctx)).To(Succeed())
	}()
	run.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	DeferCleanup(run.stop)
	return run
}

// newPoolPolicy is a policy that selects the pool's nodes, without the floor that certificates living minutes are under, and
// with little patience for new nodes.
func newPoolPolicy(pool string) *v1alpha1.CertificatePolicy {
	p := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: pool}}
	p.Spec.Expiry.MinimumRemaining = &metav1.Duration{}
	p.Spec.Nodes.SigningRequests.PendingTimeout = &metav1.Duration{Duration: time.Second}
	p.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored // the specs' nodes have serving certificates only
	p.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{poolLabel: v1alpha1.LabelValue(pool)}
	return p
}

func createPolicy(ctx context.Context, p *v1alpha1.CertificatePolicy) *v1alpha1.CertificatePolicy {
	GinkgoHelper()
	Expect(k8s.Create(ctx, p)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) error { return client.IgnoreNotFound(k8s.Delete(ctx, p)) })
	return p
}

// newNode is a Node of the pool, with an address.
func newNode(pool, name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{poolLabel: pool}},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.1.0.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// createNode creates a Node of the pool, and deletes the pool when the spec ends.
func createNode(ctx context.Context, pool, name string) *corev1.Node {
	GinkgoHelper()
	node := newNode(pool, name)
	Expect(k8s.Create(ctx, node)).To(Succeed())
	DeferCleanup(deletePool, pool)
	return node
}

func deletePool(ctx SpecContext, pool string) {
	GinkgoHelper()
	Expect(k8s.DeleteAllOf(ctx, &corev1.Node{}, client.MatchingLabels{poolLabel: pool})).To(Succeed())
	Expect(k8s.DeleteAllOf(ctx, &v1alpha1.NodeCertificates{}, client.MatchingLabels{poolLabel: pool})).To(Succeed())
}

// observe creates the facts about the node: it serves a certificate of that lifetime, signed by the Cluster CA.
func observe(ctx context.Context, node *corev1.Node, notBefore, notAfter time.Time) *v1alpha1.NodeCertificates {
	GinkgoHelper()
	facts := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{
		Name: node.Name, Labels: node.Labels,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
	}}
	Expect(k8s.Create(ctx, facts)).To(Succeed())
	serves(facts, notBefore, notAfter)
	Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
	return facts
}

// serves states that the kubelet serves a certificate of that lifetime.
func serves(facts *v1alpha1.NodeCertificates, notBefore, notAfter time.Time) {
	facts.Status.Serving = &v1alpha1.ServingStatus{
		Mode: v1alpha1.ServingModeClusterSigned, Outcome: v1alpha1.ProbeCertificatePresented,
		Address: "127.1.0.1:10250", NameMatch: v1alpha1.NameMatches, Since: metav1.NewTime(notBefore),
	}
	facts.Status.Kubelet = &v1alpha1.KubeletStatus{
		Outcome: v1alpha1.KubeletRead, Since: metav1.NewTime(notBefore),
		ClientRotation: v1alpha1.KubeletSettingEnabled, ServingBootstrap: v1alpha1.KubeletSettingEnabled,
	}
	facts.Status.Certificates = []v1alpha1.CertificateStatus{{
		Purpose: v1alpha1.PurposeKubeletServing, Source: v1alpha1.SourceHandshake, SerialNumber: "1f",
		SHA256: strings.Repeat("0", 64), IPAddresses: []string{"127.1.0.1"},
		NotBefore: metav1.NewTime(notBefore), NotAfter: metav1.NewTime(notAfter),
	}}
}

// servesNothing states that the kubelet has no certificate, and answers with the alert.
func servesNothing(facts *v1alpha1.NodeCertificates) {
	facts.Status.Serving.Mode, facts.Status.Serving.Outcome = v1alpha1.ServingModeNone, v1alpha1.ProbeNoCertificate
	facts.Status.Serving.NameMatch = ""
}

func healthy(facts *v1alpha1.NodeCertificates) {
	now := time.Now()
	serves(facts, now.Add(-time.Hour), now.Add(99*time.Hour))
}

// sighting is a version of a policy, and when it was seen.
type sighting struct {
	at     time.Time
	policy *v1alpha1.CertificatePolicy
}

// sightings are all versions of a policy that the API server told of.
type sightings struct {
	mu  sync.Mutex
	all []sighting
}

func (s *sightings) list() []sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sighting(nil), s.all...)
}

// first returns when the policy was first seen with a finding of the reason.
func (s *sightings) first(reason string) (time.Time, *v1alpha1.Finding) {
	for _, seen := range s.list() {
		if finding := findingOf(seen.policy, reason); finding != nil {
			return seen.at, finding
		}
	}
	return time.Time{}, nil
}

// eventually waits for a finding of the reason, and returns when it was first seen.
func (s *sightings) eventually(reason string) time.Time {
	GinkgoHelper()
	var at time.Time
	Eventually(func() *v1alpha1.Finding {
		var finding *v1alpha1.Finding
		at, finding = s.first(reason)
		return finding
	}).ShouldNot(BeNil(), reason)
	return at
}

// waitQuiet returns when the policy may be written again at once.
func (s *sightings) waitQuiet() {
	GinkgoHelper()
	Eventually(func() bool {
		all := s.list()
		return len(all) > 0 && time.Since(all[len(all)-1].at) > writeInterval
	}).Should(BeTrue())
}

// watchPolicy follows a policy from now to the end of the spec.
func watchPolicy(name string) *sightings {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	DeferCleanup(cancel)
	w, err := k8s.Watch(ctx, &v1alpha1.CertificatePolicyList{}, client.MatchingFields{"metadata.name": name})
	Expect(err).NotTo(HaveOccurred())
	s := &sightings{}
	go func() {
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1alpha1.CertificatePolicy); ok {
				s.mu.Lock()
				s.all = append(s.all, sighting{at: time.Now(), policy: p})
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func findingOf(p *v1alpha1.CertificatePolicy, reason string) *v1alpha1.Finding {
	for i := range p.Status.Findings {
		if p.Status.Findings[i].Reason == reason {
			return &p.Status.Findings[i]
		}
	}
	return nil
}

// current reads the policy.
func current(ctx context.Context, g Gomega, name string) *v1alpha1.CertificatePolicy {
	p := &v1alpha1.CertificatePolicy{}
	g.Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, p)).To(Succeed())
	return p
}

// conditions are the policy's conditions, each as its status and reason.
func conditions(p *v1alpha1.CertificatePolicy) map[string]string {
	all := map[string]string{}
	for _, c := range p.Status.Conditions {
		all[c.Type] = fmt.Sprintf("%s %s", c.Status, c.Reason)
	}
	return all
}

func eventuallyCondition(ctx context.Context, name, conditionType, want string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(conditions(current(ctx, g, name))).To(HaveKeyWithValue(conditionType, want))
	}).Should(Succeed())
}

// eventsAbout are the Events regarding the object.
func eventsAbout(ctx context.Context, g Gomega, uid types.UID) []eventsv1.Event {
	var list eventsv1.EventList
	g.Expect(k8s.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault))).To(Succeed())
	var about []eventsv1.Event
	for _, e := range list.Items {
		if e.Regarding.UID == uid {
			about = append(about, e)
		}
	}
	return about
}

func kubectl(ctx context.Context, args ...string) string {
	GinkgoHelper()
	out, err := kubernetes.RunKubectl(ctx, "", args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}
