// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
)

// kubectl runs kubectl with that standard input and returns what it printed, on both outputs.
func duration(d *metav1.Duration) time.Duration {
	GinkgoHelper()
	Expect(d).NotTo(BeNil())
	return d.Duration
}

func expectExpiry(expiry v1alpha1.ExpirySpec, minimumRemaining time.Duration) {
	GinkgoHelper()
	Expect(expiry.WarnAtLifetimePercent).To(Equal(v1alpha1.DefaultWarnAtLifetimePercent))
	Expect(expiry.OverdueAtLifetimePercent).To(Equal(v1alpha1.DefaultOverdueAtLifetimePercent))
	Expect(duration(expiry.MinimumRemaining)).To(Equal(minimumRemaining))
}

func expectDefaults(spec v1alpha1.CertificatePolicySpec) {
	GinkgoHelper()
	expectExpiry(spec.Expiry, v1alpha1.DefaultMinimumRemaining)
	expectExpiry(v1alpha1.ExpirySpec(spec.ControlPlane.Expiry), v1alpha1.DefaultControlPlaneMinimumRemaining)
	Expect(spec.ControlPlane).To(HaveField("ClusterCA", v1alpha1.WatchWatched))
	Expect(spec.ControlPlane).To(HaveField("APIServer", v1alpha1.WatchWatched))
	Expect(spec.ControlPlane).To(HaveField("ClientCA", v1alpha1.WatchWatched))
	Expect(spec.ControlPlane).To(HaveField("Aggregation", v1alpha1.WatchWatched))
	Expect(spec.TrustBundles).To(Equal(v1alpha1.TrustBundlesSpec{
		APIServices: v1alpha1.WatchWatched, Webhooks: v1alpha1.WatchWatched, ConversionWebhooks: v1alpha1.WatchWatched,
	}))
	Expect(spec.Nodes.Expiry).To(BeNil())
	Expect(spec.Nodes.ClientCertificate.Rotation).To(Equal(v1alpha1.ClientRotationRequired))
	Expect(spec.Nodes.StaticServingMounts).To(Equal(v1alpha1.WatchWatched))
	Expect(spec.Nodes.BootstrapTokens.Mode).To(Equal(v1alpha1.WatchIgnored))
	Expect(duration(spec.Nodes.BootstrapTokens.WarnBefore)).To(Equal(v1alpha1.DefaultBootstrapTokenWarnBefore))
	Expect(spec.Nodes.Selector).To(Equal(v1alpha1.NodeSelector{}))
	Expect(spec.Nodes.ServingCertificate).To(Equal(v1alpha1.ServingCertificateSpec{Rotation: v1alpha1.ServingRotationRequired}))
	Expect(duration(spec.Nodes.SigningRequests.PendingTimeout)).To(Equal(v1alpha1.DefaultPendingTimeout))
	Expect(duration(spec.Nodes.SigningRequests.IssueTimeout)).To(Equal(v1alpha1.DefaultIssueTimeout))
	Expect(duration(spec.Nodes.Probe.Interval)).To(Equal(v1alpha1.DefaultProbeInterval))
	Expect(duration(spec.Nodes.Probe.Timeout)).To(Equal(v1alpha1.DefaultProbeTimeout))
}

var _ = Describe("Defaults", func() {
	DescribeTable("fill in", func(ctx SpecContext, spec string) {
		created := policy("defaults", spec)
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })

		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		expectDefaults(got.Spec)
	},
		Entry("an empty spec", `{}`),
		Entry("empty parts", `{expiry: {}, controlPlane: {}, trustBundles: {}, nodes: {selector: {}, servingCertificate: {},
			clientCertificate: {}, bootstrapTokens: {}, signingRequests: {}, probe: {}}}`),
		Entry("null parts", `{expiry: null, controlPlane: null, trustBundles: null, nodes: {servingCertificate: null,
			expiry: null, clientCertificate: null, bootstrapTokens: null, signingRequests: null, probe: null}}`),
		Entry("null parts of parts", `{controlPlane: {expiry: null, clusterCA: null}, nodes: {bootstrapTokens: {mode: null}}}`),
		Entry("null fields", `{expiry: {minimumRemaining: null}, nodes: {probe: {timeout: null}}}`),
		Entry("a part of a part", `{expiry: {warnAtLifetimePercent: 80}, nodes: {probe: {interval: 10m}}}`),
	)

	It("fill in what a part leaves out of an expiry of its own", func(ctx SpecContext) {
		created := policy("parts", `{controlPlane: {expiry: {warnAtLifetimePercent: 80}}, nodes: {expiry: {}}}`)
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })

		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		expectExpiry(v1alpha1.ExpirySpec(got.Spec.ControlPlane.Expiry), v1alpha1.DefaultControlPlaneMinimumRemaining)
		Expect(got.Spec.Nodes.Expiry).NotTo(BeNil())
		expectExpiry(*got.Spec.Nodes.Expiry, v1alpha1.DefaultMinimumRemaining)
	})

	It("fill in what a Go client leaves at zero, and survive its update", func(ctx SpecContext) {
		p := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: "typed"}}
		Expect(k8sClient.Create(ctx, p)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, p)).To(Succeed()) })
		expectDefaults(p.Spec)
		Expect(k8sClient.Update(ctx, p)).To(Succeed())
		expectDefaults(p.Spec)
	})

	It("make an object that no controller has seen InProgress", func(ctx SpecContext) {
		created := policy("unseen", `{}`)
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })

		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		Expect(got.Status.ObservedGeneration).To(BeEquivalentTo(-1))
		result, err := status.Compute(created)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.Status).To(Equal(status.InProgressStatus))
	})
})

var _ = Describe("Server-side apply", func() {
	It("replaces a selector as a whole", func(ctx SpecContext) {
		for _, key := range []string{"first", "second"} {
			p := policy("applied", `{nodes: {selector: {matchExpressions: [{key: `+key+`, operator: Exists}]}}}`)
			Expect(k8sClient.Apply(ctx, client.ApplyConfigurationFromUnstructured(p),
				client.FieldOwner(key), client.ForceOwnership)).To(Succeed())
		}
		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKey{Name: "applied"}, &got)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, &got)).To(Succeed()) })
		Expect(got.Spec.Nodes.Selector.MatchExpressions).To(ConsistOf(HaveField("Key", "second")))
	})

	It("refuses to take over a field that another owner set", func(ctx SpecContext) {
		apply := func(owner, remaining string) error {
			p := policy("owned", `{expiry: {minimumRemaining: `+remaining+`}}`)
			return k8sClient.Apply(ctx, client.ApplyConfigurationFromUnstructured(p), client.FieldOwner(owner))
		}
		Expect(apply("flux", "1h")).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, policy("owned", "{}"))).To(Succeed()) })
		Expect(apply("somebody", "2h")).To(MatchError(And(ContainSubstring("flux"), ContainSubstring(".spec.expiry.minimumRemaining"))))
	})

	It("merges conditions, certificates and signing requests by their keys", func(ctx SpecContext) {
		created := policy("merged", "{}")
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })
		for i, owner := range []string{"one", "two"} {
			p := object("CertificatePolicy", "merged")
			p.Object["status"] = map[string]any{"conditions": []any{condition(i)}}
			Expect(k8sClient.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(p), client.FieldOwner(owner))).To(Succeed())
		}
		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		Expect(got.Status.Conditions).To(HaveLen(2))

		facts := object("NodeCertificates", "merged")
		Expect(k8sClient.Create(ctx, facts)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, facts)).To(Succeed()) })
		for i, owner := range []string{"one", "two"} {
			n := object("NodeCertificates", "merged")
			n.Object["status"] = map[string]any{
				"certificates": certificates(2)[i : i+1], "signingRequests": []any{distinctSigner(i)},
			}
			Expect(k8sClient.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(n), client.FieldOwner(owner))).To(Succeed())
		}
		var known v1alpha1.NodeCertificates
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(facts), &known)).To(Succeed())
		Expect(known.Status.Certificates).To(HaveLen(2))
		Expect(known.Status.SigningRequests).To(HaveLen(2))
	})
})

var _ = Describe("kubectl", func() {
	const header = "apiVersion: notafter.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {name: kubectl}\n"

	DescribeTable("refuses a field that does not exist", func(ctx SpecContext, spec, want string) {
		_, err := server.RunKubectl(ctx, header+spec, "apply", "--dry-run=server", "-f", "-")
		Expect(err).To(MatchError(ContainSubstring(want)))
	},
		Entry("misspelt", "spec: {expirey: {}}", `unknown field "spec.expirey"`),
		Entry("in the wrong place", "spec: {nodes: {rotation: Required}}", `unknown field "spec.nodes.rotation"`),
	)

	DescribeTable("explains", func(ctx SpecContext, path, want string) {
		output, err := server.RunKubectl(ctx, "", "explain", path)
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring(want))
	},
		Entry("a kind", "certificatepolicy", "CertificatePolicy says what must hold"),
		Entry("a field", "certpolicy.spec.expiry.minimumRemaining", "minimumRemaining is an absolute floor"),
		Entry("a part of its own", "certpolicy.spec.controlPlane.expiry", "expiry replaces spec.expiry"),
		Entry("the other kind", "nodecerts.status.serving", "serving is what the latest TLS handshake"),
	)

	It("shows the columns of both kinds", func(ctx SpecContext) {
		p := policy("columns", "{}")
		Expect(k8sClient.Create(ctx, p)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, p)).To(Succeed()) })
		facts := object("NodeCertificates", "columns")
		Expect(k8sClient.Create(ctx, facts)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, facts)).To(Succeed()) })

		for args, want := range map[string]string{
			"certpolicy columns":         "NAME READY COMPLIANT NODES VIOLATING NEXT-EXPIRY AGE",
			"certpolicy columns -o wide": "NAME READY COMPLIANT NODES VIOLATING NEXT-EXPIRY REASON UNKNOWN CERTIFICATES DUE OVERDUE EXPIRED AGE",
			"nodecerts columns":          "NAME SERVING-MODE SERVING-EXPIRES CLIENT-EXPIRES SIGNING AGE",
			"nodecerts columns -o wide":  "NAME SERVING-MODE SERVING-EXPIRES CLIENT-EXPIRES SIGNING CLIENT-ISSUED-UNTIL ADDRESS PROBE AGE",
		} {
			output, err := server.RunKubectl(ctx, "", append([]string{"get"}, strings.Fields(args)...)...)
			Expect(err).NotTo(HaveOccurred())
			columns, _, _ := strings.Cut(output, "\n")
			Expect(strings.Join(strings.Fields(columns), " ")).To(Equal(want), args)
			Expect(len(columns)).To(BeNumerically("<=", 160))
		}
		output, err := server.RunKubectl(ctx, "", "get", "notafter")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(And(ContainSubstring("certificatepolicy.notafter.dev/columns"),
			ContainSubstring("nodecertificates.notafter.dev/columns")))
	})
})
