// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/x509"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/cluster/node"
)

// controlPlane is the name of a policy about the control plane, and a node without fault.
const controlPlane = "control-plane"

// caSpecs replace the Cluster CA as it should be done: publish both, renew everything, drop the old one. The node whose
// requests nobody approves misses it.
func caSpecs() {
	BeforeAll(func(ctx SpecContext) {
		needsOwnCluster()
		policy := policyAbout(steady2)
		policy.Name = controlPlane
		Expect(admin.Create(ctx, policy)).To(Succeed())
		loseServingCertificate(unapproved)
		Eventually(servedBy(ctx, unapproved)).WithContext(ctx).Should(Equal(caOf(server)))
		approver.Set(unapproved, kubelet.Verdict{Decision: kubelet.Ignore})
		expectHealthy(ctx, controlPlane, unapproved, steady1)
	}, NodeTimeout(2*soon))

	// former are the serial numbers of the certificates that API servers were seen to serve before.
	var former []string

	It("blames nobody as long as both are published", func(ctx SpecContext) {
		begin := time.Now()
		var err error
		former, err = apiServerSerials(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(former).NotTo(BeEmpty())
		Expect(server.AddCA(ctx)).To(Succeed())
		reconnect(ctx)
		Eventually(published).WithContext(ctx).Should(HaveLen(2))
		Expect(group.TrustCA()).To(Succeed())
		run(ctx, "rollout", "restart", "--namespace="+systemNamespace, "deployment/"+deploymentName)
		run(ctx, "rollout", "status", "--namespace="+systemNamespace, "deployment/"+deploymentName, "--timeout=2m")
		for name := range nodes {
			if name == steady1 || name == steady2 {
				loseServingCertificate(name)
			} else {
				restart(name, func(*node.Options) {})
			}
		}
		Eventually(servedBy(ctx, steady1)).WithContext(ctx).Should(Equal(caOf(server)), "a certificate of the new CA")
		Expect(server.RenewAPIServer(ctx)).To(Succeed())

		Eventually(policyOf(controlPlane)).WithContext(ctx).Should(HaveField("Status.ControlPlane", And(
			ContainElement(HaveField("Purpose", v1alpha1.PurposeClusterCA)),
			ContainElement(HaveField("Purpose", v1alpha1.PurposeAPIServer)),
		)))
		expectHealthy(ctx, controlPlane, unapproved, steady1)
		for _, name := range []string{controlPlane, steady1, unapproved} {
			for _, s := range history.of(name) {
				if s.seen.After(begin) {
					Expect(s.finding.Reason).NotTo(BeElementOf(v1alpha1.ReasonServingCertificateUntrusted,
						v1alpha1.ReasonClusterCAMismatch, v1alpha1.ReasonStaleTrustBundle), "%s", s.finding.Message)
				}
			}
		}
	}, SpecTimeout(3*soon))

	It("names the node that is left behind once only the new one is, until that renews", func(ctx SpecContext) {
		Expect(server.DropOldCA(ctx)).To(Succeed())
		Eventually(published).WithContext(ctx).Should(HaveLen(1))
		said := report{unapproved, v1alpha1.ReasonServingCertificateUntrusted, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionServingRotationEnabled}
		expectReported(ctx, said)
		// The API server is looked at again because the CA changed.
		Eventually(apiServerSerials).WithContext(ctx).Should(And(Not(BeEmpty()), Not(ContainElement(BeElementOf(former)))))
		expectHealthy(ctx, controlPlane, steady1)

		approver.Set(unapproved, kubelet.Verdict{Decision: kubelet.Approve})
		loseServingCertificate(unapproved)
		expectRecovered(ctx, said)
	}, SpecTimeout(2*soon))
}

// reconnect has the suite's own clients trust what the cluster does now.
func reconnect(ctx context.Context) {
	GinkgoHelper()
	config = server.Config()
	var err error
	admin, err = client.New(config, client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	approver.Stop()
	startApprover(ctx)
	approver.Set(unapproved, kubelet.Verdict{Decision: kubelet.Ignore})
}

// apiServerSerials are the serial numbers of the certificates that API servers were seen to serve.
func apiServerSerials(ctx context.Context) ([]string, error) {
	policy, err := policyOf(controlPlane)(ctx)
	if err != nil {
		return nil, err
	}
	var serials []string
	for _, certificate := range policy.Status.ControlPlane {
		if certificate.Purpose == v1alpha1.PurposeAPIServer {
			serials = append(serials, certificate.SerialNumber)
		}
	}
	return serials, nil
}

// published reads the Cluster CA as every Pod gets it.
func published(ctx context.Context) ([]*x509.Certificate, error) {
	object := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: systemNamespace, Name: cluster.RootCAConfigMap}
	if err := admin.Get(ctx, key, object); err != nil {
		return nil, err
	}
	return certutil.ParseCertsPEM([]byte(object.Data["ca.crt"]))
}

// caOf returns the key that the cluster's certificates are signed with now.
func caOf(c *cluster.Cluster) []byte {
	ca, _ := c.CA()
	return ca.SubjectKeyId
}

// servedBy returns a function that returns the key which the certificate on a node's disk was signed with.
func servedBy(ctx context.Context, name string) func() []byte {
	return func() []byte {
		target, err := onDiskIfAny(nodes[name], servingFile)
		if err != nil || ctx.Err() != nil {
			return nil
		}
		return target.AuthorityKeyId
	}
}

// expectHealthy waits until policies are complied with.
func expectHealthy(ctx context.Context, policies ...string) {
	GinkgoHelper()
	for _, name := range policies {
		Eventually(policyOf(name)).WithContext(ctx).Should(WithTransform(conditionsOf, And(
			HaveKeyWithValue(v1alpha1.ConditionReady, "True "+v1alpha1.ReasonEvaluated),
			HaveKeyWithValue(v1alpha1.ConditionCompliant, HavePrefix("True ")),
		)), "policy %s", name)
	}
}
