// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
)

// report is what notafter has to say about a node: a finding, a condition, an Event about the policy and one about the Node,
// and a metric. The policy has the node's name.
type report struct {
	node        string
	reason      string
	certificate v1alpha1.CertificatePurpose
	condition   string // the type of the one that this is the reason of; empty if a worse finding is
}

// createPolicy creates a policy about one node, named after it.
func createPolicy(ctx context.Context, nodeName string) {
	GinkgoHelper()
	policy := policyAbout(nodeName)
	ignored := v1alpha1.WatchIgnored
	policy.Spec.ControlPlane = v1alpha1.ControlPlaneSpec{ClusterCA: ignored, APIServer: ignored, ClientCA: ignored, Aggregation: ignored}
	policy.Spec.TrustBundles = v1alpha1.TrustBundlesSpec{APIServices: ignored, Webhooks: ignored, ConversionWebhooks: ignored}
	Expect(admin.Create(ctx, policy)).To(Succeed())
}

// policyAbout is a policy about one node and the control plane, for kubelets' certificates that live for minutes.
func policyAbout(nodeName string) *v1alpha1.CertificatePolicy {
	duration := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	return &v1alpha1.CertificatePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Spec: v1alpha1.CertificatePolicySpec{
			Expiry: v1alpha1.ExpirySpec{MinimumRemaining: duration(0)},
			Nodes: v1alpha1.NodesSpec{
				Selector:        v1alpha1.NodeSelector{MatchLabels: map[string]v1alpha1.LabelValue{"kubernetes.io/hostname": v1alpha1.LabelValue(nodeName)}},
				SigningRequests: v1alpha1.SigningRequestsSpec{PendingTimeout: duration(10 * time.Second), IssueTimeout: duration(10 * time.Second)},
				Probe:           v1alpha1.ProbeSpec{Interval: duration(10 * time.Second)},
			},
		},
	}
}

// expectReported waits until all is said.
func expectReported(ctx context.Context, r report) {
	GinkgoHelper()
	Eventually(policyOf(r.node)).WithContext(ctx).Should(And(
		HaveField("Status.Findings", ContainElement(And(
			HaveField("Reason", r.reason), HaveField("Certificate", r.certificate), HaveField("Severity", v1alpha1.SeverityViolation),
			HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: r.node}),
		))),
		WithTransform(conditionsOf, And(
			HaveKeyWithValue(v1alpha1.ConditionReady, "True "+v1alpha1.ReasonEvaluated),
			HaveKeyWithValue(v1alpha1.ConditionCompliant, HavePrefix("False ")),
			r.hasCondition(),
		)),
		HaveField("Status.Nodes.Violating", HaveValue(BeEquivalentTo(1))),
	), "status")
	expectEvents(ctx, r.node, HaveField("Reason", r.reason))
	expectMetric(ctx, r, ContainSubstring(r.metric()))
}

// expectRecovered waits until nothing is found on a node any more, and it was said that this is over.
func expectRecovered(ctx context.Context, r report) {
	GinkgoHelper()
	Eventually(policyOf(r.node)).WithContext(ctx).Should(WithTransform(conditionsOf, And(
		HaveKeyWithValue(v1alpha1.ConditionReady, "True "+v1alpha1.ReasonEvaluated),
		HaveKeyWithValue(v1alpha1.ConditionCompliant, "True "+v1alpha1.ReasonAsExpected),
	)), "status")
	// A kubelet that restarts may be seen without any certificate in between.
	expectEvents(ctx, r.node, recoveryOf(r.reason, v1alpha1.ReasonServingCertificateMissing))
	expectMetric(ctx, r, Not(ContainSubstring(r.metric())))
}

// expectMetric waits for what the leader's metrics should be like.
func expectMetric(ctx context.Context, r report, matcher OmegaMatcher) {
	GinkgoHelper()
	Eventually(func(ctx context.Context) ([]string, error) {
		text, err := scrape(ctx, leaderPod(ctx), scraperToken(ctx))
		var lines []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "notafter_findings{policy=\""+r.node+"\"") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return []string{strings.Join(lines, "\n")}, err
	}).WithContext(ctx).Should(HaveEach(matcher), "metrics")
}

func (r report) metric() string {
	return fmt.Sprintf(`notafter_findings{policy=%q,reason=%q,severity="Violation"} `, r.node, r.reason)
}

func (r report) hasCondition() OmegaMatcher {
	if r.condition == "" {
		return Not(BeEmpty())
	}
	return HaveKeyWithValue(r.condition, "False "+r.reason)
}

// expectEvents waits for an Event regarding the policy and one regarding the Node.
func expectEvents(ctx context.Context, name string, matcher OmegaMatcher) {
	GinkgoHelper()
	Eventually(func(ctx context.Context) ([]eventsv1.Event, error) { return eventsOf(ctx, name) }).WithContext(ctx).Should(And(
		ContainElement(And(matcher, HaveField("Regarding.Kind", "CertificatePolicy"))),
		ContainElement(And(matcher, HaveField("Regarding.Kind", "Node"))),
	), "Events")
}

// recoveryOf matches an Event that says that one of these findings is over.
func recoveryOf(reasons ...string) OmegaMatcher {
	return And(HaveField("Reason", v1alpha1.ReasonRecovered), HaveField("Note", MatchRegexp(`\b(%s) `, strings.Join(reasons, "|"))))
}

// eventsOf returns notafter's Events regarding a node or the policy of the same name.
func eventsOf(ctx context.Context, name string) ([]eventsv1.Event, error) {
	list := &eventsv1.EventList{}
	if err := admin.List(ctx, list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		return nil, err
	}
	var events []eventsv1.Event
	for _, event := range list.Items {
		if event.Regarding.Name == name && strings.HasPrefix(event.ReportingController, "notafter") {
			events = append(events, event)
		}
	}
	return events, nil
}

func policyOf(name string) func(ctx context.Context) (*v1alpha1.CertificatePolicy, error) {
	return func(ctx context.Context) (*v1alpha1.CertificatePolicy, error) {
		policy := &v1alpha1.CertificatePolicy{}
		err := admin.Get(ctx, client.ObjectKey{Name: name}, policy)
		return policy, err
	}
}

// conditionsOf maps each condition's type to its status and reason.
func conditionsOf(policy *v1alpha1.CertificatePolicy) map[string]string {
	conditions := map[string]string{}
	for _, condition := range policy.Status.Conditions {
		conditions[condition.Type] = string(condition.Status) + " " + condition.Reason
	}
	return conditions
}

// nodeReady says whether Kubernetes holds a node to be ready.
func nodeReady(ctx context.Context, g Gomega, name string) bool {
	object := &corev1.Node{}
	g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, object)).To(Succeed())
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
