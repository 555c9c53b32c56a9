// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// restricted is a user that may do what the manager must, and nothing that some policies ask for.
const restricted = "restricted-manager"

// as is the configuration by which a user acts.
func as(user string, groups ...string) *rest.Config {
	GinkgoHelper()
	config, err := kubernetes.UserConfig(user, groups...)
	Expect(err).NotTo(HaveOccurred())
	return config
}

// create creates an object for the time of the spec.
func create(ctx context.Context, o client.Object) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, o)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) error { return client.IgnoreNotFound(k8s.Delete(ctx, o)) })
}

// allow gives the user the permissions for the time of the spec.
func allow(ctx context.Context, user string, rules ...rbacv1.PolicyRule) {
	GinkgoHelper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: user + "-"}, Rules: rules}
	create(ctx, role)
	create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: user + "-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
}

// newToken is a bootstrap token as kubeadm makes one.
func newToken(id string, expires time.Time) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstrapapi.BootstrapTokenSecretPrefix + id},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey:               id,
			bootstrapapi.BootstrapTokenSecretKey:           "0123456789abcdef",
			bootstrapapi.BootstrapTokenExpirationKey:       expires.UTC().Format(time.RFC3339),
			bootstrapapi.BootstrapTokenUsageAuthentication: "true",
		},
	}
}

// newAgent is a DaemonSet that mounts a path of the host.
func newAgent(name, path string) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "agent", Image: "agent"}},
					Volumes: []corev1.Volume{{Name: "certificate", VolumeSource: corev1.VolumeSource{
						HostPath: &corev1.HostPathVolumeSource{Path: path, Type: new(corev1.HostPathFile)},
					}}},
				},
			},
		},
	}
}

// newAKSPolicy is a policy for nodes with AKS's label.
func newAKSPolicy(pool string) *v1alpha1.CertificatePolicy {
	p := newPoolPolicy(pool)
	p.Spec.Nodes.ServingCertificate.Label = &v1alpha1.NodeLabel{
		Key: "kubernetes.azure.com/kubelet-serving-ca", Value: "cluster",
	}
	return p
}

// createAKSNode creates a Node with AKS's label.
func createAKSNode(ctx context.Context, pool, name string) *corev1.Node {
	GinkgoHelper()
	node := newNode(pool, name)
	node.Labels["kubernetes.azure.com/kubelet-serving-ca"] = "cluster"
	node.Labels["agentpool"] = pool
	create(ctx, node)
	DeferCleanup(deletePool, pool)
	return node
}

func eventuallyFinding(ctx context.Context, policyName, reason string, match func(Gomega, *v1alpha1.Finding)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		finding := findingOf(current(ctx, g, policyName), reason)
		g.Expect(finding).NotTo(BeNil())
		match(g, finding)
	}).WithContext(ctx).Should(Succeed())
}

func eventuallyNoFinding(ctx context.Context, policyName, reason string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(findingOf(current(ctx, g, policyName), reason)).To(BeNil())
	}).WithContext(ctx).Should(Succeed())
}

var _ = Describe("bootstrapping", func() {
	It("reports a machine that got a certificate and does not register, until it does", func(ctx SpecContext) {
		run := startController()
		createPolicy(ctx, newPoolPolicy("unregistered"))
		eventuallyCondition(ctx, "unregistered", v1alpha1.ConditionReady, "True Evaluated")
		allow(ctx, "system:bootstrap:abcdef", rbacv1.PolicyRule{
			APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"create"},
		})
		machine, err := client.New(as("system:bootstrap:abcdef", "system:bootstrappers"), client.Options{Scheme: scheme})
		Expect(err).NotTo(HaveOccurred())
		request := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "node-csr-unregistered"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request:    pkitest.Request(pkitest.Node("unregistered-1")),
				SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
				Usages: []certificatesv1.KeyUsage{
					certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth,
				},
			},
		}
		// The API server takes note of permissions a little later.
		Eventually(func() error { return machine.Create(ctx, request) }).WithContext(ctx).Should(Succeed())
		DeferCleanup(func(ctx SpecContext) error { return client.IgnoreNotFound(k8s.Delete(ctx, request)) })
		request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", LastUpdateTime: metav1.Now(),
		}}
		Expect(k8s.SubResource("approval").Update(ctx, request)).To(Succeed())
		request.Status.Certificate = pkitest.NewCA("ca").SignRequest(request.Spec.Request).PEM()
		Expect(k8s.Status().Update(ctx, request)).To(Succeed())

		eventuallyFinding(ctx, "unregistered", v1alpha1.ReasonNodeNotRegistered, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Subject).To(Equal(v1alpha1.Subject{Kind: v1alpha1.SubjectSigningRequest, Name: request.Name}))
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityViolation))
			g.Expect(f.Message).To(And(ContainSubstring("system:bootstrap:abcdef"), ContainSubstring("unregistered-1")))
		})
		eventuallyCondition(ctx, "unregistered", v1alpha1.ConditionBootstrapHealthy, "False NodeNotRegistered")

		By("another process taking over, which does not know what was before")
		run.stop()
		startController()
		eventuallyFinding(ctx, "unregistered", v1alpha1.ReasonNodeNotRegistered, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityUnknown))
			g.Expect(f.Message).To(ContainSubstring("then nothing is wrong"))
		})

		node := createNode(ctx, "unregistered", "unregistered-1")
		eventuallyNoFinding(ctx, "unregistered", v1alpha1.ReasonNodeNotRegistered)

		By("deleting a Node that was registered")
		Expect(k8s.Delete(ctx, node)).To(Succeed())
		eventuallyCondition(ctx, "unregistered", v1alpha1.ConditionBootstrapHealthy, "Unknown NoNodesSelected")
		Consistently(func(g Gomega) {
			g.Expect(findingOf(current(ctx, g, "unregistered"), v1alpha1.ReasonNodeNotRegistered)).To(BeNil())
		}).WithTimeout(2 * time.Second).WithContext(ctx).Should(Succeed())
	}, SpecTimeout(5*time.Minute))

	It("reports a pool whose nodes were off while their certificates ran out, and believes a node that is ready",
		func(ctx SpecContext) {
			startController()
			createPolicy(ctx, newPoolPolicy("stopped"))
			node := createAKSNode(ctx, "stopped", "stopped-1")
			facts := observe(ctx, node, time.Now().Add(-time.Hour), time.Now().Add(99*time.Hour))
			expired := facts.Status.Certificates[0]
			expired.Purpose, expired.Source = v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest
			expired.NotBefore, expired.NotAfter = metav1.NewTime(time.Now().Add(-2*time.Hour)), metav1.NewTime(time.Now().Add(-time.Hour))
			facts.Status.Certificates = append(facts.Status.Certificates, expired)
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			eventuallyFinding(ctx, "stopped", v1alpha1.ReasonNotObserved, func(g Gomega, f *v1alpha1.Finding) {
				g.Expect(f.Certificate).To(Equal(v1alpha1.PurposeKubeletClient))
				g.Expect(f.Message).To(ContainSubstring("yet the Node is ready"))
			})
			setReady := func(status corev1.ConditionStatus) {
				node.Status.Conditions[0].Status = status
				Expect(k8s.Status().Update(ctx, node)).To(Succeed())
			}

			setReady(corev1.ConditionUnknown)
			eventuallyFinding(ctx, "stopped", v1alpha1.ReasonNodePoolNeedsRecreation, func(g Gomega, f *v1alpha1.Finding) {
				g.Expect(f.Subject).To(Equal(v1alpha1.Subject{Kind: v1alpha1.SubjectNodePool, Name: "stopped"}))
				g.Expect(f.Message).To(And(ContainSubstring("stopped-1"), ContainSubstring("Recreate the node pool")))
			})
			eventuallyCondition(ctx, "stopped", v1alpha1.ConditionBootstrapHealthy, "False NodePoolNeedsRecreation")

			setReady(corev1.ConditionTrue)
			eventuallyNoFinding(ctx, "stopped", v1alpha1.ReasonNodePoolNeedsRecreation)

			By("restarting the machine, whose kubelet has reported until then")
			node.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			setReady(corev1.ConditionUnknown)
			eventuallyFinding(ctx, "stopped", v1alpha1.ReasonNotObserved, func(g Gomega, f *v1alpha1.Finding) {
				g.Expect(f.Message).To(ContainSubstring("yet the kubelet has reported to the API server since"))
			})
			Expect(findingOf(current(ctx, Default, "stopped"), v1alpha1.ReasonNodePoolNeedsRecreation)).To(BeNil())
		}, SpecTimeout(5*time.Minute))

	It("judges bootstrap tokens where a policy watches them", func(ctx SpecContext) {
		startController()
		p := newPoolPolicy("tokens")
		p.Spec.Nodes.BootstrapTokens.Mode = v1alpha1.WatchWatched
		createPolicy(ctx, p)
		createPolicy(ctx, newPoolPolicy("no-tokens"))
		token := newToken("abcdef", time.Now().Add(time.Hour))
		create(ctx, token)
		signing := newToken("fedcba", time.Now().Add(-time.Hour))
		signing.StringData[bootstrapapi.BootstrapTokenUsageAuthentication] = "false"
		create(ctx, signing)
		subject := v1alpha1.Subject{Kind: v1alpha1.SubjectSecret, Name: "kube-system/bootstrap-token-abcdef"}
		eventuallyFinding(ctx, "tokens", v1alpha1.ReasonBootstrapTokenExpired, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityInfo))
			g.Expect(f.Subject).To(Equal(subject))
			g.Expect(f.Message).NotTo(ContainSubstring("0123456789abcdef"))
		})

		expire := newToken("abcdef", time.Now().Add(3*time.Second))
		token.StringData = expire.StringData
		Expect(k8s.Update(ctx, token)).To(Succeed())
		eventuallyFinding(ctx, "tokens", v1alpha1.ReasonBootstrapTokenExpired, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityViolation))
			g.Expect(f.Subject).To(Equal(subject))
		})
		eventuallyCondition(ctx, "tokens", v1alpha1.ConditionBootstrapHealthy, "False BootstrapTokenExpired")
		Expect(findingOf(current(ctx, Default, "no-tokens"), v1alpha1.ReasonBootstrapTokenExpired)).To(BeNil())

		Expect(k8s.Delete(ctx, token)).To(Succeed())
		eventuallyNoFinding(ctx, "tokens", v1alpha1.ReasonBootstrapTokenExpired)
	}, SpecTimeout(5*time.Minute))
})

var _ = Describe("workloads that mount the static serving certificate", func() {
	It("are reported before serving rotation bites, and when it does", func(ctx SpecContext) {
		startController()
		createPolicy(ctx, newAKSPolicy("mounts"))
		createPolicy(ctx, newPoolPolicy("not-aks"))
		node := createAKSNode(ctx, "mounts", "mounts-1")
		facts := observe(ctx, node, time.Now().Add(-time.Hour), time.Now().Add(99*time.Hour))
		facts.Status.Serving.Mode = v1alpha1.ServingModeSelfSigned
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		agent := newAgent("agent", "/etc/kubernetes/certs/kubeletserver.crt")
		create(ctx, agent)
		create(ctx, newAgent("harmless", "/etc/kubernetes/certs"))
		subject := v1alpha1.Subject{Kind: v1alpha1.SubjectDaemonSet, Name: "default/agent"}
		eventuallyFinding(ctx, "mounts", v1alpha1.ReasonStaticServingCertificateMounted, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityInfo))
			g.Expect(f.Subject).To(Equal(subject))
		})

		healthy(facts)
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		eventuallyFinding(ctx, "mounts", v1alpha1.ReasonStaticServingCertificateMounted, func(g Gomega, f *v1alpha1.Finding) {
			g.Expect(f.Severity).To(Equal(v1alpha1.SeverityViolation))
			g.Expect(f.Subject).To(Equal(subject))
		})
		Expect(findingOf(current(ctx, Default, "not-aks"), v1alpha1.ReasonStaticServingCertificateMounted)).To(BeNil())

		agent.Spec.Template.Spec.Volumes = nil
		Expect(k8s.Update(ctx, agent)).To(Succeed())
		eventuallyNoFinding(ctx, "mounts", v1alpha1.ReasonStaticServingCertificateMounted)
	}, SpecTimeout(5*time.Minute))
})

var _ = Describe("what only some policies ask for", func() {
	It("is reported as denied where it may not be read, and judged once it may", func(ctx SpecContext) {
		allow(ctx, restricted,
			rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"*"}, Verbs: []string{"*"}},
			rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
			rbacv1.PolicyRule{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create"}},
		)
		startControllerAs(as(restricted))
		p := newAKSPolicy("denied")
		p.Spec.Nodes.BootstrapTokens.Mode = v1alpha1.WatchWatched
		p.Spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationIgnored
		createPolicy(ctx, p)
		facts := observe(ctx, createAKSNode(ctx, "denied", "denied-1"), time.Now().Add(-time.Hour), time.Now().Add(99*time.Hour))
		denied := func(g Gomega) (permissions []string) {
			for _, f := range current(ctx, g, "denied").Status.Findings {
				if f.Reason == v1alpha1.ReasonAccessDenied && f.Subject.Kind == v1alpha1.SubjectPermission {
					permissions = append(permissions, f.Subject.Name)
				}
			}
			return permissions
		}
		Eventually(denied).WithContext(ctx).Should(ConsistOf(
			"list secrets in kube-system", "list daemonsets.apps", "list deployments.apps", "list statefulsets.apps"))
		eventuallyCondition(ctx, "denied", v1alpha1.ConditionServingRotationEnabled, "Unknown AccessDenied")
		eventuallyCondition(ctx, "denied", v1alpha1.ConditionBootstrapHealthy, "Unknown AccessDenied")
		eventuallyCondition(ctx, "denied", v1alpha1.ConditionCertificatesCurrent, "True AsExpected")

		By("judging everything else")
		servesNothing(facts)
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		eventuallyCondition(ctx, "denied", v1alpha1.ConditionServingRotationEnabled, "False ServingCertificateMissing")
		healthy(facts)
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())

		By("installing the component, and granting the rest")
		installBootstrapTokens(ctx, restricted)
		allow(ctx, restricted, rbacv1.PolicyRule{
			APIGroups: []string{"apps"}, Resources: []string{"daemonsets", "deployments", "statefulsets"},
			Verbs: []string{"list", "watch"},
		})
		create(ctx, newToken("denied", time.Now().Add(-time.Hour)))
		Eventually(denied).WithContext(ctx).WithTimeout(3 * time.Minute).Should(BeEmpty())
		eventuallyFinding(ctx, "denied", v1alpha1.ReasonBootstrapTokenExpired, func(Gomega, *v1alpha1.Finding) {})
		eventuallyCondition(ctx, "denied", v1alpha1.ConditionServingRotationEnabled, "True AsExpected")
	}, SpecTimeout(5*time.Minute))
})

// installBootstrapTokens applies config/components/bootstrap-tokens, with the user in the place of the manager.
func installBootstrapTokens(ctx context.Context, user string) {
	GinkgoHelper()
	file, err := os.Open(filepath.Join("..", "..", "config", "components", "bootstrap-tokens", "role.yaml"))
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(file.Close()).To(Succeed()) }()
	decoder := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for range 2 {
		o := &unstructured.Unstructured{}
		Expect(decoder.Decode(o)).To(Succeed())
		if o.GetKind() == "RoleBinding" {
			subjects := []any{map[string]any{"apiGroup": rbacv1.GroupName, "kind": rbacv1.UserKind, "name": user}}
			Expect(unstructured.SetNestedSlice(o.Object, subjects, "subjects")).To(Succeed())
		}
		create(ctx, o)
	}
}
