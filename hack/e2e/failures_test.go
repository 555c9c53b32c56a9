// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/x509"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/cluster/node"
)

// noCertificate is what users of kubectl logs and exec see of a kubelet that has no certificate to serve.
const noCertificate = "remote error: tls: internal error"

// The kubelet's certificates, in its folder of them.
const (
	servingFile = "kubelet-server-current.pem"
	clientFile  = "kubelet-client-current.pem"
)

// failureSpecs are about what becomes of real kubelets. What takes minutes begins before the first spec, and the last ones look
// at it.
func failureSpecs() {
	var initial map[string]*x509.Certificate  // what the steady nodes serve at first
	var outage struct{ begin, end time.Time } // of the controller manager

	BeforeAll(func(ctx SpecContext) {
		needsOwnCluster()
		for _, name := range []string{steady1, steady2, unapproved, stopped} {
			Eventually(logsOf).WithContext(ctx).WithArguments(name).Should(Succeed(), "kubectl logs from %s", name)
		}
		approver.Set(unapproved, kubelet.Verdict{Decision: kubelet.Ignore})
		Eventually(policyOf(stopped)).WithContext(ctx).Should(
			WithTransform(conditionsOf, HaveKeyWithValue(v1alpha1.ConditionCompliant, "True "+v1alpha1.ReasonAsExpected)))
		Expect(nodes[stopped].StopKubelet()).To(Succeed())
		initial = map[string]*x509.Certificate{steady1: onDisk(nodes[steady1], servingFile), steady2: onDisk(nodes[steady2], servingFile)}
	}, NodeTimeout(2*soon))

	It("serves a certificate of its own without serverTLSBootstrap, until that is on", func(ctx SpecContext) {
		said := report{misset1, v1alpha1.ReasonServingCertificateSelfSigned, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionServingRotationEnabled}
		expectReported(ctx, said)
		Expect(logsOf(ctx, misset1)).To(MatchError(ContainSubstring("x509: cannot validate certificate")))

		restart(misset1, func(o *node.Options) { delete(o.Kubelet, "serverTLSBootstrap") })
		expectRecovered(ctx, said)
		Eventually(logsOf).WithContext(ctx).WithArguments(misset1).Should(Succeed())
	}, SpecTimeout(2*soon))

	It("does not renew its client certificate without rotateCertificates, until that is on", func(ctx SpecContext) {
		said := report{misset2, v1alpha1.ReasonClientRotationDisabled, v1alpha1.PurposeKubeletClient,
			v1alpha1.ConditionBootstrapHealthy}
		expectReported(ctx, said)

		restart(misset2, func(o *node.Options) { delete(o.Kubelet, "rotateCertificates") })
		expectRecovered(ctx, said)
	}, SpecTimeout(2*soon))

	It("gets no certificate when its request is denied, until one is approved", func(ctx SpecContext) {
		approver.Set(misset2, kubelet.Verdict{Decision: kubelet.Deny, Reason: "NotInInventory", Message: "nobody knows it"})
		loseServingCertificate(misset2)
		said := report{misset2, v1alpha1.ReasonSigningRequestDenied, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionBootstrapHealthy}
		expectReported(ctx, said)
		expectReported(ctx, report{misset2, v1alpha1.ReasonServingCertificateMissing, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionServingRotationEnabled})
		Expect(logsOf(ctx, misset2)).To(MatchError(ContainSubstring(noCertificate)))

		approver.Set(misset2, kubelet.Verdict{Decision: kubelet.Approve})
		expectRecovered(ctx, said)
		Eventually(logsOf).WithContext(ctx).WithArguments(misset2).Should(Succeed())
	}, SpecTimeout(2*soon))

	It("gets no certificate while the controller manager is stopped, though approved", func(ctx SpecContext) {
		outage.begin = time.Now()
		Expect(server.StopControllerManager()).To(Succeed())
		DeferCleanup(server.StartControllerManager)
		loseServingCertificate(misset1)
		said := report{misset1, v1alpha1.ReasonSigningRequestNotIssued, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionBootstrapHealthy}
		expectReported(ctx, said)

		Expect(server.StartControllerManager(ctx)).To(Succeed())
		expectRecovered(ctx, said)
		outage.end = time.Now()
	}, SpecTimeout(2*soon))

	It("is another node when it is deleted and added again under its name", func(ctx SpecContext) {
		before := factsOf(ctx, misset1)
		Expect(nodes[misset1].StopKubelet()).To(Succeed())
		Expect(admin.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: misset1}})).To(Succeed())
		Expect(nodes[misset1].Forget()).To(Succeed())
		Eventually(func(ctx context.Context) error {
			return admin.Get(ctx, client.ObjectKey{Name: misset1}, &v1alpha1.NodeCertificates{})
		}).WithContext(ctx).Should(MatchError(ContainSubstring("not found")), "facts about a node that is gone")
		Eventually(policyOf(misset1)).WithContext(ctx).Should(WithTransform(conditionsOf,
			HaveKeyWithValue(v1alpha1.ConditionCompliant, HaveSuffix(v1alpha1.ReasonNoNodesSelected))))

		token := newToken(ctx)
		Expect(nodes[misset1].StartKubelet(func(o *node.Options) { o.Token = token })).To(Succeed())
		Expect(nodes[misset1].WaitReady(ctx)).To(Succeed())
		Eventually(policyOf(misset1)).WithContext(ctx).Should(WithTransform(conditionsOf,
			HaveKeyWithValue(v1alpha1.ConditionCompliant, "True "+v1alpha1.ReasonAsExpected)))
		after := factsOf(ctx, misset1)
		Expect(after.OwnerReferences[0].UID).NotTo(Equal(before.OwnerReferences[0].UID))
		for _, certificate := range after.Status.Certificates {
			Expect(before.Status.Certificates).NotTo(ContainElement(HaveField("SHA256", certificate.SHA256)),
				"a certificate of the node that was deleted")
		}
	}, SpecTimeout(2*soon))

	It("serves nothing once nobody approved in time, while its Node stays ready", func(ctx SpecContext) {
		pending := report{unapproved, v1alpha1.ReasonSigningRequestPending, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionBootstrapHealthy}
		missing := report{unapproved, v1alpha1.ReasonServingCertificateMissing, v1alpha1.PurposeKubeletServing,
			v1alpha1.ConditionServingRotationEnabled}
		expectReported(ctx, pending)
		certificate := onDisk(nodes[unapproved], servingFile)
		expectReported(ctx, missing)
		Expect(time.Now()).To(BeTemporally(">", certificate.NotAfter))
		Expect(onDisk(nodes[unapproved], servingFile).Equal(certificate)).To(BeTrue())

		By("having been told when the certificate on the node's disk crossed the thresholds")
		expectCrossing(unapproved, v1alpha1.ReasonRotationDue, certificate, 80)
		expectCrossing(unapproved, v1alpha1.ReasonRotationOverdue, certificate, 90)
		expectEvents(ctx, unapproved, HaveField("Reason", v1alpha1.ReasonRotationDue))
		expectEvents(ctx, unapproved, HaveField("Reason", v1alpha1.ReasonRotationOverdue))

		By("asking for logs")
		Expect(logsOf(ctx, unapproved)).To(MatchError(ContainSubstring(noCertificate)))
		Expect(nodeReady(ctx, Default, unapproved)).To(BeTrue(), "the Node is ready: nothing in Kubernetes says a word")

		By("approving again")
		approver.Set(unapproved, kubelet.Verdict{Decision: kubelet.Approve})
		expectRecovered(ctx, missing)
		expectEvents(ctx, unapproved, recoveryOf(v1alpha1.ReasonSigningRequestPending))
		Expect(logsOf(ctx, unapproved)).To(Succeed())
	}, SpecTimeout(3*soon))

	It("cannot come back after its client certificate ran out, without a token that works", func(ctx SpecContext) {
		n := nodes[stopped]
		stranded := report{stopped, v1alpha1.ReasonNodePoolNeedsRecreation, v1alpha1.PurposeKubeletClient,
			v1alpha1.ConditionBootstrapHealthy}
		expectReported(ctx, stranded)
		expectReported(ctx, report{stopped, v1alpha1.ReasonExpired, v1alpha1.PurposeKubeletClient, ""})
		Expect(time.Now()).To(BeTemporally(">", onDisk(n, clientFile).NotAfter))

		Expect(n.StartKubelet(func(o *node.Options) { o.Token = "abcdef.0123456789abcdef" })).To(Succeed())
		Eventually(os.ReadFile).WithContext(ctx).WithArguments(n.LogPath(binaries.Kubelet)).Should(ContainSubstring(
			"cannot create certificate signing request: Unauthorized"), "the kubelet's log")
		Expect(nodeReady(ctx, Default, stopped)).To(BeFalse())
		expectReported(ctx, stranded)

		token := newToken(ctx)
		restart(stopped, func(o *node.Options) { o.Token = token })
		expectRecovered(ctx, stranded)
		Expect(nodeReady(ctx, Default, stopped)).To(BeTrue())
	}, SpecTimeout(3*soon))

	It("is never blamed while it renews as it should", func(ctx SpecContext) {
		for name, first := range initial {
			Eventually(func() bool { return onDisk(nodes[name], servingFile).Equal(first) }).WithContext(ctx).
				Should(BeFalse(), "%s renews its certificate", name)
			for _, s := range history.of(name) {
				if s.seen.After(outage.begin) && s.seen.Before(outage.end) {
					continue // it may well have asked just then, and got nothing
				}
				Expect(s.finding.Severity).NotTo(Equal(v1alpha1.SeverityViolation), "%s", s.finding.Message)
			}
			Expect(logsOf(ctx, name)).To(Succeed())
		}
	}, SpecTimeout(2*soon))
}

// restart restarts a node's kubelet with other options.
func restart(name string, change func(*node.Options)) {
	GinkgoHelper()
	Expect(nodes[name].StopKubelet()).To(Succeed())
	Expect(nodes[name].StartKubelet(change)).To(Succeed())
}

// loseServingCertificate has a kubelet ask for a serving certificate now. One was seen once that did not ask after a restart, while
// the controller manager was stopped; such a kubelet is restarted again.
func loseServingCertificate(name string) {
	GinkgoHelper()
	ctx := context.Background()
	const restarts = 3
	var known []types.UID
	before, err := servingRequests(ctx, name)
	Expect(err).NotTo(HaveOccurred())
	for i := range before {
		known = append(known, before[i].UID)
	}
	asked := func(ctx context.Context) (bool, error) {
		requests, err := servingRequests(ctx, name)
		return slices.ContainsFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool {
			return !slices.Contains(known, r.UID)
		}), err
	}
	for range restarts {
		Expect(nodes[name].StopKubelet()).To(Succeed())
		files, err := filepath.Glob(filepath.Join(nodes[name].PKIDir(), "kubelet-server-*"))
		Expect(err).NotTo(HaveOccurred())
		for _, file := range files {
			Expect(os.Remove(file)).To(Succeed())
		}
		Expect(nodes[name].StartKubelet(func(*node.Options) {})).To(Succeed())
		if wait.PollUntilContextTimeout(ctx, time.Second, soon/4, true, asked) == nil {
			return
		}
	}
	Fail("the kubelet of " + name + " asks for no serving certificate")
}

// onDisk reads a certificate from a node's disk.
func onDisk(n *node.Node, file string) *x509.Certificate {
	GinkgoHelper()
	certificate, err := onDiskIfAny(n, file)
	Expect(err).NotTo(HaveOccurred())
	return certificate
}

func onDiskIfAny(n *node.Node, file string) (*x509.Certificate, error) {
	path, err := pathOnDisk(n, file)
	if err != nil {
		return nil, err
	}
	certificates, err := certutil.CertsFromFile(path)
	if err != nil {
		return nil, err
	}
	return certificates[0], nil
}

// pathOnDisk is where a certificate and its key are.
func pathOnDisk(n *node.Node, file string) (string, error) {
	target, err := os.Readlink(filepath.Join(n.PKIDir(), file)) // as the kubelet sees it
	return filepath.Join(n.PKIDir(), filepath.Base(target)), err
}

// factsOf reads what notafter knows of a node.
func factsOf(ctx context.Context, name string) *v1alpha1.NodeCertificates {
	GinkgoHelper()
	facts := &v1alpha1.NodeCertificates{}
	Expect(admin.Get(ctx, client.ObjectKey{Name: name}, facts)).To(Succeed())
	return facts
}

// expectCrossing expects that a finding came when a serving certificate had lived for so many percent of its life: never
// before, and within seconds.
func expectCrossing(name, reason string, certificate *x509.Certificate, percent int) {
	GinkgoHelper()
	const late = 10 * time.Second // mostly for the machine, which does more than this
	life := certificate.NotAfter.Sub(certificate.NotBefore)
	crossing := certificate.NotBefore.Add(life * time.Duration(percent) / 100)
	var last *sighting
	for _, s := range history.of(name) {
		if s.finding.Reason == reason && s.finding.Certificate == v1alpha1.PurposeKubeletServing {
			last = &s
		}
	}
	Expect(last).NotTo(BeNil(), "%s was never found on %s", reason, name)
	Expect(math.Abs(last.finding.Since.Sub(crossing).Seconds())).To(BeNumerically("<", 1), "since when")
	Expect(last.seen).To(And(BeTemporally(">=", crossing), BeTemporally("<=", crossing.Add(late))), "when it was seen")
	AddReportEntry(reason, last.seen.Sub(crossing).String()+" after the crossing")
}
