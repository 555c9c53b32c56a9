// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/golden"
)

// recorded is where the states of policies are kept for the tests of what judges them elsewhere.
var recorded = filepath.Join("..", "..", "config", "argocd", "testdata", "certificatepolicy")

var _ = Describe("CertificatePolicy, to kstatus,", func() {
	It("is InProgress until it is seen, and while the Cluster CA cannot be read", func(ctx SpecContext) {
		p := kstatusPolicy(ctx, "kstatus")
		expectState(ctx, p.Name, "unseen", status.InProgressStatus)
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		expectState(ctx, p.Name, "compliant", status.CurrentStatus)

		var bundle corev1.ConfigMap
		Expect(k8s.Get(ctx, rootCA, &bundle)).To(Succeed())
		Expect(k8s.Delete(ctx, &bundle)).To(Succeed())
		restore := func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(k8s.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: rootCA.Namespace, Name: rootCA.Name}, Data: bundle.Data,
			}))
		}
		DeferCleanup(func(ctx SpecContext) error { return restore(ctx) })
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionReady, "False TrustBundleUnavailable")
		got := current(ctx, Default, p.Name)
		Expect(conditions(got)).To(And(
			HaveKeyWithValue(v1alpha1.ConditionReconciling, "True TrustBundleUnavailable"),
			HaveKeyWithValue(v1alpha1.ConditionCertificatesCurrent, "True AsExpected")))
		expectState(ctx, p.Name, "reconciling", status.InProgressStatus)

		Expect(restore(ctx)).To(Succeed())
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionReady, "True Evaluated")
		Expect(conditions(current(ctx, Default, p.Name))).NotTo(HaveKey(v1alpha1.ConditionReconciling))
		expectState(ctx, p.Name, "compliant", status.CurrentStatus)
	})

	It("is Current whatever the verdict, so that none holds up a rollout", func(ctx SpecContext) {
		p := createPolicy(ctx, ignoreControlPlane(newPoolPolicy("verdicts")))
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "Unknown NoNodesSelected")
		expectState(ctx, p.Name, "no-nodes", status.CurrentStatus)

		now := time.Now()
		facts := observe(ctx, createNode(ctx, "verdicts", "verdicts-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		for _, turn := range []struct {
			state, want, finding string
			change               func()
		}{
			{"rotation-due", "True AsExpected", v1alpha1.ReasonRotationDue, func() {
				serves(facts, now.Add(-85*time.Hour), now.Add(15*time.Hour))
			}},
			{"overdue", "False RotationOverdue", "", func() { serves(facts, now.Add(-95*time.Hour), now.Add(5*time.Hour)) }},
			{"expired", "False Expired", "", func() { serves(facts, now.Add(-100*time.Hour), now.Add(-time.Hour)) }},
			{"unreachable", "Unknown ProbeFailed", "", func() {
				serving := facts.Status.Serving
				serving.Mode, serving.Outcome, serving.NameMatch = v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable, ""
				facts.Status.Certificates = nil
			}},
		} {
			turn.change()
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, turn.want)
			if turn.finding != "" {
				eventuallyFinding(ctx, p.Name, turn.finding, func(Gomega, *v1alpha1.Finding) {})
			}
			expectState(ctx, p.Name, turn.state, status.CurrentStatus)
		}
	})

	It("is InProgress from a change of its spec to the next verdict", func(ctx SpecContext) {
		p := kstatusPolicy(ctx, "changed")
		run := startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		run.stop()
		got := current(ctx, Default, p.Name)
		before := client.MergeFrom(got.DeepCopy())
		got.Spec.Expiry.WarnAtLifetimePercent = 70
		Expect(k8s.Patch(ctx, got, before)).To(Succeed())
		expectState(ctx, p.Name, "changed", status.InProgressStatus)
		startController()
		Eventually(func(g Gomega) {
			g.Expect(kstatusNow(ctx, g, p.Name)).To(Equal(status.CurrentStatus))
		}).Should(Succeed())
	})

	It("is Terminating while something holds up its deletion", func(ctx SpecContext) {
		p := kstatusPolicy(ctx, "deleted")
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		got := current(ctx, Default, p.Name)
		before := client.MergeFrom(got.DeepCopy())
		controllerutil.AddFinalizer(got, "test.notafter.dev/hold")
		Expect(k8s.Patch(ctx, got, before)).To(Succeed())
		Expect(k8s.Delete(ctx, got)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			got := current(ctx, Default, p.Name)
			before := client.MergeFrom(got.DeepCopy())
			got.Finalizers = nil
			Expect(k8s.Patch(ctx, got, before)).To(Succeed())
		})
		Eventually(func(g Gomega) { // a deletion counts as another generation
			got := current(ctx, g, p.Name)
			g.Expect(got.Status.ObservedGeneration).To(Equal(got.Generation))
		}).Should(Succeed())
		expectState(ctx, p.Name, "deleted", status.TerminatingStatus)
	})

	It("is Failed when its spec, stored before a rule existed, cannot be evaluated", func(ctx SpecContext) {
		restore := withoutSelectorRules(ctx)
		p := newPoolPolicy("stalled")
		p.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{"not a label key": "x"}
		Eventually(func() error { return k8s.Create(ctx, p) }).Should(Succeed())
		DeferCleanup(func(ctx SpecContext) error { return k8s.Delete(ctx, p) })
		restore(ctx)
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionStalled, "True InvalidSpec")
		got := current(ctx, Default, p.Name)
		Expect(conditions(got)).To(And(
			HaveKeyWithValue(v1alpha1.ConditionReady, "False InvalidSpec"),
			HaveKeyWithValue(v1alpha1.ConditionCompliant, "Unknown NotEvaluated")))
		expectState(ctx, p.Name, "stalled", status.FailedStatus)
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(ConsistOf(
				And(HaveField("Reason", v1alpha1.ReasonInvalidSpec), HaveField("Note", ContainSubstring("spec.nodes.selector")))))
		}).Should(Succeed())

		before := client.MergeFrom(got.DeepCopy())
		got.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{poolLabel: "stalled"}
		Expect(k8s.Patch(ctx, got, before)).To(Succeed())
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionReady, "True Evaluated")
		Expect(conditions(current(ctx, Default, p.Name))).NotTo(HaveKey(v1alpha1.ConditionStalled))
	})
})

// kstatusPolicy creates a policy for a node with which all is well.
func kstatusPolicy(ctx context.Context, pool string) *v1alpha1.CertificatePolicy {
	GinkgoHelper()
	now := time.Now()
	observe(ctx, createNode(ctx, pool, pool+"-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
	return createPolicy(ctx, ignoreControlPlane(newPoolPolicy(pool)))
}

// expectState expects of kstatus what it makes of the policy in the API server, and of the policy that it is as it was
// recorded.
func expectState(ctx context.Context, name, state string, want status.Status) {
	GinkgoHelper()
	object := stored(ctx, Default, name)
	Expect(kstatusOfStored(Default, object)).To(Equal(want), state)
	object.SetName("cluster")
	Expect(golden.Compare(filepath.Join(recorded, state+".yaml"), object)).To(Succeed())
}

// stored is the policy as the API server has it.
func stored(ctx context.Context, g Gomega, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("CertificatePolicy"))
	g.Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, object)).To(Succeed())
	return object
}

func kstatusOfStored(g Gomega, object *unstructured.Unstructured) status.Status {
	result, err := status.Compute(object)
	g.Expect(err).NotTo(HaveOccurred())
	return result.Status
}

// kstatusNow is what kstatus makes of the policy in the API server.
func kstatusNow(ctx context.Context, g Gomega, name string) status.Status {
	return kstatusOfStored(g, stored(ctx, g, name))
}

// withoutSelectorRules makes the API server accept any label selector, as if no rule existed yet, and returns how to get
// the rules back.
func withoutSelectorRules(ctx context.Context) (restore func(context.Context)) {
	GinkgoHelper()
	key := client.ObjectKey{Name: "certificatepolicies.notafter.dev"}
	var crd apiextensionsv1.CustomResourceDefinition
	Expect(k8s.Get(ctx, key, &crd)).To(Succeed())
	original := crd.DeepCopy()
	schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	spec := schema.Properties["spec"]
	nodes := spec.Properties["nodes"]
	selector := nodes.Properties["selector"]
	labels := selector.Properties["matchLabels"]
	labels.XValidations = nil
	selector.Properties["matchLabels"] = labels
	Expect(k8s.Patch(ctx, &crd, client.MergeFrom(original))).To(Succeed())
	return func(ctx context.Context) {
		GinkgoHelper()
		Expect(k8s.Get(ctx, key, &crd)).To(Succeed())
		before := client.MergeFrom(crd.DeepCopy())
		crd.Spec = original.Spec
		Expect(k8s.Patch(ctx, &crd, before)).To(Succeed())
	}
}
