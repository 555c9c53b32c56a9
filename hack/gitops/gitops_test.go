// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package gitops

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/operator"
)

// The names in docs/gitops.md.
const (
	install   = "notafter"
	policies  = "notafter-policies"
	verdict   = "notafter-verdict"
	fleetRepo = "flux-system"
	policy    = "cluster"
	// policyFile is where the policy is in the admin's repository.
	policyFile = "notafter/policies/cluster.yaml"
)

const (
	// promptly is how soon a broken policy is reported as failed: much sooner than the timeout in the guide, which is minutes.
	promptly = time.Minute
	// fluxInterval is how often Flux compares the policies in Git with those in the cluster here.
	fluxInterval = 2 * time.Second

	succeeded     = "True ReconciliationSucceeded: Applied revision: "
	refused       = "False ReconciliationFailed: "
	unhealthy     = "False HealthCheckFailed: "
	kustomizeUser = "kustomize-controller"
)

// What the policy in Git says. There is no endpoint of the API server here to look at.
const (
	policyHead = `apiVersion: notafter.dev/v1alpha1
kind: CertificatePolicy
metadata:
  name: cluster
spec:
  controlPlane: {apiServer: Ignored}
`
	strict   = policyHead + "  expiry: {warnAtLifetimePercent: 75}\n"
	lenient  = strict + "  nodes: {servingCertificate: {rotation: Ignored}, clientCertificate: {rotation: Ignored}}\n"
	tooLate  = policyHead + "  expiry: {warnAtLifetimePercent: 95}\n"
	stalling = policyHead + "  nodes: {selector: {matchLabels: {not a label key: x}}}\n"
)

var _ = Describe("Flux", Ordered, func() {
	var manager *operator.Operator
	var managerDir string

	BeforeAll(func() {
		managerDir = GinkgoT().TempDir()
		DeferCleanup(func() error {
			if manager == nil {
				return nil
			}
			GinkgoWriter.Printf("The end of the manager's log:\n%s\n", manager.LogTail())
			return manager.Stop()
		})
	})

	It("delivers the operator, and says that a policy is ready once the operator has seen it", func(ctx SpecContext) {
		fleet.write(policyFile, strict)
		fleet.write("notafter/alerts/alerts.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: alerts, namespace: default}\n")
		fleet.commit(ctx, "A policy")
		git := documented("GitRepository", install)
		set(git, release.url, "url")
		set(git, map[string]any{"branch": "main"}, "ref")
		Expect(k8s.Create(ctx, git)).To(Succeed())
		own := documented("GitRepository", install)
		own.SetName(fleetRepo)
		own.Object["spec"] = map[string]any{"interval": "1h", "url": fleet.url, "ref": map[string]any{"branch": "main"}}
		Expect(k8s.Create(ctx, own)).To(Succeed())

		deploy := documented("Kustomization", install)
		set(deploy, []any{map[string]any{
			"target": map[string]any{"kind": "Deployment"},
			"patch":  "- {op: replace, path: /spec/replicas, value: 0}",
		}}, "patches")
		Expect(k8s.Create(ctx, deploy)).To(Succeed())
		deliver := documented("Kustomization", policies)
		set(deliver, fluxInterval.String(), "interval")
		set(deliver, fluxInterval.String(), "retryInterval")
		Expect(k8s.Create(ctx, deliver)).To(Succeed())

		Eventually(ready(ctx, install)).Should(HavePrefix(succeeded))
		By("the policy being there, but nobody having seen it")
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKey{Name: policy}, &v1alpha1.CertificatePolicy{}) }).Should(Succeed())
		Consistently(ready(ctx, policies), 3*fluxInterval).ShouldNot(HavePrefix("True"))

		By("the operator running")
		var err error
		manager, err = operator.Start(ctx, server, programs["MANAGER"], managerDir)
		Expect(err).NotTo(HaveOccurred())
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))
	}, SpecTimeout(3*soon))

	It("is not held up by a policy that is violated", func(ctx SpecContext) {
		eventuallyCompliant(ctx, "False "+v1alpha1.ReasonServingCertificateSelfSigned)
		fleet.write(policyFile, strings.Replace(strict, "75", "70", 1))
		fleet.push(ctx, fleetRepo, "Warn earlier")
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))
		Expect(compliant(ctx, Default)).To(HavePrefix("False"))
		Expect(current(ctx, Default).Spec.Expiry.WarnAtLifetimePercent).To(BeEquivalentTo(70))
	}, SpecTimeout(2*soon))

	It("tells the verdict where it is asked for it", func(ctx SpecContext) {
		tell := documented("Kustomization", verdict)
		set(tell, fluxInterval.String(), "interval")
		set(tell, fluxInterval.String(), "retryInterval")
		Expect(k8s.Create(ctx, tell)).To(Succeed())
		Eventually(ready(ctx, verdict)).Should(And(HavePrefix(unhealthy), ContainSubstring("CertificatePolicy/"+policy)))

		By("asking less of the nodes")
		fleet.write(policyFile, lenient)
		fleet.push(ctx, fleetRepo, "Ask less of the nodes")
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))
		eventuallyCompliant(ctx, "True "+v1alpha1.ReasonAsExpected)
		Eventually(ready(ctx, verdict)).Should(HavePrefix(succeeded))
		Expect(k8s.Delete(ctx, tell)).To(Succeed())
	}, SpecTimeout(3*soon))

	It("reports a policy that the schema refuses, promptly", func(ctx SpecContext) {
		before := current(ctx, Default)
		fleet.write(policyFile, tooLate)
		took := expectFailure(ctx, And(HavePrefix(refused),
			ContainSubstring("expiry.warnAtLifetimePercent must be less than expiry.overdueAtLifetimePercent")))
		AddReportEntry("a policy that the schema refuses was reported after " + took.String())
		Expect(current(ctx, Default).Spec).To(Equal(before.Spec), "what worked stays in force")

		fleet.write(policyFile, lenient)
		fleet.push(ctx, fleetRepo, "Correct it")
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))
	}, SpecTimeout(2*soon))

	It("reports a policy that the schema lets pass and that cannot be evaluated, promptly", func(ctx SpecContext) {
		patchSchema(ctx, `[{"op": "remove", "path": "`+ruleAboutLabels+`"},
			{"op": "add", "path": "`+leaveAlone+`", "value": "disabled"}]`)
		Eventually(acceptsAnySelector).WithContext(ctx).Should(BeTrue())
		fleet.write(policyFile, stalling)
		took := expectFailure(ctx, And(HavePrefix(unhealthy), ContainSubstring("CertificatePolicy/"+policy), ContainSubstring("Failed")))
		AddReportEntry("a policy that cannot be evaluated was reported after " + took.String())
		Expect(meta.IsStatusConditionTrue(current(ctx, Default).Status.Conditions, v1alpha1.ConditionStalled)).To(BeTrue())

		fleet.write(policyFile, lenient)
		fleet.push(ctx, fleetRepo, "Correct it")
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))

		By("correcting the schema, which somebody had changed in the cluster alone")
		patchSchema(ctx, `[{"op": "remove", "path": "`+leaveAlone+`"}]`)
		reconcile(ctx, "Kustomization", install)
		Eventually(ready(ctx, install)).Should(HavePrefix(succeeded))
		Eventually(acceptsAnySelector).WithContext(ctx).Should(BeFalse())
	}, SpecTimeout(2*soon))

	It("corrects what somebody changed in the cluster", func(ctx SpecContext) {
		by := client.FieldOwner("kubectl-edit")
		edited := current(ctx, Default)
		before := client.MergeFrom(edited.DeepCopy())
		edited.Spec.Expiry.WarnAtLifetimePercent = 60                              // Git says 75
		edited.Spec.Nodes.Probe.Interval = &metav1.Duration{Duration: time.Minute} // Git says nothing
		Expect(k8s.Patch(ctx, edited, before, by)).To(Succeed())
		Eventually(func(g Gomega) {
			spec := current(ctx, g).Spec
			g.Expect(spec.Expiry.WarnAtLifetimePercent).To(BeEquivalentTo(75))
			g.Expect(spec.Nodes.Probe.Interval.Duration).To(Equal(v1alpha1.DefaultProbeInterval))
		}).Should(Succeed())
	}, SpecTimeout(soon))

	It("and the operator leave each other's fields alone", func(ctx SpecContext) {
		eventuallyCompliant(ctx, "True "+v1alpha1.ReasonAsExpected)
		By("nobody writing while nothing changes")
		still := current(ctx, Default)
		seen := reconciliations(ctx, policies)
		Eventually(func(g Gomega) {
			g.Expect(current(ctx, g).ResourceVersion).To(Equal(still.ResourceVersion))
			g.Expect(reconciliations(ctx, policies)).To(BeNumerically(">=", seen+4))
		}).Should(Succeed())
		Expect(current(ctx, Default).ManagedFields).To(Equal(still.ManagedFields))

		By("Flux writing nothing after the operator wrote the status")
		Expect(k8s.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "another"}})).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(current(ctx, g).Status.Nodes.Selected).To(HaveValue(BeEquivalentTo(2)))
		}).Should(Succeed())
		seen = reconciliations(ctx, policies)
		Eventually(func() int64 { return reconciliations(ctx, policies) }).Should(BeNumerically(">=", seen+2))
		got := current(ctx, Default)
		Expect(got.Generation).To(Equal(still.Generation))
		Expect(fieldsOf(got, kustomizeUser)).To(Equal(fieldsOf(still, kustomizeUser)))
		Expect(fieldsOf(got, kustomizeUser)).To(HaveLen(1))
	}, SpecTimeout(2*soon))

	It("finds the installation as it left it", func(ctx SpecContext) {
		before := versions(ctx, install)
		Expect(len(before)).To(BeNumerically(">", 15))
		for range 2 {
			reconcile(ctx, "Kustomization", install)
			Eventually(ready(ctx, install)).Should(HavePrefix(succeeded))
		}
		Expect(versions(ctx, install)).To(Equal(before))
	}, SpecTimeout(2*soon))

	It("removes a policy that is gone from Git", func(ctx SpecContext) {
		fleet.git(ctx, "rm", "--quiet", policyFile)
		fleet.write("notafter/policies/other.yaml", strings.Replace(lenient, "name: cluster", "name: other", 1))
		fleet.push(ctx, fleetRepo, "Another policy")
		Eventually(ready(ctx, policies)).Should(HavePrefix(succeeded))
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "other"}, &v1alpha1.CertificatePolicy{})).To(Succeed())
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKey{Name: policy}, &v1alpha1.CertificatePolicy{}) }).
			Should(Satisfy(apierrors.IsNotFound))
	}, SpecTimeout(2*soon))
})

// current reads the policy.
func current(ctx context.Context, g Gomega) *v1alpha1.CertificatePolicy {
	p := &v1alpha1.CertificatePolicy{}
	g.Expect(k8s.Get(ctx, client.ObjectKey{Name: policy}, p)).To(Succeed())
	return p
}

// compliant is the status and reason of the policy's Compliant condition.
func compliant(ctx context.Context, g Gomega) string {
	p := current(ctx, g)
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionCompliant)
	if c == nil || c.ObservedGeneration != p.Generation {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func eventuallyCompliant(ctx context.Context, want string) {
	GinkgoHelper()
	Eventually(func(g Gomega) { g.Expect(compliant(ctx, g)).To(Equal(want)) }).Should(Succeed())
}

// expectFailure pushes what was written, expects that Flux reports it as failed, promptly, and returns how long that took.
func expectFailure(ctx context.Context, matcher OmegaMatcher) time.Duration {
	GinkgoHelper()
	began := time.Now()
	fleet.push(ctx, fleetRepo, "Break it")
	Eventually(ready(ctx, policies)).Should(matcher)
	took := time.Since(began).Round(time.Millisecond)
	Expect(took).To(BeNumerically("<", promptly))
	return took
}

// The parts of the CRD that somebody changes by hand: the rule about label keys, and the annotation that has Flux leave the CRD
// alone, for any push of policies reconciles what they depend on.
const (
	ruleAboutLabels = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/nodes/properties/selector/properties" +
		"/matchLabels/x-kubernetes-validations"
	leaveAlone = "/metadata/annotations/kustomize.toolkit.fluxcd.io~1reconcile"
)

// patchSchema changes the CRD in the cluster alone.
func patchSchema(ctx context.Context, patch string) {
	GinkgoHelper()
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("certificatepolicies.notafter.dev")
	Expect(k8s.Patch(ctx, crd, client.RawPatch(types.JSONPatchType, []byte(patch)))).To(Succeed())
}

// acceptsAnySelector tells whether the API server accepts a selector that is none.
func acceptsAnySelector(ctx context.Context) bool {
	p := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: "tried"}}
	p.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{"not a label key": "x"}
	return k8s.Create(ctx, p, client.DryRunAll) == nil
}

// fieldsOf are the entries of a field manager, with the time of its last change.
func fieldsOf(p *v1alpha1.CertificatePolicy, fieldManager string) []metav1.ManagedFieldsEntry {
	var entries []metav1.ManagedFieldsEntry
	for _, entry := range p.ManagedFields {
		if entry.Manager == fieldManager {
			entries = append(entries, entry)
		}
	}
	return entries
}

// versions are the resource versions of all that a Kustomization applied.
func versions(ctx context.Context, name string) map[string]string {
	GinkgoHelper()
	object, err := fluxObject(ctx, "Kustomization", name)
	Expect(err).NotTo(HaveOccurred())
	entries, _, _ := unstructured.NestedSlice(object.Object, "status", "inventory", "entries")
	found := map[string]string{}
	for _, item := range entries {
		entry := item.(map[string]any)
		id := entry["id"].(string) // namespace_name_group_kind
		parts := strings.Split(id, "_")
		Expect(parts).To(HaveLen(4), id)
		applied := &unstructured.Unstructured{}
		applied.SetGroupVersionKind(schema.GroupVersionKind{Group: parts[2], Version: entry["v"].(string), Kind: parts[3]})
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: parts[0], Name: strings.ReplaceAll(parts[1], "__", ":")}, applied)).To(Succeed(), id)
		found[id] = applied.GetResourceVersion()
	}
	return found
}
