// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

var approve = kubelet.Verdict{Decision: kubelet.Approve}

// startKubelet starts a kubelet with a name of its own; its Node goes with the spec.
func startKubelet(ctx context.Context, name string, change func(*kubelet.Options)) *kubelet.Kubelet {
	GinkgoHelper()
	o := kubelet.Options{Join: join, Name: name, Dir: GinkgoT().TempDir()}
	if change != nil {
		change(&o)
	}
	k, err := kubelet.Start(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx context.Context) {
		k.Stop()
		Expect(client.IgnoreNotFound(c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))).To(Succeed())
	})
	return k
}

func get(ctx context.Context, name string) (*v1alpha1.NodeCertificates, error) {
	object := &v1alpha1.NodeCertificates{}
	return object, c.Get(ctx, client.ObjectKey{Name: name}, object)
}

// status polls the status of a NodeCertificates; it is empty while there is none.
func status(ctx context.Context, name string) func() (v1alpha1.NodeCertificatesStatus, error) {
	return func() (v1alpha1.NodeCertificatesStatus, error) {
		object, err := get(ctx, name)
		return object.Status, client.IgnoreNotFound(err)
	}
}

func serves(mode v1alpha1.ServingMode, outcome v1alpha1.ProbeOutcome) gomegatypes.GomegaMatcher {
	return HaveField("Serving", gstruct.PointTo(gstruct.MatchFields(gstruct.IgnoreExtras, gstruct.Fields{"Mode": Equal(mode), "Outcome": Equal(outcome)})))
}

func requested(stage v1alpha1.SigningStage) gomegatypes.GomegaMatcher {
	return HaveField("SigningRequests", ContainElement(And(
		HaveField("SignerName", servingSigner), HaveField("Stage", stage))))
}

func holds(source v1alpha1.EvidenceSource, sha256 string) gomegatypes.GomegaMatcher {
	return HaveField("Certificates", ContainElement(And(HaveField("Purpose", v1alpha1.PurposeKubeletServing),
		HaveField("Source", source), HaveField("SHA256", sha256))))
}

// counted is the sum of a counter of the prober.
func counted(counter string) float64 {
	GinkgoHelper()
	families, err := registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	var count float64
	for _, family := range families {
		if family.GetName() == counter {
			for _, metric := range family.GetMetric() {
				count += metric.GetCounter().GetValue()
			}
		}
	}
	return count
}

// expectNoChange expects no change while the only node there is is probed again, and again.
func expectNoChange(unchanged func(Gomega)) {
	GinkgoHelper()
	const probes = "notafter_probes_total"
	before := counted(probes)
	Eventually(counted).WithArguments(probes).WithTimeout(2 * soon).Should(BeNumerically(">=", before+2))
	Consistently(unchanged).WithTimeout(2 * time.Second).Should(Succeed())
}

func deleteRequestsOf(ctx context.Context, node string) {
	GinkgoHelper()
	requests := &certificatesv1.CertificateSigningRequestList{}
	Expect(c.List(ctx, requests)).To(Succeed())
	for i := range requests.Items {
		if csr.NodeName(&requests.Items[i]) == node {
			Expect(c.Delete(ctx, &requests.Items[i])).To(Succeed())
		}
	}
}

var _ = Describe("NodeCertificates", func() {
	It("follows a kubelet from a request that nobody approves to the certificate it serves", func(ctx SpecContext) {
		k := startKubelet(ctx, "follow", nil)
		Eventually(status(ctx, "follow")).Should(And(
			serves(v1alpha1.ServingModeNone, v1alpha1.ProbeNoCertificate), requested(v1alpha1.StagePending)))

		approver.Set("follow", approve)
		Expect(k.WaitServing(ctx)).To(Succeed())
		Eventually(status(ctx, "follow")).WithTimeout(quick).Should(And(
			serves(v1alpha1.ServingModeClusterSigned, v1alpha1.ProbeCertificatePresented), requested(v1alpha1.StageIssued)))

		object, err := get(ctx, "follow")
		Expect(err).NotTo(HaveOccurred())
		node := &corev1.Node{}
		Expect(c.Get(ctx, client.ObjectKey{Name: "follow"}, node)).To(Succeed())
		Expect(object.OwnerReferences).To(Equal([]metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: "follow", UID: node.UID},
		}))
		sum := pki.Fingerprint(k.ServingCertificate())
		Expect(object.Status).To(And(holds(v1alpha1.SourceHandshake, sum), holds(v1alpha1.SourceSigningRequest, sum)))
		Expect(object.Status.Certificates).To(ContainElement(And(HaveField("Purpose", v1alpha1.PurposeKubeletClient),
			HaveField("SHA256", pki.Fingerprint(k.ClientCertificate())))))
		Expect(object.Status.Serving.NameMatch).To(Equal(v1alpha1.NameMatches))
		Expect(object.Status.Serving.Address).To(Equal(k.Addr().String()))
		Expect(object.Status.Serving.Message).To(BeEmpty())
	}, SpecTimeout(2*soon))

	It("forgets nothing when requests are deleted or the manager restarts, and writes nothing meanwhile", func(ctx SpecContext) {
		approver.Set("remember", approve)
		k := startKubelet(ctx, "remember", nil)
		Expect(k.WaitServing(ctx)).To(Succeed())
		Eventually(status(ctx, "remember")).Should(And(
			serves(v1alpha1.ServingModeClusterSigned, v1alpha1.ProbeCertificatePresented),
			answered(v1alpha1.KubeletRead), HaveField("Certificates", HaveLen(3))))
		before, err := get(ctx, "remember")
		Expect(err).NotTo(HaveOccurred())

		unchanged := func(g Gomega) {
			now, err := get(ctx, "remember")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(now.Status).To(Equal(before.Status))
			g.Expect(now.ResourceVersion).To(Equal(before.ResourceVersion))
		}
		deleteRequestsOf(ctx, "remember")
		expectNoChange(unchanged)

		stopManager()
		startManager()
		expectNoChange(unchanged)
	}, SpecTimeout(6*soon))

	It("tells where a certificate comes from", func(ctx SpecContext) {
		k := startKubelet(ctx, "origin", func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned })
		Eventually(status(ctx, "origin")).Should(serves(v1alpha1.ServingModeSelfSigned, v1alpha1.ProbeCertificatePresented))

		other, err := kubelet.NewCA("other-ca", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		Expect(err).NotTo(HaveOccurred())
		pair, err := other.Issue(kubelet.ServingLeaf("origin", []byte{192, 0, 2, 1}, time.Now().Add(-time.Minute), time.Now().Add(time.Hour)))
		Expect(err).NotTo(HaveOccurred())
		k.ServeCertificate(pair)
		Eventually(status(ctx, "origin")).Should(And(
			serves(v1alpha1.ServingModeExternallyManaged, v1alpha1.ProbeCertificatePresented),
			HaveField("Serving.NameMatch", v1alpha1.NameMismatches),
			HaveField("Serving.Message", ContainSubstring("unknown authority"))))
	}, SpecTimeout(2*soon))

	It("tells an unreachable kubelet from one that does not speak, and keeps the certificate of both", func(ctx SpecContext) {
		k := startKubelet(ctx, "broken", func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned })
		Eventually(status(ctx, "broken")).Should(serves(v1alpha1.ServingModeSelfSigned, v1alpha1.ProbeCertificatePresented))
		sum := pki.Fingerprint(k.ServingCertificate())
		for endpoint, outcome := range map[kubelet.Endpoint]v1alpha1.ProbeOutcome{
			kubelet.EndpointRefuses: v1alpha1.ProbeUnreachable,
			kubelet.EndpointGarbage: v1alpha1.ProbeHandshakeFailed,
		} {
			Expect(k.SetEndpoint(endpoint)).To(Succeed())
			Eventually(status(ctx, "broken")).Should(And(
				serves(v1alpha1.ServingModeUnknown, outcome), holds(v1alpha1.SourceHandshake, sum)))
		}
	}, SpecTimeout(2*soon))

	It("describes whatever certificate a node presents", func(ctx SpecContext) {
		hostile := absurd()
		pair := hostile.TLS()
		k := startKubelet(ctx, "hostile", nil)
		k.ServeCertificate(&pair)
		Eventually(status(ctx, "hostile")).Should(And(
			holds(v1alpha1.SourceHandshake, pki.Fingerprint(hostile.X509)), requested(v1alpha1.StagePending),
			answered(v1alpha1.KubeletUnverified)))

		// What was written is what is read back: nothing is written again.
		before, err := get(ctx, "hostile")
		Expect(err).NotTo(HaveOccurred())
		Expect(before.Status.Certificates[0].DNSNames).To(HaveLen(45), "as many as have 4 KiB")
		Expect(before.Status.Certificates[0].IPAddresses).To(HaveLen(256))
		expectNoChange(func(g Gomega) {
			now, err := get(ctx, "hostile")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(now.ResourceVersion).To(Equal(before.ResourceVersion))
		})
	}, SpecTimeout(4*soon))

	It("restores an object that was deleted or lost its owner", func(ctx SpecContext) {
		approver.Set("restore", approve)
		k := startKubelet(ctx, "restore", nil)
		Expect(k.WaitServing(ctx)).To(Succeed())
		whole := And(serves(v1alpha1.ServingModeClusterSigned, v1alpha1.ProbeCertificatePresented),
			requested(v1alpha1.StageIssued), answered(v1alpha1.KubeletRead), HaveField("Certificates", HaveLen(3)))
		Eventually(status(ctx, "restore")).Should(whole)

		object, err := get(ctx, "restore")
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Delete(ctx, object)).To(Succeed())
		Eventually(status(ctx, "restore")).WithTimeout(quick).Should(whole)

		Eventually(func() error {
			if object, err = get(ctx, "restore"); err != nil {
				return err
			}
			object.OwnerReferences = nil
			return c.Update(ctx, object)
		}).Should(Succeed())
		facts := object.Status
		Eventually(func() ([]metav1.OwnerReference, error) {
			object, err = get(ctx, "restore")
			return object.OwnerReferences, err
		}).WithTimeout(quick).Should(HaveLen(1))
		Expect(object.Status).To(Equal(facts))

		object.Status = v1alpha1.NodeCertificatesStatus{}
		Expect(c.Status().Update(ctx, object)).To(Succeed())
		Eventually(status(ctx, "restore")).WithTimeout(quick).Should(whole)
	}, SpecTimeout(5*soon))

	It("goes with its Node", func(ctx SpecContext) {
		k := startKubelet(ctx, "leave", nil)
		Eventually(status(ctx, "leave")).Should(serves(v1alpha1.ServingModeNone, v1alpha1.ProbeNoCertificate))
		k.Stop()
		Expect(c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "leave"}})).To(Succeed())
		Eventually(func() error {
			_, err := get(ctx, "leave")
			return err
		}).WithTimeout(2 * soon).Should(Satisfy(apierrors.IsNotFound))
	}, SpecTimeout(3*soon))

	It("starts afresh for a Node that takes the name of another", func(ctx SpecContext) {
		// Without the garbage collector, the object outlives its Node for certain.
		Expect(server.StopControllerManager()).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(server.StartControllerManager(ctx)).To(Succeed()) })

		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "again"}}
		Expect(c.Create(ctx, node)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(c.Delete(ctx, node)).To(Succeed()) })
		Eventually(status(ctx, "again")).Should(serves(v1alpha1.ServingModeUnknown, v1alpha1.ProbeNoAddress))
		former, err := get(ctx, "again")
		Expect(err).NotTo(HaveOccurred())
		former.Status.Certificates = []v1alpha1.CertificateStatus{
			certificateStatus(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, leafFrom(noon).X509),
		}
		Expect(c.Status().Update(ctx, former)).To(Succeed())
		request := requestAs(ctx, "again")
		Eventually(status(ctx, "again")).Should(HaveField("SigningRequests", HaveLen(1)))

		Expect(c.Delete(ctx, node)).To(Succeed())
		Eventually(time.Now).Should(BeTemporally(">", request.CreationTimestamp.Add(time.Second)))
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "again"}}
		Expect(c.Create(ctx, node)).To(Succeed())
		Eventually(func(g Gomega) {
			object, err := get(ctx, "again")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(object.OwnerReferences).To(ConsistOf(HaveField("UID", node.UID)))
			g.Expect(object.Status.Certificates).To(BeEmpty())
			g.Expect(object.Status.SigningRequests).To(BeEmpty(), "those are its predecessor's")
			g.Expect(object.UID).To(Equal(former.UID))
		}).WithTimeout(quick).Should(Succeed())
	}, SpecTimeout(2*soon))

	It("delays nobody because of nodes that do not answer", func(ctx SpecContext) {
		// More than twice as many as there are workers.
		_, workers := newPlaces(concurrency)
		holes := 2*workers + 4
		for i := range holes {
			mode := []kubelet.Endpoint{kubelet.EndpointBlackHole, kubelet.EndpointHangs}[i%2]
			startKubelet(ctx, fmt.Sprintf("hole-%d", i), func(o *kubelet.Options) {
				o.Endpoint, o.Labels = mode, map[string]string{silentLabel: "true"}
			})
		}
		for i := range holes {
			Eventually(status(ctx, fmt.Sprintf("hole-%d", i))).WithTimeout(2 * soon).Should(
				HaveField("Serving", gstruct.PointTo(HaveField("Message", HaveSuffix("timed out")))))
		}
		started := time.Now()
		for i := range 3 {
			startKubelet(ctx, fmt.Sprintf("fine-%d", i), func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned })
		}
		for i := range 3 {
			Eventually(status(ctx, fmt.Sprintf("fine-%d", i))).WithTimeout(quick).Should(
				serves(v1alpha1.ServingModeSelfSigned, v1alpha1.ProbeCertificatePresented))
		}
		GinkgoWriter.Printf("Three good nodes were bootstrapped and probed in %v besides %d that time out\n", time.Since(started), holes)
	}, SpecTimeout(10*soon))
})
