// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/notafter/notafter/api/v1alpha1"
)

func object(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	u.SetName(name)
	return u
}

// policy returns a CertificatePolicy whose spec is that YAML.
func policy(name, spec string) *unstructured.Unstructured {
	u := object("CertificatePolicy", name)
	parsed := map[string]any{}
	Expect(yaml.Unmarshal([]byte(spec), &parsed)).To(Succeed())
	u.Object["spec"] = parsed
	return u
}

// refusals returns what the API server said is wrong, as "field: message".
func refusals(err error) []string {
	GinkgoHelper()
	Expect(apierrors.IsInvalid(err)).To(BeTrue(), "want a validation error, got %v", err)
	var status apierrors.APIStatus
	Expect(errors.As(err, &status)).To(BeTrue())
	var all []string
	for _, cause := range status.Status().Details.Causes {
		all = append(all, cause.Field+": "+cause.Message)
	}
	return all
}

// checkFields checks every case of the fields, each as one test. The base has all fields and is valid; write sends a changed
// one to the API server without storing it.
func checkFields(fields []field, base map[string]any, write func(SpecContext, map[string]any) error) {
	for _, f := range fields {
		prepared := func(value any) map[string]any {
			GinkgoHelper()
			changed := base
			for _, path := range slices.Sorted(maps.Keys(f.with)) {
				var err error
				changed, err = set(changed, path, f.with[path])
				Expect(err).NotTo(HaveOccurred())
			}
			changed, err := set(changed, f.path, value)
			Expect(err).NotTo(HaveOccurred())
			return changed
		}
		if len(f.accepted) > 0 {
			It("accepts the edges of "+f.path, func(ctx SpecContext) {
				for _, value := range f.accepted {
					Expect(write(ctx, prepared(value))).To(Succeed(), "value %v", value)
				}
			})
		}
		for _, constraint := range slices.Sorted(maps.Keys(f.refused)) {
			It(fmt.Sprintf("refuses a violation of %s: %s", f.path, constraint), func(ctx SpecContext) {
				said := refusals(write(ctx, prepared(f.refused[constraint])))
				message := constraint
				if builtInMessage, ok := builtIn[constraint]; ok {
					message = builtInMessage
				}
				Expect(said).To(ContainElement(And(HavePrefix(f.path+": "), ContainSubstring(message))),
					"value %v: no message names the field and the constraint", f.refused[constraint])
			})
		}
	}
}

var _ = Describe("CertificatePolicy spec", func() {
	checkFields(specFields, map[string]any{"spec": validSpec}, func(ctx SpecContext, changed map[string]any) error {
		u := object("CertificatePolicy", "fields")
		u.Object["spec"] = changed["spec"]
		return k8sClient.Create(ctx, u, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
	})

	DescribeTable("refuses what the defaults make wrong",
		func(ctx SpecContext, spec string, want ...string) {
			said := strings.Join(refusals(k8sClient.Create(ctx, policy("partial", spec), client.DryRunAll)), "\n")
			for _, part := range want {
				Expect(said).To(ContainSubstring(part))
			}
		},
		Entry("warns at the default of overdue", `{expiry: {warnAtLifetimePercent: 90}}`, "spec.expiry", warnMessage),
		Entry("warns after the default of overdue", `{expiry: {warnAtLifetimePercent: 95}}`, "spec.expiry", warnMessage),
		Entry("is overdue before the default of warning", `{expiry: {overdueAtLifetimePercent: 80}}`, "spec.expiry", warnMessage),
		Entry("warns of the control plane at the default of overdue", `{controlPlane: {expiry: {warnAtLifetimePercent: 90}}}`,
			"spec.controlPlane.expiry", warnMessage),
		Entry("warns of the nodes at the default of overdue", `{nodes: {expiry: {warnAtLifetimePercent: 90}}}`,
			"spec.nodes.expiry", warnMessage),
		Entry("probes more often than a default probe may take", `{nodes: {probe: {timeout: 1m, interval: 30s}}}`,
			"spec.nodes.probe", timeoutMessage),
	)

	DescribeTable("refuses", func(ctx SpecContext, spec string, want ...string) {
		said := strings.Join(refusals(k8sClient.Create(ctx, policy("bad", spec), client.DryRunAll)), "\n")
		for _, part := range want {
			Expect(said).To(ContainSubstring(part))
		}
	},
		Entry("values with Exists", `{nodes: {selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}}`,
			"spec.nodes.selector.matchExpressions[0]", badValuesMessage),
		Entry("NotIn without values", `{nodes: {selector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}}`,
			"spec.nodes.selector.matchExpressions[0]", badValuesMessage),
		Entry("a key with an overlong prefix", fmt.Sprintf(`{nodes: {selector: {matchLabels: {%s/a: b}}}}`, text(254)),
			"spec.nodes.selector.matchLabels", badKeyMessage),
		Entry("a key with an overlong name", fmt.Sprintf(`{nodes: {selector: {matchLabels: {a/%s: b}}}}`, text(64)),
			"spec.nodes.selector.matchLabels", badKeyMessage),
		Entry("a key with a prefix that is no DNS name", `{nodes: {selector: {matchLabels: {a..b/c: d}}}}`,
			"spec.nodes.selector.matchLabels", badKeyMessage),
		Entry("a duration as a number", `{expiry: {minimumRemaining: 5}}`, "spec.expiry.minimumRemaining", "must be of type string"),
		Entry("an empty duration", `{expiry: {minimumRemaining: ""}}`, "spec.expiry.minimumRemaining", "should match"),
		Entry("a duration that no program can hold", `{expiry: {minimumRemaining: 99999999999999h}}`,
			"spec.expiry.minimumRemaining", "should match"),
		Entry("a negative duration", `{nodes: {probe: {timeout: -1s}}}`, "spec.nodes.probe.timeout", "should match"),
		Entry("a kubelet version that explains nothing without rotation",
			`{nodes: {servingCertificate: {rotation: Ignored, label: {key: a, value: b}, minimumKubeletVersion: "1.27"}}}`,
			"spec.nodes.servingCertificate", minimumMessage),
		Entry("a node image version that explains nothing without a label",
			`{nodes: {servingCertificate: {minimumNodeImageVersion: 202501.12.0}}}`, "spec.nodes.servingCertificate", minimumMessage),
		Entry("a node image of no month", `{nodes: {servingCertificate: {minimumNodeImageVersion: 202500.12.0}}}`,
			"spec.nodes.servingCertificate.minimumNodeImageVersion", "should match"),
		Entry("a node image of no day", `{nodes: {servingCertificate: {minimumNodeImageVersion: 202501.32.0}}}`,
			"spec.nodes.servingCertificate.minimumNodeImageVersion", "should match"),
		Entry("a percentage as a string", `{expiry: {warnAtLifetimePercent: "80%"}}`,
			"spec.expiry.warnAtLifetimePercent", "must be of type integer"),
	)
})

var _ = Describe("CertificatePolicy status", Ordered, ContinueOnFailure, func() {
	stored := policy("status-fields", "{}")
	BeforeAll(func(ctx SpecContext) { Expect(k8sClient.Create(ctx, stored)).To(Succeed()) })
	AfterAll(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, stored)).To(Succeed()) })
	checkFields(policyStatusFields, map[string]any{"status": validPolicyStatus}, statusWriter(stored))
})

var _ = Describe("NodeCertificates status", Ordered, ContinueOnFailure, func() {
	stored := object("NodeCertificates", "status-fields")
	BeforeAll(func(ctx SpecContext) { Expect(k8sClient.Create(ctx, stored)).To(Succeed()) })
	AfterAll(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, stored)).To(Succeed()) })
	checkFields(nodeStatusFields, map[string]any{"status": validNodeStatus}, statusWriter(stored))
})

func statusWriter(stored *unstructured.Unstructured) func(SpecContext, map[string]any) error {
	return func(ctx SpecContext, changed map[string]any) error {
		u := stored.DeepCopy()
		u.Object["status"] = changed["status"]
		options := &client.SubResourceUpdateOptions{UpdateOptions: client.UpdateOptions{
			DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
		}}
		return k8sClient.Status().Update(ctx, u, options)
	}
}
