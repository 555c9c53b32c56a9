// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	// replicas is the name of a policy that asks Nodes for a label of the same name: taking it away is a finding at once.
	replicas = "replicas"
	// takeover is the longest that it takes to replace a leader that died: 15 s without a sign of life, and two looks of a
	// standby at the Lease; and what a busy machine adds.
	takeover = 25*time.Second + 15*time.Second
)

// components are those that make the manager survive what happens to nodes, and live with its neighbours.
var components = []string{"network-policy", "pod-disruption-budget", "priority-class", "topology-spread"}

// replicaSpecs are about what a user notices when one of the two replicas goes: nothing.
func replicaSpecs() {
	labelled := []string{steady1, steady2, unapproved, stopped}
	var begin time.Time // from here on, everything is known

	BeforeAll(func(ctx SpecContext) {
		needsOwnCluster()
		for _, name := range labelled {
			label(ctx, name, true)
		}
		policy := policyAbout(replicas)
		policy.Spec.Nodes.Selector = v1alpha1.NodeSelector{MatchLabels: map[string]v1alpha1.LabelValue{"kubernetes.io/os": "linux"}}
		policy.Spec.Nodes.Selector.MatchExpressions = []v1alpha1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: "In", Values: []v1alpha1.LabelValue{steady1, steady2, unapproved, stopped},
		}}
		policy.Spec.Nodes.ServingCertificate.Label = &v1alpha1.NodeLabel{Key: "notafter.dev/" + replicas, Value: "true"}
		Expect(admin.Create(ctx, policy)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(admin.Delete(ctx, policy)).To(Succeed()) })
		expectMissing(ctx)
		begin = time.Now()
	}, NodeTimeout(2*soon))

	It("replaces a leader that is killed, and goes on where that one stopped", func(ctx SpecContext) {
		label(ctx, steady1, false)
		expectMissing(ctx, steady1)
		expectToldOnce(ctx, steady1) // what the leader dies in the middle of, it leaves unsaid
		former := leaseOf(ctx)
		leader := leaderPod(ctx)
		pid, err := nodes[leader.Spec.NodeName].ContainerPID(ctx, leader.Status.ContainerStatuses[0].ContainerID)
		Expect(err).NotTo(HaveOccurred())
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		label(ctx, steady2, false)

		Eventually(leaseOf).WithContext(ctx).Should(HaveField("Spec.HolderIdentity", Not(Equal(former.Spec.HolderIdentity))))
		took := leaseOf(ctx).Spec.AcquireTime.Sub(former.Spec.RenewTime.Time)
		GinkgoWriter.Printf("another replica leads %s after the last sign of life of the one that was killed\n", took)
		Expect(took).To(BeNumerically("<", takeover))
		expectMissing(ctx, steady1, steady2)
		label(ctx, unapproved, false)
		expectMissing(ctx, steady1, steady2, unapproved)
		expectToldOnce(ctx, steady1, steady2, unapproved)
	}, SpecTimeout(2*soon))

	It("rolls out all components without a gap", func(ctx SpecContext) {
		for zone, name := range []string{steady1, steady2} {
			patchLabel(ctx, name, corev1.LabelTopologyZone, fmt.Sprintf("%q", fmt.Sprint("zone-", zone)))
		}
		run(ctx, "apply", "--server-side", "-k", withComponents())
		label(ctx, stopped, false)
		available := int32(2)
		Eventually(func(g Gomega, ctx context.Context) {
			deployment := &appsv1.Deployment{}
			g.Expect(admin.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: deploymentName}, deployment)).To(Succeed())
			available = min(available, deployment.Status.AvailableReplicas)
			g.Expect(deployment.Status.ObservedGeneration).To(Equal(deployment.Generation))
			g.Expect(deployment.Status).To(And(HaveField("UpdatedReplicas", BeEquivalentTo(2)),
				HaveField("AvailableReplicas", BeEquivalentTo(2)), HaveField("Replicas", BeEquivalentTo(2))), "%s", describe(ctx))
		}).WithContext(ctx).Should(Succeed())
		Expect(available).To(BeEquivalentTo(2), "replicas that were available all the time")

		Eventually(managers).WithContext(ctx).Should(And(HaveLen(2),
			HaveEach(HaveField("Spec.PriorityClassName", "notafter")), HaveEach(HaveField("Status.Phase", corev1.PodRunning))))
		Expect(leaderPod(ctx)).To(HaveField("Spec.PriorityClassName", "notafter"))
		expectMissing(ctx, labelled...)
		expectToldOnce(ctx, labelled...)
		var seen []string
		for _, s := range history.of(replicas) {
			if s.seen.After(begin) {
				Expect(s.finding.Severity).NotTo(Equal(v1alpha1.SeverityUnknown), "%s", s.finding.Message)
			}
			if s.finding.Reason == v1alpha1.ReasonServingLabelMissing {
				seen = append(seen, s.finding.Subject.Name)
			}
		}
		Expect(seen).To(ConsistOf(labelled), "findings that never went away in between")
	}, SpecTimeout(2*soon))

	It("lets a drain take one replica at a time", func(ctx SpecContext) {
		pods := managers(ctx)
		Expect(evict(ctx, &pods[0])).To(Succeed())
		Expect(evict(ctx, &pods[1])).To(MatchError(apierrors.IsTooManyRequests, "is too many requests"))
		Eventually(managers).WithContext(ctx).Should(And(HaveLen(2), HaveEach(HaveField("Status.ContainerStatuses",
			ConsistOf(HaveField("Ready", true))))))
	}, SpecTimeout(soon))
}

// withComponents is the default install with the components, as the guide says to make it.
func withComponents() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp(configDir, ".e2e-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	content := "resources: [../default]\ncomponents:\n"
	for _, component := range components {
		content += "  - ../components/" + component + "\n"
	}
	Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o600)).To(Succeed())
	return dir
}

// label gives a Node the label that the policy asks for, or takes it away.
func label(ctx context.Context, name string, labelled bool) {
	GinkgoHelper()
	value := "null"
	if labelled {
		value = `"true"`
	}
	patchLabel(ctx, name, "notafter.dev/"+replicas, value)
}

func patchLabel(ctx context.Context, name, key, value string) {
	GinkgoHelper()
	patch := client.RawPatch(types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, value)))
	Expect(admin.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, patch)).To(Succeed())
}

// expectMissing waits until the policy reports these nodes, and no others, to be without the label.
func expectMissing(ctx context.Context, names ...string) {
	GinkgoHelper()
	Eventually(policyOf(replicas)).WithContext(ctx).Should(And(
		HaveField("Status.Nodes.Selected", HaveValue(BeEquivalentTo(4))),
		WithTransform(func(policy *v1alpha1.CertificatePolicy) []string {
			missing := []string{}
			for _, finding := range policy.Status.Findings {
				if finding.Severity != v1alpha1.SeverityInfo {
					missing = append(missing, finding.Reason+" "+finding.Subject.Name)
				}
			}
			return missing
		}, ConsistOf(reasons(names)))))
}

func reasons(names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = v1alpha1.ReasonServingLabelMissing + " " + name
	}
	return all
}

// expectToldOnce waits until there is one Event about the policy and one about the Node for each of these nodes, and no other
// one of the kind.
func expectToldOnce(ctx context.Context, names ...string) {
	GinkgoHelper()
	want := map[string]int{}
	for _, name := range names {
		want["CertificatePolicy "+name], want["Node "+name] = 1, 1
	}
	Eventually(func(ctx context.Context) (map[string]int, error) {
		list := &eventsv1.EventList{}
		if err := admin.List(ctx, list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
			return nil, err
		}
		told := map[string]int{}
		for i := range list.Items {
			event := &list.Items[i]
			switch {
			case event.Reason != v1alpha1.ReasonServingLabelMissing:
			case event.Regarding.Kind == "CertificatePolicy":
				told["CertificatePolicy "+event.Related.Name]++
			default:
				told["Node "+event.Regarding.Name]++
			}
		}
		return told, nil
	}).WithContext(ctx).Should(Equal(want))
}

func leaseOf(ctx context.Context) *coordinationv1.Lease {
	GinkgoHelper()
	lease := &coordinationv1.Lease{}
	Expect(admin.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "notafter.dev"}, lease)).To(Succeed())
	return lease
}

// evict asks for what a drain asks for.
func evict(ctx context.Context, pod *corev1.Pod) error {
	return admin.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{})
}
