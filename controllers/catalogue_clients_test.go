// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

const (
	// refusal is the name of what refuses requests for client certificates.
	refusal = "catalogue-refusal"
	// lastGasp is for how long the client certificate of a machine is valid that is about to be switched off.
	lastGasp = 75 * time.Second
)

// clientBreakages are about certificates that kubelets try to renew, in vain.
var clientBreakages = []breakage{
	{
		reason: v1alpha1.ReasonRotationDue, severity: v1alpha1.SeverityInfo, purpose: v1alpha1.PurposeKubeletClient,
		refused: true, peer: true, options: clientAged(95), repair: renewed,
		policy: func(spec *v1alpha1.NodesSpec) { // a kubelet that starts past 90 % renews at once, and at 85 % only perhaps
			spec.Expiry = &v1alpha1.ExpirySpec{OverdueAtLifetimePercent: 99, MinimumRemaining: &metav1.Duration{}}
		},
	}, {
		reason: v1alpha1.ReasonRotationOverdue, severity: v1alpha1.SeverityViolation, purpose: v1alpha1.PurposeKubeletClient,
		refused: true, options: clientAged(95), repair: renewed,
		policy: func(spec *v1alpha1.NodesSpec) {
			spec.Expiry = &v1alpha1.ExpirySpec{MinimumRemaining: &metav1.Duration{Duration: 2 * time.Hour}}
		},
	}, {
		reason: v1alpha1.ReasonNotObserved, severity: v1alpha1.SeverityUnknown, purpose: v1alpha1.PurposeKubeletClient,
		says: "so that it may be overdue", refused: true, peer: true, options: clientAged(95), repair: renewed,
	}, {
		reason: v1alpha1.ReasonRenewalFailing, severity: v1alpha1.SeverityViolation, purpose: v1alpha1.PurposeKubeletClient,
		refused: true, options: clientAged(95), repair: renewed,
	}, {
		reason: v1alpha1.ReasonRenewalFailing, severity: v1alpha1.SeverityViolation,
		options: servingDenied, repair: all(approved, restart(func(*kubelet.Options) {})),
	},
}

// stopped are machines that are switched off before their client certificate, which they could not renew, runs out.
var stopped = []breakage{
	{
		reason: v1alpha1.ReasonExpired, severity: v1alpha1.SeverityViolation, purpose: v1alpha1.PurposeKubeletClient,
		refused: true, options: clientRunsOut, breaks: shutDown, repair: switchOn,
	}, {
		reason: v1alpha1.ReasonNodePoolNeedsRecreation, severity: v1alpha1.SeverityViolation,
		purpose: v1alpha1.PurposeKubeletClient,
		refused: true, options: clientRunsOut, breaks: shutDown, repair: switchOn,
	},
}

// clientAged has the kubelet start with a client certificate so many percent of whose life are over. It lives for as long as
// those that the cluster's signer issues.
func clientAged(percent int) func(*stage, *kubelet.Options) {
	return func(s *stage, o *kubelet.Options) {
		notBefore, notAfter := kubelet.Window(24*time.Hour, percent)
		o.ClientCertificate = s.issue(kubelet.ClientLeaf(o.Name, notBefore, notAfter))
	}
}

// clientRunsOut has the kubelet start with a client certificate that expires soon.
func clientRunsOut(s *stage, o *kubelet.Options) {
	notAfter := time.Now().Add(lastGasp)
	o.ClientCertificate = s.issue(kubelet.ClientLeaf(o.Name, notAfter.Add(-24*time.Hour), notAfter))
}

// servingDenied has the kubelet start with a serving certificate that is overdue, and its requests for another one denied.
func servingDenied(s *stage, o *kubelet.Options) {
	notBefore, notAfter := kubelet.Window(24*time.Hour, 95)
	o.ServingCertificate = s.issue(kubelet.ServingLeaf(o.Name, o.Address.AsSlice(), notBefore, notAfter))
	s.approver.Set(o.Name, kubelet.Verdict{Decision: kubelet.Deny, Reason: "Catalogue"})
}

// refuse has the API server refuse the requests for client certificates of those that are to be refused, as an admission policy
// or webhook of the cluster's own may.
func (s *stage) refuse(ctx context.Context, breakages []breakage) {
	GinkgoHelper()
	var nodes, users []string
	for i := range breakages {
		if b := &breakages[i]; b.refused {
			nodes, users = append(nodes, b.node()), append(users, userOf(b.node()))
		}
	}
	list, err := json.Marshal(users)
	Expect(err).NotTo(HaveOccurred())
	Expect(s.admin.Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: refusal},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionregistrationv1.RuleWithOperations{
						Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
						Rule: admissionregistrationv1.Rule{
							APIGroups: []string{certificatesv1.GroupName}, APIVersions: []string{"v1"},
							Resources: []string{"certificatesigningrequests"},
						},
					},
				}},
			},
			Validations: []admissionregistrationv1.Validation{{
				Expression: fmt.Sprintf("object.spec.signerName != %q || !(request.userInfo.username in %s)",
					certificatesv1.KubeAPIServerClientKubeletSignerName, list),
			}},
		},
	})).To(Succeed())
	Expect(s.admin.Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: refusal},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName:        refusal,
			ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	})).To(Succeed())
	node := s.as(nodes[0])
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: refusal},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Request:    requestPEM(users[0], kubelet.PickAddress()),
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
	Eventually(func() error { return node.Create(ctx, request.DeepCopy(), client.DryRunAll) }).
		WithContext(ctx).Should(MatchError(ContainSubstring(refusal)))
}

// permitted ends the refusals.
func permitted(ctx context.Context, s *stage, _ *kubelet.Kubelet) {
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: refusal}}
	Expect(client.IgnoreNotFound(s.admin.Delete(ctx, binding))).To(Succeed())
}

// renewed lets the kubelet renew its client certificate, and has it try at once.
var renewed = all(permitted, restart(func(*kubelet.Options) {}))

// shutDown switches the machine off, once the kubelet was asked when its client certificate expires.
func shutDown(ctx context.Context, s *stage, k *kubelet.Kubelet) {
	Eventually(func(g Gomega) {
		known := &v1alpha1.NodeCertificates{}
		g.Expect(s.admin.Get(ctx, client.ObjectKey{Name: k.Name()}, known)).To(Succeed())
		g.Expect(known.Status.Kubelet).To(HaveValue(HaveField("ClientExpires", Not(BeNil()))))
	}).WithContext(ctx).Should(Succeed())
	Expect(k.UpdateNode(ctx, func(node *corev1.Node) {
		for i := range node.Status.Conditions {
			if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
				c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", "node is shutting down"
				c.LastTransitionTime = metav1.Now()
			}
		}
	})).To(Succeed())
	k.Stop()
}

// switchOn starts the machine again. Its kubelet has nothing but its bootstrap token then.
func switchOn(ctx context.Context, _ *stage, k *kubelet.Kubelet) { Expect(k.Resume(ctx)).To(Succeed()) }
