// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

// reader is whom kubelets are asked as, and readerRole what it may.
var reader = types.NamespacedName{Namespace: "default", Name: "kubelet-reader"}

const readerRole = "kubelet-reader"

// grantReader lets the reader get these subresources of nodes and nothing else.
func grantReader(ctx context.Context, resources ...string) {
	GinkgoHelper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: readerRole}}
	Expect(c.Get(ctx, client.ObjectKeyFromObject(role), role)).To(Succeed())
	role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: resources, Verbs: []string{"get"}}}
	Expect(c.Update(ctx, role)).To(Succeed())
}

// makeReader makes the ServiceAccount with its role, as config/rbac/kubelet_reader.yaml does.
func makeReader(ctx context.Context) {
	GinkgoHelper()
	meta := metav1.ObjectMeta{Name: readerRole}
	for _, object := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: reader.Namespace, Name: reader.Name}},
		&rbacv1.ClusterRole{ObjectMeta: meta},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: readerRole},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: reader.Namespace, Name: reader.Name}},
		},
	} {
		Expect(c.Create(ctx, object)).To(Succeed())
	}
	grantReader(ctx, "nodes/metrics", "nodes/configz")
}

// tells matches a status by what the kubelet told.
func tells(outcome v1alpha1.KubeletOutcome, fields gstruct.Fields) gomegatypes.GomegaMatcher {
	if fields == nil {
		fields = gstruct.Fields{}
	}
	fields["Outcome"] = Equal(outcome)
	return HaveField("Kubelet", gstruct.PointTo(gstruct.MatchFields(gstruct.IgnoreExtras, fields)))
}

var _ = Describe("What a kubelet says of itself", func() {
	It("is known once it serves a certificate that verifies, and moves only when the kubelet changes", func(ctx SpecContext) {
		k := startKubelet(ctx, "asked", nil)
		Eventually(status(ctx, "asked")).Should(tells(v1alpha1.KubeletUnverified, nil))

		approver.Set("asked", approve)
		Expect(k.WaitServing(ctx)).To(Succeed())
		Eventually(status(ctx, "asked")).WithTimeout(quick).Should(tells(v1alpha1.KubeletRead, gstruct.Fields{
			"Message": BeEmpty(), "ClientRotation": Equal(v1alpha1.KubeletSettingEnabled),
			"ServingBootstrap": Equal(v1alpha1.KubeletSettingEnabled),
			"ClientExpires":    gstruct.PointTo(HaveField("Time", BeTemporally("~", k.ClientCertificate().NotAfter, sameExpiry))),
			"ClientRenewal":    gstruct.PointTo(HaveField("Rose", BeNil())),
		}))
		before, err := get(ctx, "asked")
		Expect(err).NotTo(HaveOccurred())

		By("asking it again")
		const reads = "notafter_kubelet_reads_total"
		asked := counted(reads)
		Eventually(counted).WithArguments(reads).WithTimeout(3 * soon).Should(BeNumerically(">", asked))
		Consistently(status(ctx, "asked")).WithTimeout(2 * time.Second).Should(HaveField("Kubelet", before.Status.Kubelet))

		By("starting it anew with its rotation switched off")
		k.Stop()
		Expect(k.Resume(ctx, func(o *kubelet.Options) { o.NoClientRotation = true })).To(Succeed())
		Eventually(status(ctx, "asked")).WithTimeout(2 * soon).Should(And(
			tells(v1alpha1.KubeletRead, gstruct.Fields{
				"ClientRotation": Equal(v1alpha1.KubeletSettingDisabled), "ClientExpires": BeNil(),
				"ServingBootstrap": Equal(v1alpha1.KubeletSettingEnabled),
			})))
	}, SpecTimeout(8*soon))

	It("tells that it does not ask for its serving certificate", func(ctx SpecContext) {
		address := kubelet.PickAddress()
		pair, err := kubelet.ClusterCA(server.CA()).Issue(kubelet.ServingLeaf("static", address.AsSlice(),
			time.Now().Add(-time.Minute), time.Now().Add(time.Hour)))
		Expect(err).NotTo(HaveOccurred())
		startKubelet(ctx, "static", func(o *kubelet.Options) {
			o.Address, o.Serving, o.ServingCertificate = address, kubelet.ServingStatic, pair
		})
		Eventually(status(ctx, "static")).Should(tells(v1alpha1.KubeletRead, gstruct.Fields{
			"ServingBootstrap": Equal(v1alpha1.KubeletSettingDisabled), "TLSCertFile": Not(BeEmpty()),
		}))
	}, SpecTimeout(2*soon))

	It("counts failures to renew", func(ctx SpecContext) {
		address := kubelet.PickAddress()
		notBefore, notAfter := kubelet.Window(24*time.Hour, 95)
		pair, err := kubelet.ClusterCA(server.CA()).Issue(kubelet.ServingLeaf("failing", address.AsSlice(), notBefore, notAfter))
		Expect(err).NotTo(HaveOccurred())
		approver.Set("failing", kubelet.Verdict{Decision: kubelet.Deny, Reason: "NoReason"})
		startKubelet(ctx, "failing", func(o *kubelet.Options) { o.Address, o.ServingCertificate = address, pair })
		Eventually(status(ctx, "failing")).WithTimeout(3 * soon).Should(tells(v1alpha1.KubeletRead, gstruct.Fields{
			"ServingRenewal": gstruct.PointTo(gstruct.MatchAllFields(gstruct.Fields{
				"Errors": gstruct.PointTo(BeNumerically(">", 0)), "Rose": Not(BeNil()),
			})),
		}))
	}, SpecTimeout(4*soon))

	It("names the permission that is missing, and keeps what is known", func(ctx SpecContext) {
		DeferCleanup(func(ctx context.Context) { grantReader(ctx, "nodes/metrics", "nodes/configz") })
		grantReader(ctx, "nodes/configz")
		approver.Set("denied", approve)
		k := startKubelet(ctx, "denied", nil)
		Eventually(status(ctx, "denied")).WithTimeout(2 * soon).Should(And(
			tells(v1alpha1.KubeletAccessDenied, gstruct.Fields{
				"Message": ContainSubstring("get on nodes/metrics"), "ClientExpires": BeNil(),
				"ClientRotation": Equal(v1alpha1.KubeletSettingEnabled),
			}),
			serves(v1alpha1.ServingModeClusterSigned, v1alpha1.ProbeCertificatePresented)))

		grantReader(ctx, "nodes/metrics")
		Eventually(status(ctx, "denied")).WithTimeout(3 * soon).Should(tells(v1alpha1.KubeletAccessDenied, gstruct.Fields{
			"Message": ContainSubstring("get on nodes/configz"), "ClientRotation": Equal(v1alpha1.KubeletSettingEnabled),
			"ClientExpires": gstruct.PointTo(HaveField("Time", BeTemporally("~", k.ClientCertificate().NotAfter, sameExpiry))),
		}))

		grantReader(ctx, "nodes/metrics", "nodes/configz")
		Eventually(status(ctx, "denied")).WithTimeout(3 * soon).Should(tells(v1alpha1.KubeletRead, gstruct.Fields{"Message": BeEmpty()}))
	}, SpecTimeout(10*soon))
})
