// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/controllers/internal/policy"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

// stage is a cluster in which things are broken, with an operator that may ask kubelets about themselves.
type stage struct {
	cluster  *cluster.Cluster
	admin    client.Client
	approver *kubelet.Approver
	fleet    *kubelet.Fleet
}

// step breaks or repairs something about a node.
type step func(ctx context.Context, s *stage, k *kubelet.Kubelet)

// breakage is one way in which a node comes to a finding, and out of it. Each has a node and a policy of its own.
type breakage struct {
	reason   string
	severity v1alpha1.Severity
	// variant tells it from others of the same reason and purpose.
	variant string
	// purpose is what the certificate concerned is for: serving, if nothing is said.
	purpose v1alpha1.CertificatePurpose
	// says is what the message says that others of the reason do not.
	says string
	// options is how the node starts, where that is not in good order. unserved says that it has no certificate to serve then.
	options  func(*stage, *kubelet.Options)
	unserved bool
	// refused says that the API server refuses its requests for client certificates until it is repaired.
	refused bool
	// peer says that its pool has a second node, in good order, from which is learnt how long client certificates live.
	peer bool
	// policy is what the policy asks, where that is not the default.
	policy         func(*v1alpha1.NodesSpec)
	breaks, repair step
}

// pool is the name of the breakage's policy and node pool.
func (b *breakage) pool() string {
	name := "catalogue-" + strings.ToLower(b.reason)
	if b.purpose == v1alpha1.PurposeKubeletClient {
		name += "-client"
	}
	if b.variant != "" {
		name += "-" + b.variant
	}
	return name
}

// title names it among the specs.
func (b *breakage) title() string {
	title := b.reason + " of " + string(b.finding().Certificate)
	if b.variant != "" {
		title += ", " + b.variant
	}
	return title
}

// node is the name of its node.
func (b *breakage) node() string { return b.pool() + "-0" }

// finding is what the policy has to say while the node is broken.
func (b *breakage) finding() v1alpha1.Finding {
	finding := v1alpha1.Finding{
		Reason: b.reason, Severity: b.severity, Certificate: b.purpose, Message: b.says,
		Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: b.node()},
	}
	if b.reason == v1alpha1.ReasonNodePoolNeedsRecreation {
		finding.Subject = v1alpha1.Subject{Kind: v1alpha1.SubjectNodePool, Name: b.pool()}
	}
	if finding.Certificate == "" {
		finding.Certificate = v1alpha1.PurposeKubeletServing
	}
	return finding
}

// breakages are all broken at the same time. Each is a finding that a policy makes about a node.
var breakages = slices.Concat(clientBreakages, []breakage{
	{
		reason: v1alpha1.ReasonExpired, severity: v1alpha1.SeverityViolation,
		breaks: serveAged(150), repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonExpired, variant: "self-signed", severity: v1alpha1.SeverityViolation,
		policy: func(spec *v1alpha1.NodesSpec) { spec.ServingCertificate.Rotation = v1alpha1.ServingRotationIgnored },
		breaks: serveSelfSigned(366 * 24 * time.Hour), repair: serveSelfSigned(0),
	}, {
		reason: v1alpha1.ReasonRotationOverdue, severity: v1alpha1.SeverityViolation,
		breaks: serveAged(95), repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonRotationDue, severity: v1alpha1.SeverityInfo,
		breaks: serveAged(85), repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonNotYetValid, severity: v1alpha1.SeverityViolation,
		breaks: serveAged(-10), repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonServingCertificateMissing, severity: v1alpha1.SeverityViolation, unserved: true,
		policy: impatient, repair: approved,
	}, {
		reason: v1alpha1.ReasonServingCertificateSelfSigned, severity: v1alpha1.SeverityViolation,
		options: func(_ *stage, o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned },
		repair:  restart(func(o *kubelet.Options) { o.Serving = kubelet.ServingRotation }),
	}, {
		reason: v1alpha1.ReasonServingCertificateUntrusted, severity: v1alpha1.SeverityViolation,
		breaks: serveForeign, repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonServingCertificateNameMismatch, severity: v1alpha1.SeverityViolation, policy: impatient,
		breaks: serveMisnamed, repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonServingLabelMissing, severity: v1alpha1.SeverityViolation,
		policy: func(spec *v1alpha1.NodesSpec) {
			spec.ServingCertificate.Label = &v1alpha1.NodeLabel{Key: kubelet.LabelServingCA, Value: "cluster"}
			spec.StaticServingMounts = v1alpha1.WatchWatched
		},
		breaks: relabel(func(labels map[string]string) { delete(labels, kubelet.LabelServingCA) }),
		repair: relabel(func(labels map[string]string) { labels[kubelet.LabelServingCA] = "cluster" }),
	}, {
		reason: v1alpha1.ReasonServingRotationNotDisabled, severity: v1alpha1.SeverityViolation,
		policy: func(spec *v1alpha1.NodesSpec) { spec.ServingCertificate.Rotation = v1alpha1.ServingRotationDisabled },
		repair: restart(func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned }),
	}, {
		reason: v1alpha1.ReasonServingRequestMissing, severity: v1alpha1.SeverityViolation, unserved: true,
		options: func(_ *stage, o *kubelet.Options) { o.NoAddress = true },
		policy:  impatient, breaks: addressUnnoticed, repair: relabel(func(map[string]string) {}),
	}, {
		reason: v1alpha1.ReasonServingRequestMissing, variant: "unaddressed", severity: v1alpha1.SeverityViolation, unserved: true,
		says:    "The kubelet has filed no CertificateSigningRequest",
		options: func(_ *stage, o *kubelet.Options) { o.NoAddress = true },
		policy:  impatient, repair: all(addressUnnoticed, relabel(func(map[string]string) {})),
	}, {
		reason: v1alpha1.ReasonIssuedCertificateNotServed, severity: v1alpha1.SeverityViolation,
		policy: impatient, breaks: serveAged(50), repair: serveOwn,
	}, {
		reason: v1alpha1.ReasonServerTLSBootstrapDisabled, severity: v1alpha1.SeverityViolation,
		options: func(s *stage, o *kubelet.Options) {
			notBefore, notAfter := kubelet.Window(24*time.Hour, 10)
			leaf := kubelet.ServingLeaf(o.Name, o.Address.AsSlice(), notBefore, notAfter)
			o.Serving, o.ServingCertificate = kubelet.ServingStatic, s.issue(leaf)
		},
		repair: restart(func(o *kubelet.Options) { o.Serving = kubelet.ServingRotation }),
	}, {
		reason: v1alpha1.ReasonClientRotationDisabled, severity: v1alpha1.SeverityViolation,
		purpose: v1alpha1.PurposeKubeletClient,
		options: func(_ *stage, o *kubelet.Options) { o.NoClientRotation = true },
		repair:  restart(func(o *kubelet.Options) { o.NoClientRotation = false }),
	}, {
		reason: v1alpha1.ReasonSigningRequestPending, severity: v1alpha1.SeverityViolation, unserved: true,
		policy: impatient, repair: approved,
	}, {
		reason: v1alpha1.ReasonSigningRequestsLooping, severity: v1alpha1.SeverityViolation, policy: impatient,
		breaks: all(ignored, request("z-looping-1", certificatesv1.UsageServerAuth),
			request("z-looping-2", certificatesv1.UsageServerAuth)),
		repair: all(withdraw("z-looping-1"), withdraw("z-looping-2")),
	}, {
		reason: v1alpha1.ReasonSigningRequestMalformed, severity: v1alpha1.SeverityViolation,
		breaks: all(ignored, request("z-malformed", certificatesv1.UsageClientAuth)), repair: withdraw("z-malformed"),
	}, {
		reason: v1alpha1.ReasonSigningRequestFailed, severity: v1alpha1.SeverityViolation,
		breaks: request("z-failed", certificatesv1.UsageClientAuth), // approved, but against the signer's rules
		repair: request("z-failed-not", certificatesv1.UsageServerAuth),
		policy: func(spec *v1alpha1.NodesSpec) { // nobody serves what is issued to that
			spec.SigningRequests.IssueTimeout = &metav1.Duration{Duration: time.Hour}
		},
	}, {
		reason: v1alpha1.ReasonProbeFailed, severity: v1alpha1.SeverityUnknown,
		breaks: endpoint(kubelet.EndpointRefuses), repair: endpoint(kubelet.EndpointServes),
	},
})

// notIssued needs the signer to be stopped, which nothing else does.
var notIssued = breakage{
	reason: v1alpha1.ReasonSigningRequestNotIssued, severity: v1alpha1.SeverityViolation, unserved: true, policy: impatient,
	repair: approved,
}

// patience is how long a spec may take that waits for the cluster and all breakages, as the first one does.
const patience = 10 * time.Minute

// repaired is how long it may take until a repair shows: kubelets wait between attempts, for longer with each that failed.
const repaired = 3 * time.Minute

// What is broken here is broken in a cluster of its own: it would disturb who looks for peace.
var _ = Describe("The catalogue of findings about nodes", Ordered, ContinueOnFailure, func() {
	var s *stage
	BeforeAll(func(ctx SpecContext) {
		s = newStage(ctx)
		long := slices.Concat([]breakage{notIssued}, breakages)
		s.refuse(ctx, slices.Concat(long, stopped))
		for i := range long {
			s.start(ctx, &long[i])
		}
		for i := range long {
			s.breakIt(ctx, &long[i])
		}
		// Each of these has little time before its certificate runs out, and shares it with nobody's start.
		for i := range stopped {
			s.start(ctx, &stopped[i])
			s.breakIt(ctx, &stopped[i])
		}
	}, NodeTimeout(10*time.Minute))

	for i := range breakages {
		b := &breakages[i]
		It("has "+b.title(), func(ctx SpecContext) {
			s.expectFinding(ctx, b.pool(), b.finding())
		}, SpecTimeout(patience))
	}

	It("has a repair for each", func(ctx SpecContext) {
		for i := range breakages {
			breakages[i].repair(ctx, s, s.fleet.Kubelet(breakages[i].node()))
		}
	}, SpecTimeout(patience))

	for i := range breakages {
		b := &breakages[i]
		It("has nothing to say once "+b.title()+" is repaired", func(ctx SpecContext) {
			s.expectPeace(ctx, b.pool())
		}, SpecTimeout(repaired))
	}

	It("has what follows when machines are off while their client certificates run out, and their recovery",
		func(ctx SpecContext) {
			for i := range stopped {
				s.expectFinding(ctx, stopped[i].pool(), stopped[i].finding())
			}
			for i := range stopped {
				stopped[i].repair(ctx, s, s.fleet.Kubelet(stopped[i].node()))
			}
			for i := range stopped {
				s.expectPeace(ctx, stopped[i].pool())
			}
		}, SpecTimeout(patience))

	It("has what follows when the controller manager is stopped, and its recovery", func(ctx SpecContext) {
		Expect(s.cluster.StopControllerManager()).To(Succeed())
		DeferCleanup(s.cluster.StartControllerManager)
		approved(ctx, s, s.fleet.Kubelet(notIssued.node()))
		s.expectFinding(ctx, notIssued.pool(), notIssued.finding())

		By("losing the published Cluster CA")
		Expect(s.admin.Delete(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: cluster.RootCAConfigMap},
		})).To(Succeed())
		s.expectFinding(ctx, notIssued.pool(), v1alpha1.Finding{
			Reason: v1alpha1.ReasonTrustBundleUnavailable, Severity: v1alpha1.SeverityUnknown,
			Subject: v1alpha1.Subject{
				Kind: v1alpha1.SubjectConfigMap, Name: metav1.NamespaceSystem + "/" + cluster.RootCAConfigMap,
			},
			Certificate: v1alpha1.PurposeKubeletServing,
		})

		By("starting the controller manager again")
		Expect(s.cluster.StartControllerManager(ctx)).To(Succeed())
		s.expectPeace(ctx, notIssued.pool())
	}, SpecTimeout(patience))

	It("has what follows when the CA that signs has expired", func(ctx SpecContext) {
		current, key := s.cluster.CA()
		expired := pkitest.NewCA("", pkitest.Key(key), named(current),
			pkitest.Lifetime(current.NotBefore, time.Now().Add(-time.Minute)))
		Expect(s.cluster.SignWith(ctx, expired.X509)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(s.cluster.SignWith(ctx, current)).To(Succeed()) })
		k := s.fleet.Kubelet(notIssued.node())
		request("z-expired", certificatesv1.UsageServerAuth)(ctx, s, k)
		s.expectFinding(ctx, notIssued.pool(), notIssued.finding())
		withdraw("z-expired")(ctx, s, k)
		s.expectPeace(ctx, notIssued.pool())
	}, SpecTimeout(patience))

	It("has what mounts the file that the rotation of a real node has removed", func(ctx SpecContext) {
		const pool = "catalogue-servinglabelmissing" // whose policy names the label, and whose node has it again
		agent := mounting(policy.StaticServingFiles[0])
		Expect(s.admin.Create(ctx, agent)).To(Succeed())
		s.expectFinding(ctx, pool, v1alpha1.Finding{
			Reason: v1alpha1.ReasonStaticServingCertificateMounted, Severity: v1alpha1.SeverityViolation,
			Subject:     v1alpha1.Subject{Kind: v1alpha1.SubjectDaemonSet, Name: agent.Namespace + "/" + agent.Name},
			Certificate: v1alpha1.PurposeKubeletServing,
		})
		Expect(s.admin.Delete(ctx, agent)).To(Succeed())
		s.expectPeace(ctx, pool)
	}, SpecTimeout(patience))
})

// mounting is a DaemonSet that mounts a file of its nodes.
func mounting(path string) *appsv1.DaemonSet {
	labels := map[string]string{"app": catalogued}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: catalogued},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "agent", Image: "agent"}},
					Volumes: []corev1.Volume{{Name: "certificate", VolumeSource: corev1.VolumeSource{
						HostPath: &corev1.HostPathVolumeSource{Path: path, Type: new(corev1.HostPathFile)},
					}}},
				},
			},
		},
	}
}

// newStage starts a cluster and an operator in it, and stops them after the last spec.
func newStage(ctx context.Context) *stage {
	GinkgoHelper()
	s := &stage{cluster: cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, SigningDuration: 24 * time.Hour, Log: GinkgoWriter,
		InstallCRDs: []string{filepath.Join("..", "config", "crd", "bases")},
	})}
	var err error
	s.admin, err = client.New(s.cluster.Config(), client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	token, err := s.cluster.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	s.approver, err = kubelet.StartApprover(ctx, s.cluster.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(s.approver.Stop)
	s.fleet, err = kubelet.NewFleet(kubelet.Join{API: s.cluster.Config(), BootstrapToken: token}, GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(s.fleet.Stop)
	operator.Embed(GinkgoTB(), s.cluster.Config(), func(o *controllers.Options) { o.KubeletReader = s.createReader(ctx) })
	return s
}

// createReader makes the account that kubelets are asked with as it is shipped, and returns its name.
func (s *stage) createReader(ctx context.Context) types.NamespacedName {
	GinkgoHelper()
	file, err := os.ReadFile(filepath.Join("..", "config", "rbac", "kubelet_reader.yaml"))
	Expect(err).NotTo(HaveOccurred())
	var account types.NamespacedName
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return account
		}
		Expect(err).NotTo(HaveOccurred())
		object := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal(document, &object.Object)).To(Succeed())
		if object.GetKind() == "ServiceAccount" {
			account = client.ObjectKeyFromObject(object)
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: account.Namespace}}
			Expect(s.admin.Create(ctx, namespace)).To(Succeed())
		}
		Expect(s.admin.Create(ctx, object)).To(Succeed())
	}
}

// start starts the breakage's node, and creates its policy.
func (s *stage) start(ctx context.Context, b *breakage) {
	GinkgoHelper()
	o := kubelet.Options{
		Name: b.node(), Address: kubelet.PickAddress(), Heartbeat: kubelet.NoHeartbeat,
		Labels: kubelet.AKSLabels(b.pool(), "AKSUbuntu-2204gen2containerd-202501.12.0"),
	}
	if b.options != nil {
		b.options(s, &o)
	}
	if b.unserved {
		s.approver.Set(b.node(), kubelet.Verdict{Decision: kubelet.Ignore})
	}
	_, err := s.fleet.Start(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	if b.peer {
		_, err := s.fleet.Start(ctx, kubelet.Options{Name: b.pool() + "-1", Heartbeat: kubelet.NoHeartbeat, Labels: o.Labels})
		Expect(err).NotTo(HaveOccurred())
	}
	policy := operator.PolicyFor(b.pool())
	operator.NodesOnly(&policy.Spec)
	if b.policy != nil {
		b.policy(&policy.Spec.Nodes)
	}
	Expect(s.admin.Create(ctx, policy)).To(Succeed())
}

// breakIt breaks the breakage's node once all is well with it.
func (s *stage) breakIt(ctx context.Context, b *breakage) {
	GinkgoHelper()
	k := s.fleet.Kubelet(b.node())
	Expect(k.WaitRegistered(ctx)).To(Succeed())
	if !b.unserved {
		Expect(k.WaitServing(ctx)).To(Succeed())
	}
	if b.breaks != nil {
		b.breaks(ctx, s, k)
	}
}

// expectFinding waits for a finding with the same reason, severity, subject and purpose, and this in its message.
func (s *stage) expectFinding(ctx context.Context, policy string, finding v1alpha1.Finding) {
	GinkgoHelper()
	Eventually(s.get(policy)).WithContext(ctx).Should(HaveField("Status.Findings", ContainElement(And(
		HaveField("Reason", finding.Reason), HaveField("Severity", finding.Severity),
		HaveField("Subject", finding.Subject), HaveField("Certificate", finding.Certificate),
		HaveField("Message", ContainSubstring(finding.Message)),
	))))
}

// expectPeace waits until nothing is found any more.
func (s *stage) expectPeace(ctx context.Context, policy string) {
	GinkgoHelper()
	Eventually(s.get(policy)).WithContext(ctx).Should(And(
		HaveField("Status.Findings", BeEmpty()),
		WithTransform(operator.Verdicts, HaveKeyWithValue(v1alpha1.ConditionCompliant, "True "+v1alpha1.ReasonAsExpected)),
	))
}

func (s *stage) get(name string) func(ctx context.Context) (*v1alpha1.CertificatePolicy, error) {
	return func(ctx context.Context) (*v1alpha1.CertificatePolicy, error) {
		policy := &v1alpha1.CertificatePolicy{}
		err := s.admin.Get(ctx, client.ObjectKey{Name: name}, policy)
		return policy, err
	}
}

// issue makes a certificate of the Cluster CA.
func (s *stage) issue(leaf kubelet.Leaf) *tls.Certificate {
	GinkgoHelper()
	pair, err := kubelet.ClusterCA(s.cluster.CA()).Issue(leaf)
	Expect(err).NotTo(HaveOccurred())
	return pair
}

// impatient gives every request, and every new node, a second.
func impatient(spec *v1alpha1.NodesSpec) {
	second := metav1.Duration{Duration: time.Second}
	spec.SigningRequests = v1alpha1.SigningRequestsSpec{PendingTimeout: &second, IssueTimeout: &second}
}

// all takes one step after the other.
func all(steps ...step) step {
	return func(ctx context.Context, s *stage, k *kubelet.Kubelet) {
		for _, next := range steps {
			next(ctx, s, k)
		}
	}
}

// serveAged serves a certificate, good in all else, so many percent of whose life are over.
func serveAged(percent int) step {
	return func(_ context.Context, s *stage, k *kubelet.Kubelet) {
		notBefore, notAfter := kubelet.Window(24*time.Hour, percent)
		k.ServeCertificate(s.issue(kubelet.ServingLeaf(k.Name(), k.Addr().Addr().AsSlice(), notBefore, notAfter)))
	}
}

// serveSelfSigned serves what a kubelet made for itself so long ago, for a year.
func serveSelfSigned(age time.Duration) step {
	return func(_ context.Context, _ *stage, k *kubelet.Kubelet) {
		pair, err := kubelet.SelfSigned(k.Name(), time.Now().Add(-age))
		Expect(err).NotTo(HaveOccurred())
		k.ServeCertificate(pair)
	}
}

// serveForeign serves a certificate of another CA.
func serveForeign(_ context.Context, _ *stage, k *kubelet.Kubelet) {
	notBefore, notAfter := kubelet.Window(24*time.Hour, 10)
	ca, err := kubelet.NewCA("elsewhere", notBefore, notAfter)
	Expect(err).NotTo(HaveOccurred())
	pair, err := ca.Issue(kubelet.ServingLeaf(k.Name(), k.Addr().Addr().AsSlice(), notBefore, notAfter))
	Expect(err).NotTo(HaveOccurred())
	k.ServeCertificate(pair)
}

// serveMisnamed serves a certificate for another address.
func serveMisnamed(_ context.Context, s *stage, k *kubelet.Kubelet) {
	notBefore, notAfter := kubelet.Window(24*time.Hour, 10)
	k.ServeCertificate(s.issue(kubelet.ServingLeaf(k.Name(), net.IPv4(127, 0, 0, 2), notBefore, notAfter)))
}

// serveOwn serves what was issued to the kubelet.
func serveOwn(_ context.Context, _ *stage, k *kubelet.Kubelet) { k.ServeCertificate(nil) }

func ignored(_ context.Context, s *stage, k *kubelet.Kubelet) {
	s.approver.Set(k.Name(), kubelet.Verdict{Decision: kubelet.Ignore})
}

func approved(_ context.Context, s *stage, k *kubelet.Kubelet) {
	s.approver.Set(k.Name(), kubelet.Verdict{Decision: kubelet.Approve})
}

func endpoint(mode kubelet.Endpoint) step {
	return func(_ context.Context, _ *stage, k *kubelet.Kubelet) { Expect(k.SetEndpoint(mode)).To(Succeed()) }
}

// restart starts the kubelet anew, with other options.
func restart(change func(*kubelet.Options)) step {
	return func(ctx context.Context, _ *stage, k *kubelet.Kubelet) {
		k.Stop()
		Expect(k.Resume(ctx, change)).To(Succeed())
	}
}

// relabel has the kubelet look at its Node and change the labels.
func relabel(change func(map[string]string)) step {
	return func(ctx context.Context, s *stage, k *kubelet.Kubelet) {
		approved(ctx, s, k)
		Expect(k.UpdateNode(ctx, func(node *corev1.Node) { change(node.Labels) })).To(Succeed())
	}
}

// addressUnnoticed gives the Node an address that its kubelet does not learn of.
func addressUnnoticed(ctx context.Context, s *stage, k *kubelet.Kubelet) {
	Eventually(func(g Gomega) {
		node := &corev1.Node{}
		g.Expect(s.admin.Get(ctx, client.ObjectKey{Name: k.Name()}, node)).To(Succeed())
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: k.Addr().Addr().String()})
		g.Expect(s.admin.Status().Update(ctx, node)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

// request asks, as the node, for a serving certificate, for the usage. Its name is to sort after those of the kubelet's own.
func request(name string, usage certificatesv1.KeyUsage) step {
	return func(ctx context.Context, s *stage, k *kubelet.Kubelet) {
		Expect(s.as(k.Name()).Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				SignerName: certificatesv1.KubeletServingSignerName, Request: requestPEM(userOf(k.Name()), k.Addr().Addr()),
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
			},
		})).To(Succeed())
	}
}

// userOf is whom a node's kubelet authenticates as.
func userOf(node string) string { return "system:node:" + node }

// as is a client with the node's permissions.
func (s *stage) as(node string) client.Client {
	GinkgoHelper()
	config, err := s.cluster.UserConfig(userOf(node), "system:nodes")
	Expect(err).NotTo(HaveOccurred())
	c, err := client.New(config, client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	return c
}

// requestPEM is a request that follows the rules for kubelet serving certificates.
func requestPEM(user string, address netip.Addr) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: user, Organization: []string{"system:nodes"}},
		IPAddresses: []net.IP{address.AsSlice()},
	}, key)
	Expect(err).NotTo(HaveOccurred())
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// withdraw deletes a request.
func withdraw(name string) step {
	return func(ctx context.Context, s *stage, _ *kubelet.Kubelet) {
		Expect(s.admin.Delete(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name},
		})).To(Succeed())
	}
}
