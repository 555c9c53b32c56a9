// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"path/filepath"

	kstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/golden"
)

// recorded is where the states of NodeCertificates are kept for the tests of what judges them elsewhere.
var recorded = filepath.Join("..", "..", "config", "argocd", "testdata", "nodecertificates")

// expectState expects of kstatus what it makes of the object in the API server, and of the object that it is as it was
// recorded.
func expectState(ctx context.Context, name, state string, want kstatus.Status) {
	GinkgoHelper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeCertificates"))
	Expect(c.Get(ctx, client.ObjectKey{Name: name}, object)).To(Succeed())
	result, err := kstatus.Compute(object)
	Expect(err).NotTo(HaveOccurred())
	Expect(result.Status).To(Equal(want), state)
	Expect(golden.Compare(filepath.Join(recorded, state+".yaml"), object)).To(Succeed())
}

// answered matches a status in which asking the kubelet about itself ended like that.
func answered(outcome v1alpha1.KubeletOutcome) gomegatypes.GomegaMatcher {
	return HaveField("Kubelet", gstruct.PointTo(HaveField("Outcome", outcome)))
}

// They are facts, not wishes: there is nothing that they could be late with.
var _ = Describe("NodeCertificates, to kstatus,", func() {
	It("are Current whatever they say, and Terminating while something holds up their deletion", func(ctx SpecContext) {
		const name = "kstatus"
		k := startKubelet(ctx, name, nil)
		Eventually(status(ctx, name)).Should(And(
			serves(v1alpha1.ServingModeNone, v1alpha1.ProbeNoCertificate), requested(v1alpha1.StagePending),
			answered(v1alpha1.KubeletUnverified), HaveField("Certificates", HaveLen(1))))
		expectState(ctx, name, "no-certificate", kstatus.CurrentStatus)

		approver.Set(name, approve)
		Expect(k.WaitServing(ctx)).To(Succeed())
		whole := And(serves(v1alpha1.ServingModeClusterSigned, v1alpha1.ProbeCertificatePresented),
			requested(v1alpha1.StageIssued), answered(v1alpha1.KubeletRead), HaveField("Certificates", HaveLen(3)))
		Eventually(status(ctx, name)).Should(whole)
		expectState(ctx, name, "cluster-signed", kstatus.CurrentStatus)

		Expect(k.SetEndpoint(kubelet.EndpointRefuses)).To(Succeed())
		Eventually(status(ctx, name)).Should(And(
			serves(v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable),
			HaveField("Serving.Message", ContainSubstring("refused")), // where it hung, it would be tried again
			answered(v1alpha1.KubeletFailed), HaveField("Certificates", HaveLen(3))))
		expectState(ctx, name, "unreachable", kstatus.CurrentStatus)

		Expect(k.SetEndpoint(kubelet.EndpointServes)).To(Succeed())
		Eventually(status(ctx, name)).Should(whole)
		object, err := get(ctx, name)
		Expect(err).NotTo(HaveOccurred())
		before := client.MergeFrom(object.DeepCopy())
		controllerutil.AddFinalizer(object, "test.notafter.dev/hold")
		Expect(c.Patch(ctx, object, before)).To(Succeed())
		Expect(c.Delete(ctx, object)).To(Succeed())
		expectState(ctx, name, "deleted", kstatus.TerminatingStatus)

		By("learning what happens in the meantime")
		Expect(k.SetEndpoint(kubelet.EndpointRefuses)).To(Succeed())
		Eventually(status(ctx, name)).Should(serves(v1alpha1.ServingModeUnknown, v1alpha1.ProbeUnreachable))
		object, err = get(ctx, name)
		Expect(err).NotTo(HaveOccurred())
		Expect(object.DeletionTimestamp.IsZero()).To(BeFalse())
		before = client.MergeFrom(object.DeepCopy())
		object.Finalizers = nil
		Expect(c.Patch(ctx, object, before)).To(Succeed())
	}, SpecTimeout(6*soon))
})
