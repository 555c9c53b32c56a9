// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// promptly is what a user is promised: a finding appears this soon after what causes it.
	promptly = time.Second
	// idleTime is how long nothing happens, while the kubelets are probed again and again.
	idleTime = 2 * time.Minute
)

func startKubelets(ctx context.Context, pool string, n int) []string {
	GinkgoHelper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", pool, i)
		_, err := fleet.Start(ctx, kubelet.Options{
			Name: names[i], Heartbeat: kubelet.NoHeartbeat,
			Labels: kubelet.AKSLabels(pool, "AKSUbuntu-2204gen2containerd-202501.12.0"),
		})
		Expect(err).NotTo(HaveOccurred())
	}
	return names
}

// compliance is the status and reason of the Compliant condition.
func compliance(name string) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		policy := &v1alpha1.CertificatePolicy{}
		if err := c.Get(ctx, client.ObjectKey{Name: name}, policy); err != nil {
			return "", err
		}
		condition := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionCompliant)
		if condition == nil {
			return "", nil
		}
		return string(condition.Status) + " " + condition.Reason, nil
	}
}

// denialToReport denies the request of a new pool's only node, and returns how long after that the policy tells. It waits
// until the next request was approved, and removes the pool: it would disturb who looks for peace.
func denialToReport(ctx context.Context, pool string) time.Duration {
	GinkgoHelper()
	node := pool + "-0"
	approver.Set(node, kubelet.Verdict{Decision: kubelet.Ignore})
	startKubelets(ctx, pool, 1)
	defer fleet.Kubelet(node).Stop()
	policy := operator.PolicyFor(pool)
	Expect(c.Create(ctx, policy)).To(Succeed())
	defer func() { Expect(c.Delete(context.WithoutCancel(ctx), policy)).To(Succeed()) }()
	Eventually(compliance(pool)).WithContext(ctx).Should(Equal("Unknown " + v1alpha1.ReasonNotObserved))

	By("waiting for a second without a write, as a policy's status is written once a second at the most")
	version := func() (string, error) {
		now := &v1alpha1.CertificatePolicy{}
		err := c.Get(ctx, client.ObjectKey{Name: pool}, now)
		return now.ResourceVersion, err
	}
	Eventually(func(g Gomega) {
		before, err := version()
		g.Expect(err).NotTo(HaveOccurred())
		g.Consistently(version, 1500*time.Millisecond).Should(Equal(before))
	}).Should(Succeed())

	By("denying the request")
	clientset, err := kubernetes.NewForConfig(server.Config())
	Expect(err).NotTo(HaveOccurred())
	requests, err := clientset.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{
		FieldSelector: "spec.signerName=" + certificatesv1.KubeletServingSignerName,
	})
	Expect(err).NotTo(HaveOccurred())
	defer requests.Stop()
	approver.Set(node, kubelet.Verdict{Decision: kubelet.Deny, Reason: "NoReason"})
	denied := make(chan time.Time, 1)
	go func() {
		for event := range requests.ResultChan() {
			request, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if ok && csr.NodeName(request) == node && len(request.Status.Conditions) > 0 {
				denied <- time.Now()
				return
			}
		}
	}()
	Eventually(compliance(pool)).WithContext(ctx).Should(Equal("False " + v1alpha1.ReasonSigningRequestDenied))
	reported := time.Now()
	var at time.Time
	Eventually(denied).Should(Receive(&at))

	By("approving the next request")
	approver.Set(node, kubelet.Verdict{Decision: kubelet.Approve})
	Eventually(compliance(pool)).WithContext(ctx).Should(Equal("True " + v1alpha1.ReasonAsExpected))
	return reported.Sub(at)
}

var _ = Describe("The operator", func() {
	It("reports a denied request within a second of the denial, and its recovery", func(ctx SpecContext) {
		// A busy machine may spoil a measurement. An operator that is not prompt spoils them all.
		round := 0
		Eventually(func(g Gomega) {
			round++
			g.Expect(denialToReport(ctx, fmt.Sprintf("denied-%d", round))).To(BeNumerically("<", promptly))
		}).WithTimeout(4 * time.Minute).Should(Succeed())
	}, SpecTimeout(6*time.Minute))

	It("writes nothing while nothing changes, and goes on probing", func(ctx SpecContext) {
		const pool = "idle"
		names := startKubelets(ctx, pool, 5)
		Expect(c.Create(ctx, operator.PolicyFor(pool))).To(Succeed())
		Eventually(compliance(pool)).WithContext(ctx).Should(Equal("True " + v1alpha1.ReasonAsExpected))

		By("waiting until the last write of the start has been counted")
		writes := func() map[string]float64 { return writeRequests(ctx) }
		Eventually(func(g Gomega) {
			before := writes()
			g.Consistently(writes, 5*time.Second, time.Second).Should(Equal(before))
		}).WithTimeout(2 * time.Minute).Should(Succeed())

		By("looking on")
		before, probes := writes(), probeCount()
		Consistently(writes, idleTime, 10*time.Second).Should(Equal(before))
		sweeps := (probeCount() - probes) / float64(len(names))
		Expect(sweeps).To(BeNumerically(">=", 0.5*idleTime.Seconds()/operator.ProbeInterval.Seconds()))
	}, SpecTimeout(6*time.Minute))
})

// writeRequests are the API server's own counts of requests that change something, per resource. Leases are left out: the
// controller manager renews its own all the time.
func writeRequests(ctx context.Context) map[string]float64 {
	GinkgoHelper()
	clientset, err := kubernetes.NewForConfig(server.Config())
	Expect(err).NotTo(HaveOccurred())
	body, err := clientset.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	Expect(err).NotTo(HaveOccurred())
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	Expect(families).To(HaveKey("apiserver_request_total"))
	reading := sets.New("GET", "LIST", "WATCH", "CONNECT")
	counts := map[string]float64{}
	for _, metric := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		if !reading.Has(labels["verb"]) && labels["resource"] != "leases" {
			counts[labels["verb"]+" "+labels["resource"]+"."+labels["group"]] += metric.GetCounter().GetValue()
		}
	}
	Expect(maps.Keys(counts)).NotTo(BeEmpty())
	return counts
}

// probeCount is how many handshakes the operator has made.
func probeCount() float64 {
	GinkgoHelper()
	families, err := ctrlmetrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	var count float64
	for _, family := range families {
		if family.GetName() == "notafter_probes_total" {
			for _, metric := range family.GetMetric() {
				count += metric.GetCounter().GetValue()
			}
		}
	}
	return count
}
