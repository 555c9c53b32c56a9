// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// controlPlane is what the specs say that is known of the control plane. At first, all is well.
type controlPlane struct {
	mu      sync.Mutex
	known   *policy.ControlPlane
	denied  []policy.Denial
	changed enqueue.Signal
	settled chan struct{}
}

var _ ControlPlane = &controlPlane{}

func newControlPlane() *controlPlane {
	settled := make(chan struct{})
	close(settled)
	return &controlPlane{known: healthyControlPlane(), changed: enqueue.NewSignal(), settled: settled}
}

func (c *controlPlane) Snapshot() (*policy.ControlPlane, []policy.Denial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known, c.denied
}

func (c *controlPlane) Changed() <-chan event.GenericEvent { return c.changed }

func (c *controlPlane) Settled() <-chan struct{} { return c.settled }

// set replaces what is known.
func (c *controlPlane) set(known *policy.ControlPlane, denied ...policy.Denial) {
	c.mu.Lock()
	c.known, c.denied = known, denied
	c.mu.Unlock()
	c.changed.Send()
}

const apiServerAddress = "127.0.0.1:6443"

// planeMade is when the control plane's certificates were made: every run of the controller sees the same ones.
var planeMade = time.Now().Add(-time.Hour).Truncate(time.Second)

func healthyControlPlane() *policy.ControlPlane {
	certificate := func(purpose v1alpha1.CertificatePurpose, source, fingerprint string, life time.Duration) policy.Certificate {
		return policy.Certificate{
			Purpose: purpose, Source: source, Subject: "CN=" + fingerprint, Issuer: "CN=ca", SerialNumber: "1f",
			SHA256: strings.Repeat(fingerprint, 64), NotBefore: planeMade, NotAfter: planeMade.Add(life),
		}
	}
	const year = 365 * 24 * time.Hour
	return &policy.ControlPlane{
		Certificates: []policy.Certificate{
			certificate(v1alpha1.PurposeClusterCA, rootCA.String(), "a", 10*year),
			certificate(v1alpha1.PurposeAPIServer, apiServerAddress, "b", year),
		},
		Endpoints: []policy.Endpoint{{
			Address: apiServerAddress, Outcome: v1alpha1.ProbeCertificatePresented, Verified: true,
		}},
		Bundles: []policy.Bundle{{
			Kind: v1alpha1.SubjectAPIService, Name: "v1beta1.metrics.k8s.io", Purpose: v1alpha1.PurposeAPIServiceCA,
			Certificates: []policy.Certificate{certificate(v1alpha1.PurposeAPIServiceCA, "v1beta1.metrics.k8s.io", "c", year)},
		}},
	}
}

// ignoreControlPlane makes a policy be about nodes only.
func ignoreControlPlane(p *v1alpha1.CertificatePolicy) *v1alpha1.CertificatePolicy {
	const ignored = v1alpha1.WatchIgnored
	p.Spec.ControlPlane = v1alpha1.ControlPlaneSpec{
		ClusterCA: ignored, APIServer: ignored, ClientCA: ignored, Aggregation: ignored,
	}
	p.Spec.TrustBundles = v1alpha1.TrustBundlesSpec{APIServices: ignored, Webhooks: ignored, ConversionWebhooks: ignored}
	return p
}

var _ = Describe("the control plane and the trust bundles", func() {
	It("are reported in status, Events and metrics, and recover", func(ctx SpecContext) {
		now := time.Now()
		observe(ctx, createNode(ctx, "plane", "plane-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		p := createPolicy(ctx, newPoolPolicy("plane"))
		run := startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		got := current(ctx, Default, p.Name)
		Expect(conditions(got)).To(And(
			HaveKeyWithValue(v1alpha1.ConditionControlPlaneHealthy, "True AsExpected"),
			HaveKeyWithValue(v1alpha1.ConditionTrustBundlesHealthy, "True AsExpected")))
		Expect(got.Status.Certificates.Total).To(HaveValue(BeEquivalentTo(3)))
		server := run.controlPlane.known.Certificates[1]
		Expect(got.Status.ControlPlane).To(HaveLen(2))
		Expect(got.Status.ControlPlane[1]).To(Equal(v1alpha1.ControlPlaneCertificate{
			Purpose: v1alpha1.PurposeAPIServer, Source: apiServerAddress, Subject: "CN=b", Issuer: "CN=ca", SerialNumber: "1f",
			SHA256:    strings.Repeat("b", 64),
			NotBefore: metav1.NewTime(server.NotBefore.Local()), NotAfter: metav1.NewTime(server.NotAfter.Local()),
		}))

		By("an API server whose certificate ran out, an aggregated API that is not available, and a source that is forbidden")
		broken := healthyControlPlane()
		broken.Certificates[1].NotAfter = now.Add(-time.Minute)
		broken.Bundles[0].Unavailable = "FailedDiscoveryCheck: x509: certificate signed by unknown authority"
		run.controlPlane.set(broken, policy.Denial{
			Permission: "list configmaps in kube-system", Source: "the client CA", Message: "forbidden",
			Concerns: []string{v1alpha1.ConditionControlPlaneHealthy}, Purposes: []v1alpha1.CertificatePurpose{v1alpha1.PurposeClientCA},
		})
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False Expired")
		got = current(ctx, Default, p.Name)
		Expect(conditions(got)).To(And(
			HaveKeyWithValue(v1alpha1.ConditionReady, "True Evaluated"),
			HaveKeyWithValue(v1alpha1.ConditionCertificatesCurrent, "False Expired"),
			HaveKeyWithValue(v1alpha1.ConditionControlPlaneHealthy, "False Expired"),
			HaveKeyWithValue(v1alpha1.ConditionTrustBundlesHealthy, "False APIServiceUnavailable"),
			HaveKeyWithValue(v1alpha1.ConditionServingRotationEnabled, "True AsExpected")))
		Expect(findingOf(got, v1alpha1.ReasonAccessDenied)).NotTo(BeNil())
		Expect(got.Status.Nodes.Violating).To(HaveValue(BeEquivalentTo(0)))
		related := func(kind, name string) OmegaMatcher {
			return HaveField("Related", HaveValue(And(HaveField("Kind", kind), HaveField("Name", name))))
		}
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(And(
				ContainElement(And(HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", v1alpha1.ReasonExpired),
					related("APIServer", apiServerAddress))),
				ContainElement(And(HaveField("Reason", v1alpha1.ReasonAPIServiceUnavailable),
					related("APIService", "v1beta1.metrics.k8s.io")))))
		}).Should(Succeed())
		Expect(testutil.CollectAndCount(
			metrics.NewControlPlane(run.controlPlane), "notafter_control_plane_certificate_not_after_timestamp_seconds",
		)).To(Equal(2))

		By("the repair")
		run.controlPlane.set(healthyControlPlane())
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(ContainElement(And(
				HaveField("Reason", v1alpha1.ReasonRecovered), related("APIServer", apiServerAddress),
				HaveField("Note", HavePrefix("Expired (APIServer) of APIServer "+apiServerAddress+" is over")))))
		}).Should(Succeed())
	})

	It("are unknown until they were observed, and nothing to a policy that ignores them", func(ctx SpecContext) {
		now := time.Now()
		observe(ctx, createNode(ctx, "unseen", "unseen-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		watching := createPolicy(ctx, newPoolPolicy("unseen"))
		ignoring := newPoolPolicy("unseen")
		ignoring.Name = "unseen-ignoring"
		createPolicy(ctx, ignoreControlPlane(ignoring))
		run := startController()
		run.controlPlane.set(nil)
		eventuallyCondition(ctx, watching.Name, v1alpha1.ConditionCompliant, "Unknown NotObserved")
		Expect(conditions(current(ctx, Default, watching.Name))).To(And(
			HaveKeyWithValue(v1alpha1.ConditionControlPlaneHealthy, "Unknown NotObserved"),
			HaveKeyWithValue(v1alpha1.ConditionTrustBundlesHealthy, "Unknown NotObserved"),
			HaveKeyWithValue(v1alpha1.ConditionServingRotationEnabled, "True AsExpected")))
		eventuallyCondition(ctx, ignoring.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		got := current(ctx, Default, ignoring.Name)
		Expect(conditions(got)).NotTo(Or(
			HaveKey(v1alpha1.ConditionControlPlaneHealthy), HaveKey(v1alpha1.ConditionTrustBundlesHealthy)))
		Expect(got.Status.ControlPlane).To(BeEmpty())
		Expect(got.Status.Certificates.Total).To(HaveValue(BeEquivalentTo(1)))
	})
})
