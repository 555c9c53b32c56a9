// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// regranted is how long after a permission was granted its source may take to be read: the wait between two attempts grows to
	// a minute.
	regranted = 2 * time.Minute
	// withdrawn is how long it may take until a missing permission shows: kubelets are asked in every third probe interval, and
	// refuse for a minute before that is believed.
	withdrawn = 3 * time.Minute
)

// source is one thing that notafter reads and can do without.
type source struct {
	// group, resource and name are those of the rule in config/rbac that grants it. The name is empty where the rule has none.
	group, resource, name string
	// url is that of the rule instead, where what is read is no resource.
	url string
	// permission is what the finding names.
	permission string
	// unknown are the conditions that depend on it, besides Compliant.
	unknown []string
	// reader says that it is the account which kubelets are asked with that reads it, and not the manager.
	reader bool
	// token says that what it grants lives on for half an hour, in a token.
	token bool
	// watch makes the policy, which asks for nothing about the control plane, ask for it.
	watch func(*v1alpha1.CertificatePolicySpec)
}

// whose is the account that the finding says to grant the permission to, if the operator runs as the user.
func (s source) whose(user string) string {
	if s.reader || s.token {
		return kubeletReader.String()
	}
	return user
}

// kubeletReader is the account which kubelets are asked with.
var kubeletReader = types.NamespacedName{Namespace: "notafter-system", Name: "notafter-kubelet-reader"}

// sources has a row for every source. Whoever adds one to the operator adds it here.
var sources = []source{
	{
		group: "certificates.k8s.io", resource: "certificatesigningrequests",
		permission: "list certificatesigningrequests.certificates.k8s.io",
		unknown:    []string{v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionCertificatesCurrent},
	},
	{
		resource: "configmaps", name: cluster.RootCAConfigMap, permission: "list configmaps/kube-root-ca.crt in kube-system",
		unknown: []string{v1alpha1.ConditionServingRotationEnabled},
	},
	{
		resource: "configmaps", name: "extension-apiserver-authentication",
		permission: "list configmaps/extension-apiserver-authentication in kube-system", unknown: controlPlane,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.ControlPlane.ClientCA = v1alpha1.WatchWatched },
	},
	{
		group: "discovery.k8s.io", resource: "endpointslices",
		permission: "list endpointslices.discovery.k8s.io in default", unknown: controlPlane,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.ControlPlane.APIServer = v1alpha1.WatchWatched },
	},
	{
		url: "/openid/v1/jwks", permission: "get /openid/v1/jwks", unknown: controlPlane,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.ControlPlane.APIServer = v1alpha1.WatchWatched },
	},
	{
		group: "certificates.k8s.io", resource: "clustertrustbundles",
		permission: "list clustertrustbundles.certificates.k8s.io", unknown: controlPlane,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.ControlPlane.ClusterCA = v1alpha1.WatchWatched },
	},
	{
		group: "apiregistration.k8s.io", resource: "apiservices",
		permission: "list apiservices.apiregistration.k8s.io", unknown: trustBundles,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.TrustBundles.APIServices = v1alpha1.WatchWatched },
	},
	{
		group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations",
		permission: "list validatingwebhookconfigurations.admissionregistration.k8s.io", unknown: trustBundles,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.TrustBundles.Webhooks = v1alpha1.WatchWatched },
	},
	{
		group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations",
		permission: "list mutatingwebhookconfigurations.admissionregistration.k8s.io", unknown: trustBundles,
		watch: func(spec *v1alpha1.CertificatePolicySpec) { spec.TrustBundles.Webhooks = v1alpha1.WatchWatched },
	},
	{
		group: "apiextensions.k8s.io", resource: "customresourcedefinitions",
		permission: "list customresourcedefinitions.apiextensions.k8s.io", unknown: trustBundles,
		watch: func(spec *v1alpha1.CertificatePolicySpec) {
			spec.TrustBundles.ConversionWebhooks = v1alpha1.WatchWatched
		},
	},
	{
		group: "apps", resource: "daemonsets", permission: "list daemonsets.apps", watch: staticMounts,
		unknown: []string{v1alpha1.ConditionServingRotationEnabled},
	},
	{
		group: "apps", resource: "deployments", permission: "list deployments.apps", watch: staticMounts,
		unknown: []string{v1alpha1.ConditionServingRotationEnabled},
	},
	{
		group: "apps", resource: "statefulsets", permission: "list statefulsets.apps", watch: staticMounts,
		unknown: []string{v1alpha1.ConditionServingRotationEnabled},
	},
	{
		resource: "nodes/metrics", reader: true, permission: "get nodes/metrics",
		unknown: []string{v1alpha1.ConditionBootstrapHealthy},
	},
	{
		resource: "nodes/configz", reader: true, permission: "get nodes/configz",
		unknown: []string{v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionServingRotationEnabled},
	},
	{
		resource: "serviceaccounts/token", name: "notafter-kubelet-reader", token: true,
		permission: "create serviceaccounts/token notafter-system/notafter-kubelet-reader",
		unknown:    []string{v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionServingRotationEnabled},
	},
	{
		resource: "secrets", permission: "list secrets in kube-system",
		unknown: []string{v1alpha1.ConditionBootstrapHealthy},
		watch: func(spec *v1alpha1.CertificatePolicySpec) {
			spec.Nodes.BootstrapTokens = v1alpha1.BootstrapTokensSpec{
				Mode: v1alpha1.WatchWatched, WarnBefore: &metav1.Duration{Duration: time.Minute},
			}
		},
	},
}

// The conditions that evidence about the control plane, and about trust bundles, speaks to.
var (
	controlPlane = []string{v1alpha1.ConditionControlPlaneHealthy, v1alpha1.ConditionCertificatesCurrent}
	trustBundles = []string{v1alpha1.ConditionTrustBundlesHealthy}
)

// staticMounts makes the policy ask for workloads that mount a static serving certificate.
func staticMounts(spec *v1alpha1.CertificatePolicySpec) {
	spec.Nodes.StaticServingMounts = v1alpha1.WatchWatched
	spec.Nodes.ServingCertificate.Label = &v1alpha1.NodeLabel{Key: "kubernetes.azure.com/kubelet-serving-ca", Value: "cluster"}
}

// grants says whether the rule is the one that grants the source.
func (s source) grants(rule *rbacv1.PolicyRule) bool {
	if s.url != "" {
		return slices.Contains(rule.NonResourceURLs, s.url)
	}
	return slices.Equal(rule.APIGroups, []string{s.group}) && slices.Contains(rule.Resources, s.resource) &&
		(s.name == "" || slices.Contains(rule.ResourceNames, s.name))
}

// without are the rules that do not grant the source. A rule that grants others as well keeps those.
func (s source) without(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var kept []rbacv1.PolicyRule
	for _, rule := range rules {
		if s.grants(&rule) {
			rule.Resources = slices.DeleteFunc(slices.Clone(rule.Resources), func(r string) bool { return r == s.resource })
			rule.NonResourceURLs = slices.DeleteFunc(slices.Clone(rule.NonResourceURLs), func(u string) bool { return u == s.url })
		}
		if len(rule.Resources)+len(rule.NonResourceURLs) > 0 {
			kept = append(kept, rule)
		}
	}
	return kept
}

// The operators here run in a cluster of their own, one after the other, because two would write the same statuses.
var _ = Describe("An operator that may not read something", Ordered, ContinueOnFailure, func() {
	const pool = "access"
	var (
		elsewhere *cluster.Cluster
		admin     client.Client
	)
	BeforeAll(func(ctx SpecContext) {
		elsewhere = cluster.StartForTest(GinkgoTB(), cluster.Options{
			ControllerManager: true, SigningDuration: 24 * time.Hour, Log: GinkgoWriter,
			InstallCRDs: []string{filepath.Join("..", "..", "config", "crd", "bases")},
		})
		var err error
		admin, err = client.New(elsewhere.Config(), client.Options{Scheme: controllers.NewScheme()})
		Expect(err).NotTo(HaveOccurred())
		Expect(admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kubeletReader.Namespace}})).To(Succeed())
		createKubeletReader(ctx, admin)
		token, err := elsewhere.BootstrapToken(ctx, time.Hour)
		Expect(err).NotTo(HaveOccurred())
		approving, err := kubelet.StartApprover(ctx, elsewhere.Config(), kubelet.Verdict{Decision: kubelet.Approve})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(approving.Stop)
		nodes, err := kubelet.NewFleet(kubelet.Join{API: elsewhere.Config(), BootstrapToken: token}, GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(nodes.Stop)
		_, err = nodes.Start(ctx, kubelet.Options{
			Name: "access-0", Labels: kubelet.AKSLabels(pool, "AKSUbuntu-2204gen2containerd-202501.12.0"),
		})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(5*time.Minute))

	for i, s := range sources {
		It("says that it may not "+s.permission+", judges all else, and recovers", func(ctx SpecContext) {
			name := fmt.Sprintf("access-%d", i)
			policy := operator.PolicyFor(pool)
			policy.Name = name
			operator.NodesOnly(&policy.Spec)
			if s.watch != nil {
				s.watch(&policy.Spec)
			}
			regrant := grant(ctx, admin, name, s)
			user, err := elsewhere.UserConfig(name)
			Expect(err).NotTo(HaveOccurred())
			Expect(admin.Create(ctx, policy)).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(admin.Delete(ctx, policy)).To(Succeed()) })
			operator.Embed(GinkgoTB(), user, askingKubelets)

			By("missing the permission")
			Eventually(func(g Gomega) {
				g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(ContainElement(And(
					HaveField("Reason", v1alpha1.ReasonAccessDenied),
					HaveField("Severity", v1alpha1.SeverityUnknown),
					HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: s.permission}),
					HaveField("Message", And(ContainSubstring(s.permission), ContainSubstring(s.whose(name)), ContainSubstring("Grant"))),
				)))
				g.Expect(policy.Status.Nodes).To(HaveField("Selected", HaveValue(BeEquivalentTo(1))))
				g.Expect(operator.Verdicts(policy)).To(Equal(expectedVerdicts(policy, s.unknown)))
			}).WithContext(ctx).WithTimeout(withdrawn).Should(Succeed())
			Eventually(func(g Gomega) {
				var list eventsv1.EventList
				g.Expect(admin.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault))).To(Succeed())
				g.Expect(list.Items).To(ContainElement(And(
					HaveField("Reason", v1alpha1.ReasonAccessDenied), HaveField("Regarding.Name", name),
				)))
			}).WithContext(ctx).Should(Succeed())

			By("granting it")
			regrant()
			Eventually(func(g Gomega) {
				g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(BeEmpty())
				g.Expect(operator.Verdicts(policy)).To(Equal(expectedVerdicts(policy, nil)))
			}).WithContext(ctx).WithTimeout(regranted).Should(Succeed())
		}, SpecTimeout(6*time.Minute))
	}

	// watched runs an operator as a user of the policy's name, until it finds that all is well. What it returns changes what the user
	// may not do, and waits until all is well again.
	watched := func(ctx SpecContext, policy *v1alpha1.CertificatePolicy, changes ...func(*controllers.Options)) (
		regrant func(but ...source), recovers func(),
	) {
		GinkgoHelper()
		regrant = grant(ctx, admin, policy.Name)
		user, err := elsewhere.UserConfig(policy.Name)
		Expect(err).NotTo(HaveOccurred())
		Expect(admin.Create(ctx, policy)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(admin.Delete(ctx, policy)).To(Succeed()) })
		operator.Embed(GinkgoTB(), user, append(changes, askingKubelets)...)
		recovers = func() {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				g.Expect(admin.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(BeEmpty())
				g.Expect(operator.Verdicts(policy)).To(Equal(expectedVerdicts(policy, nil)))
			}).WithContext(ctx).WithTimeout(regranted).Should(Succeed())
		}
		recovers()
		return regrant, recovers
	}
	briefly := func(o *controllers.Options) { o.WatchTime = watchTime }

	It("says so when permissions are withdrawn while it runs, and recovers", func(ctx SpecContext) {
		const name = "withdrawn"
		policy := operator.PolicyFor(pool)
		policy.Name = name
		var permissions []string
		var withdrawable []source
		for _, s := range sources {
			if s.watch != nil {
				s.watch(&policy.Spec)
			}
			if s.reader || s.token { // without the Cluster CA no kubelet is asked, whoever may ask it
				continue
			}
			withdrawable = append(withdrawable, s)
			if s.url == "" {
				permissions = append(permissions, s.permission)
			}
		}
		policy.Spec.ControlPlane.Expiry.MinimumRemaining = &metav1.Duration{}
		regrant, recovers := watched(ctx, policy, briefly)

		By("withdrawing all that can be done without")
		regrant(withdrawable...)
		Eventually(func(g Gomega) {
			g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, policy)).To(Succeed())
			var denied []string
			for _, finding := range policy.Status.Findings {
				// What is no resource is asked for now and then, so that it may be among them already.
				if finding.Reason == v1alpha1.ReasonAccessDenied && !strings.HasPrefix(finding.Subject.Name, "get /") {
					denied = append(denied, strings.Replace(finding.Subject.Name, "watch ", "list ", 1))
				}
			}
			g.Expect(denied).To(ConsistOf(permissions))
			g.Expect(operator.Verdicts(policy)).To(HaveKeyWithValue(v1alpha1.ConditionCompliant, "Unknown "+v1alpha1.ReasonAccessDenied))
		}).WithContext(ctx).Should(Succeed())

		By("granting it again")
		regrant()
		recovers()
	}, SpecTimeout(6*time.Minute))

	It("says so when kubelets refuse while it runs, once and of every node, and recovers", func(ctx SpecContext) {
		const name = "refused"
		policy := operator.PolicyFor(pool)
		policy.Name = name
		operator.NodesOnly(&policy.Spec)
		regrant, recovers := watched(ctx, policy)

		By("withdrawing what the account may do that kubelets are asked with")
		regrant(slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return !s.reader })...)
		Eventually(func(g Gomega) {
			g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, policy)).To(Succeed())
			g.Expect(policy.Status.Findings).To(HaveExactElements(
				HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: "get nodes/configz"}),
				HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: "get nodes/metrics"}),
			))
			g.Expect(policy.Status.Nodes).To(HaveField("Unknown", HaveValue(BeEquivalentTo(1))))
			g.Expect(operator.Verdicts(policy)).To(Equal(expectedVerdicts(policy,
				[]string{v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionServingRotationEnabled})))
		}).WithContext(ctx).WithTimeout(withdrawn).Should(Succeed())

		By("granting it again")
		regrant()
		recovers()
	}, SpecTimeout(8*time.Minute))

	It("takes nothing for true that it may not look at or write down any more, and recovers", func(ctx SpecContext) {
		const name = "aging"
		policy := operator.PolicyFor(pool)
		policy.Name = name
		operator.NodesOnly(&policy.Spec)
		regrant, recovers := watched(ctx, policy, briefly)

		for _, s := range []source{
			{resource: "nodes", permission: "nodes"},
			{group: "notafter.dev", resource: "nodecertificates", permission: "nodecertificates.notafter.dev"},
			{group: "notafter.dev", resource: "certificatepolicies", permission: "certificatepolicies.notafter.dev"},
			{group: "notafter.dev", resource: "nodecertificates/status", permission: "nodecertificates.notafter.dev/status"},
		} {
			By("withdrawing " + s.permission)
			regrant(s)
			if s.resource == "nodecertificates/status" {
				// There is nothing to write before something changes, and that must not be before the API server knows.
				Eventually(mayUpdate(admin, name, s)).WithContext(ctx).Should(BeFalse())
				known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "access-0"}}
				Expect(admin.Delete(ctx, known)).To(Succeed())
			}
			Eventually(func(g Gomega) {
				g.Expect(admin.Get(ctx, client.ObjectKey{Name: name}, policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(ContainElement(And(
					HaveField("Reason", v1alpha1.ReasonAccessDenied),
					HaveField("Severity", v1alpha1.SeverityUnknown),
					HaveField("Subject.Name", MatchRegexp("^(list|watch|update) %s$", regexp.QuoteMeta(s.permission))),
					HaveField("Message", And(ContainSubstring(name), ContainSubstring("Grant"))),
				)))
				g.Expect(operator.Verdicts(policy)).To(HaveKeyWithValue(v1alpha1.ConditionCompliant, "Unknown "+v1alpha1.ReasonAccessDenied))
			}).WithContext(ctx).Should(Succeed())
			regrant()
			recovers()
		}
	}, SpecTimeout(15*time.Minute))
})

// mayUpdate asks the API server whether the user may update the resource.
func mayUpdate(admin client.Client, user string, s source) func(context.Context) (bool, error) {
	resource, subresource, _ := strings.Cut(s.resource, "/")
	return func(ctx context.Context) (bool, error) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "update", Group: s.group, Resource: resource, Subresource: subresource,
			},
		}}
		err := admin.Create(ctx, review)
		return review.Status.Allowed, err
	}
}

// watchTime is how long the watches of an operator run that permissions are withdrawn from.
const watchTime = 3 * time.Second

// expectedVerdicts are the same conditions, all as they should be but those that are not known for want of a permission.
func expectedVerdicts(policy *v1alpha1.CertificatePolicy, unknown []string) map[string]string {
	expected := map[string]string{}
	for conditionType := range operator.Verdicts(policy) {
		expected[conditionType] = "True " + v1alpha1.ReasonAsExpected
	}
	if len(unknown) > 0 {
		expected[v1alpha1.ConditionCompliant] = "Unknown " + v1alpha1.ReasonAccessDenied
	}
	for _, conditionType := range unknown {
		Expect(meta.FindStatusCondition(policy.Status.Conditions, conditionType)).NotTo(BeNil(), conditionType)
		expected[conditionType] = "Unknown " + v1alpha1.ReasonAccessDenied
	}
	return expected
}

// grant gives the user what config/rbac and the components give the manager, but for some sources. What it returns makes those
// other ones.
func grant(ctx context.Context, admin client.Client, user string, but ...source) (regrant func(but ...source)) {
	GinkgoHelper()
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	shipped := roles()
	for i, role := range shipped {
		role.SetName(fmt.Sprintf("%s-%d", user, i))
		Expect(admin.Create(ctx, narrowed(role, but))).To(Succeed())
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Name: role.GetName(), Kind: "ClusterRole"}
		var binding client.Object = &rbacv1.ClusterRoleBinding{RoleRef: ref, Subjects: subjects}
		if role.GetNamespace() != "" {
			ref.Kind = "Role"
			binding = &rbacv1.RoleBinding{RoleRef: ref, Subjects: subjects}
		}
		binding.SetName(role.GetName())
		binding.SetNamespace(role.GetNamespace())
		Expect(admin.Create(ctx, binding)).To(Succeed())
	}
	shipped = append(shipped, kubeletReaderRole())
	regrant = func(but ...source) {
		GinkgoHelper()
		for _, role := range shipped {
			Expect(admin.Update(ctx, narrowed(role, but))).To(Succeed())
		}
	}
	regrant(but...)
	return regrant
}

// createKubeletReader makes the account that kubelets are asked with, which may do what it is shipped with.
func createKubeletReader(ctx context.Context, admin client.Client) {
	GinkgoHelper()
	role := kubeletReaderRole()
	for _, object := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: kubeletReader.Namespace, Name: kubeletReader.Name}},
		role,
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.GetName()},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.GetName()},
			Subjects: []rbacv1.Subject{{
				Kind: rbacv1.ServiceAccountKind, Namespace: kubeletReader.Namespace, Name: kubeletReader.Name,
			}},
		},
	} {
		Expect(admin.Create(ctx, object)).To(Succeed())
	}
}

// kubeletReaderRole is what the account may do that kubelets are asked with.
func kubeletReaderRole() client.Object {
	GinkgoHelper()
	found := rolesIn(filepath.Join("..", "..", "config", "rbac", "kubelet_reader.yaml"))
	Expect(found).To(HaveLen(1))
	return found[0]
}

// askingKubelets has the operator ask kubelets about themselves.
func askingKubelets(o *controllers.Options) { o.KubeletReader = kubeletReader }

// narrowed is the role without what grants the sources.
func narrowed(role client.Object, but []source) client.Object {
	result := role.DeepCopyObject().(client.Object)
	for _, s := range but {
		switch role := result.(type) {
		case *rbacv1.ClusterRole:
			role.Rules = s.without(role.Rules)
		case *rbacv1.Role:
			role.Rules = s.without(role.Rules)
		}
	}
	return result
}

// roles are those that the manager is shipped with.
func roles() []client.Object {
	GinkgoHelper()
	return rolesIn(
		filepath.Join("..", "..", "config", "rbac", "role.yaml"),
		filepath.Join("..", "..", "config", "components", "bootstrap-tokens", "role.yaml"),
	)
}

// rolesIn are the roles in the files.
func rolesIn(paths ...string) []client.Object {
	GinkgoHelper()
	var found []client.Object
	for _, path := range paths {
		file, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			Expect(err).NotTo(HaveOccurred())
			if role := roleIn(document); role != nil {
				found = append(found, role)
			}
		}
	}
	return found
}

// roleIn is the Role or ClusterRole; nil when the document is something else.
func roleIn(document []byte) client.Object {
	GinkgoHelper()
	var kind metav1.TypeMeta
	Expect(yaml.Unmarshal(document, &kind)).To(Succeed())
	var role client.Object
	switch kind.Kind {
	case "ClusterRole":
		role = &rbacv1.ClusterRole{}
	case "Role":
		role = &rbacv1.Role{}
	default:
		return nil
	}
	Expect(yaml.Unmarshal(document, role)).To(Succeed())
	return role
}
