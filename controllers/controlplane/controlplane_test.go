// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// watchAll makes a policy that watches everything, for as long as the spec runs.
func watchAll(ctx context.Context, name string, change ...func(*v1alpha1.CertificatePolicySpec)) *v1alpha1.CertificatePolicy {
	GinkgoHelper()
	p := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, each := range change {
		each(&p.Spec)
	}
	create(ctx, p)
	return p
}

func snapshot() policy.ControlPlane {
	found, _ := store.Snapshot()
	if found == nil {
		return policy.ControlPlane{}
	}
	return *found
}

func denied() []string {
	_, denied := store.Snapshot()
	var permissions []string
	for _, each := range denied {
		permissions = append(permissions, each.Permission)
	}
	return permissions
}

// bundleNamed is the bundle of an object; empty while there is none.
func bundleNamed(name string) func() policy.Bundle {
	return func() policy.Bundle {
		for _, each := range snapshot().Bundles {
			if each.Name == name {
				return each
			}
		}
		return policy.Bundle{}
	}
}

// endpoints are the API server's.
func endpoints() []policy.Endpoint { return snapshot().Endpoints }

// certificates are the fingerprints of the certificates of this purpose.
func certificates(purpose v1alpha1.CertificatePurpose) func() []string {
	return func() []string {
		var sums []string
		for _, each := range snapshot().Certificates {
			if each.Purpose == purpose {
				sums = append(sums, each.SHA256)
			}
		}
		return sums
	}
}

func holds(certs ...*pkitest.CA) gomegatypes.GomegaMatcher {
	var sums []any
	for _, cert := range certs {
		sums = append(sums, HaveField("SHA256", pki.Fingerprint(cert.X509)))
	}
	return HaveField("Certificates", ConsistOf(sums...))
}

// now is a lifetime around the present.
func now(before, after time.Duration) pkitest.Option {
	return pkitest.Lifetime(time.Now().Add(-before), time.Now().Add(after))
}

// formerCA is what the tools leave behind that make a new Cluster CA under the old name.
func formerCA() *pkitest.CA {
	ca, _ := server.CA()
	return pkitest.NewCA(ca.Subject.CommonName, pkitest.Lifetime(ca.NotBefore.AddDate(-1, 0, 0), ca.NotAfter.AddDate(-1, 0, 0)),
		pkitest.Template(withSubject(ca.Subject)))
}

func publish(ctx context.Context, pem []byte) {
	GinkgoHelper()
	configMap := &corev1.ConfigMap{}
	Expect(c.Get(ctx, trustBundle, configMap)).To(Succeed())
	configMap.Data["ca.crt"] = string(pem)
	Expect(c.Update(ctx, configMap)).To(Succeed())
}

var _ = Describe("The control plane", func() {
	It("is observed while a policy watches it, and only what one watches", func(ctx SpecContext) {
		observed := func() *policy.ControlPlane { found, _ := store.Snapshot(); return found }
		By("looking at nothing, once the policies of earlier specs are gone")
		Eventually(store.Settled()).Should(BeClosed())
		Eventually(observed).Should(BeNil())
		Consistently(observed).WithTimeout(time.Second).Should(BeNil())
		ignoring := watchAll(ctx, "webhooks-only", func(s *v1alpha1.CertificatePolicySpec) {
			s.ControlPlane = v1alpha1.ControlPlaneSpec{
				ClusterCA: v1alpha1.WatchIgnored, APIServer: v1alpha1.WatchIgnored,
				ClientCA: v1alpha1.WatchIgnored, Aggregation: v1alpha1.WatchIgnored,
			}
			s.TrustBundles = v1alpha1.TrustBundlesSpec{
				APIServices: v1alpha1.WatchIgnored, ConversionWebhooks: v1alpha1.WatchIgnored,
			}
		})
		Eventually(observed).ShouldNot(BeNil())
		found := snapshot()
		Expect(found.Certificates).To(BeEmpty())
		Expect(found.Endpoints).To(BeEmpty())
		Expect(found.ServiceAccountKeys).To(BeEmpty())
		// Who begins to watch one of them is not to take it for absent.
		var unread []v1alpha1.CertificatePurpose
		for _, each := range found.Unreadable {
			Expect(each.Message).To(BeEmpty())
			unread = append(unread, each.Purpose)
		}
		Expect(unread).To(ConsistOf(
			v1alpha1.PurposeClusterCA, v1alpha1.PurposeClusterTrustBundle, v1alpha1.PurposeAPIServer, v1alpha1.PurposeClientCA,
			v1alpha1.PurposeAggregationCA, v1alpha1.PurposeAPIServiceCA, v1alpha1.PurposeConversionWebhookCA))

		watchAll(ctx, "everything")
		Eventually(func() []policy.Unreadable { return snapshot().Unreadable }).Should(BeEmpty())
		ca, _ := server.CA()
		sum := pki.Fingerprint(ca)
		Expect(certificates(v1alpha1.PurposeClusterCA)()).To(Equal([]string{sum}))
		Expect(certificates(v1alpha1.PurposeClientCA)()).To(Equal([]string{sum}))
		Expect(certificates(v1alpha1.PurposeAggregationCA)()).To(And(HaveLen(1), Not(ContainElement(sum))))
		Expect(denied()).To(BeEmpty())

		By("looking at what the API server serves")
		address := strings.TrimPrefix(server.Config().Host, "https://")
		Eventually(endpoints).Should(Equal([]policy.Endpoint{
			{Address: address, Outcome: v1alpha1.ProbeCertificatePresented, Verified: true},
		}))
		Eventually(func() []policy.Certificate { return snapshot().Certificates }).Should(ContainElement(And(
			HaveField("Purpose", v1alpha1.PurposeAPIServer), HaveField("Source", address),
			HaveField("Subject", ContainSubstring("CN=kube-apiserver")),
			HaveField("IssuerNotAfter", BeTemporally("==", ca.NotAfter)))))
		Eventually(func() []string { return snapshot().ServiceAccountKeys }).Should(HaveLen(1))

		By("forgetting it when nobody watches")
		Expect(c.DeleteAllOf(ctx, ignoring)).To(Succeed())
		Eventually(observed).Should(BeNil())
	}, SpecTimeout(6*soon))

	It("follows the Cluster CA, each certificate of it, and tells an API server that does not fit", func(ctx SpecContext) {
		watchAll(ctx, "cluster-ca")
		current, _ := server.CA()
		successor := pkitest.NewCA("next-ca", now(time.Hour, time.Hour))
		DeferCleanup(func(ctx SpecContext) { publish(ctx, server.CACertPEM()) })

		publish(ctx, pkitest.PEM(current, successor.X509))
		Eventually(certificates(v1alpha1.PurposeClusterCA)).Should(
			ConsistOf(pki.Fingerprint(current), pki.Fingerprint(successor.X509)))
		configuration := webhook("outgoing", server.CACertPEM())
		create(ctx, configuration)
		Eventually(bundleNamed("outgoing")).Should(HaveField("Certificates", HaveLen(1)))
		Consistently(bundleNamed("outgoing")).WithTimeout(500 * time.Millisecond).Should(HaveField("Stale", false))

		publish(ctx, pkitest.PEM(successor.X509))
		Eventually(bundleNamed("outgoing")).Should(HaveField("Stale", true))
		Eventually(endpoints).Should(ConsistOf(And(
			HaveField("Outcome", v1alpha1.ProbeCertificatePresented), HaveField("Verified", false),
			HaveField("Message", ContainSubstring("does not verify")))))

		publish(ctx, []byte("nonsense"))
		Eventually(func() []policy.Unreadable { return snapshot().Unreadable }).Should(ContainElement(And(
			HaveField("Purpose", v1alpha1.PurposeClusterCA), HaveField("Source", trustBundle.String()),
			HaveField("Message", ContainSubstring("no CERTIFICATE block")))))
		Eventually(endpoints).Should(BeEmpty(), "nothing is known of who signed it")

		publish(ctx, server.CACertPEM())
		Eventually(bundleNamed("outgoing")).Should(HaveField("Stale", false))
		Eventually(endpoints).Should(ConsistOf(HaveField("Verified", true)))
	}, SpecTimeout(6*soon))

	It("finds the certificates of ClusterTrustBundles", func(ctx SpecContext) {
		watchAll(ctx, "cluster-trust-bundles")
		ca := pkitest.NewCA("trusted", now(time.Hour, time.Hour))
		create(ctx, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: "trusted"},
			Spec:       certificatesv1.ClusterTrustBundleSpec{TrustBundle: string(ca.PEM())},
		})
		Eventually(func() []policy.Certificate { return snapshot().Certificates }).Should(ContainElement(And(
			HaveField("Purpose", v1alpha1.PurposeClusterTrustBundle), HaveField("Source", "trusted"),
			HaveField("SHA256", pki.Fingerprint(ca.X509)))))
	}, SpecTimeout(3*soon))
})

func webhook(name string, caBundle []byte) *admissionregistrationv1.ValidatingWebhookConfiguration {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{validatingWebhook(name, caBundle)},
	}
}

func validatingWebhook(name string, caBundle []byte) admissionregistrationv1.ValidatingWebhook {
	return admissionregistrationv1.ValidatingWebhook{
		Name: name + ".example.com", AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/"), CABundle: caBundle},
		// Of a group that is not there, so that it never gets anything to judge.
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule: admissionregistrationv1.Rule{
				APIGroups: []string{"none.example.com"}, APIVersions: []string{"*"}, Resources: []string{"*"},
			},
		}},
		SideEffects: new(admissionregistrationv1.SideEffectClassNone),
	}
}

var _ = Describe("Trust bundles", func() {
	BeforeEach(func(ctx SpecContext) { watchAll(ctx, "trust-bundles") })

	It("are those of webhooks: good, expired, stale and garbage", func(ctx SpecContext) {
		good := pkitest.NewCA("good", now(time.Hour, time.Hour))
		expired := pkitest.NewCA("expired", now(2*time.Hour, -time.Hour))
		former := formerCA()
		two := webhook("several", good.PEM())
		two.Webhooks = append(two.Webhooks, validatingWebhook("other", append(good.PEM(), expired.PEM()...)),
			validatingWebhook("without", nil))
		create(ctx, two)
		create(ctx, webhook("garbage", []byte("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t")))
		create(ctx, webhook("stale", former.PEM()))
		create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "mutating"},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "mutating.example.com", AdmissionReviewVersions: []string{"v1"},
				ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/"), CABundle: former.PEM()},
				SideEffects:  new(admissionregistrationv1.SideEffectClassNone),
			}},
		})
		Eventually(bundleNamed("mutating")).Should(And(HaveField("Kind", v1alpha1.SubjectMutatingWebhook),
			HaveField("Entry", "mutating.example.com"), HaveField("Stale", true), holds(former)))
		Eventually(bundleNamed("stale")).Should(And(HaveField("Kind", v1alpha1.SubjectValidatingWebhook),
			HaveField("Purpose", v1alpha1.PurposeWebhookCA), HaveField("Stale", true), holds(former)))
		Eventually(bundleNamed("garbage")).Should(And(
			HaveField("Malformed", ContainSubstring("no CERTIFICATE block")), HaveField("Certificates", BeEmpty())))
		Eventually(func() []policy.Bundle {
			return slices.DeleteFunc(slices.Clone(snapshot().Bundles), func(b policy.Bundle) bool { return b.Name != "several" })
		}).Should(ConsistOf(
			And(HaveField("Entry", "several.example.com"), holds(good)),
			And(HaveField("Entry", "other.example.com"), holds(good, expired), HaveField("Stale", false))))

		By("seeing a repair at once")
		repaired := &admissionregistrationv1.ValidatingWebhookConfiguration{}
		Expect(c.Get(ctx, client.ObjectKey{Name: "garbage"}, repaired)).To(Succeed())
		repaired.Webhooks[0].ClientConfig.CABundle = server.CACertPEM()
		Expect(c.Update(ctx, repaired)).To(Succeed())
		Eventually(bundleNamed("garbage")).Should(
			And(HaveField("Malformed", ""), HaveField("Stale", false), HaveField("Certificates", HaveLen(1))))
	}, SpecTimeout(6*soon))

	It("are those of APIServices, with what the API server says of them", func(ctx SpecContext) {
		current := pkitest.NewCA("api-ca", now(time.Hour, time.Hour))
		expired := pkitest.NewCA("expired-api-ca", now(2*time.Hour, -time.Hour))
		port := serveAPI(current.Leaf(pkitest.DNSNames("api.default.svc"), now(time.Hour, time.Hour)))
		create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "api"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
		})
		service := newAPIService("v1.aggregated.example.com", port, expired.PEM())
		create(ctx, service)
		create(ctx, newAPIService("v1.garbage.example.com", port, []byte("garbage")))
		create(ctx, newAPIService("v1.stale.example.com", port, formerCA().PEM()))

		Eventually(bundleNamed("v1.aggregated.example.com")).Should(And(
			HaveField("Kind", v1alpha1.SubjectAPIService), HaveField("Purpose", v1alpha1.PurposeAPIServiceCA), holds(expired),
			HaveField("Unavailable", And(ContainSubstring("FailedDiscoveryCheck: "), ContainSubstring("x509")))))
		Eventually(bundleNamed("v1.stale.example.com")).Should(And(
			HaveField("Stale", true), HaveField("Unavailable", ContainSubstring("x509"))))
		// By now the API server has looked at the one that was created before.
		Eventually(bundleNamed("v1.garbage.example.com")).Should(HaveField("Malformed", Not(BeEmpty())))
		Consistently(bundleNamed("v1.garbage.example.com")).WithTimeout(2*time.Second).Should(
			HaveField("Unavailable", ""), "the API server says nothing of it")
		Expect(snapshot().Bundles).NotTo(ContainElement(HaveField("Name", "v1.apps")), "the API server serves it itself")

		By("putting the right CA into it")
		before := client.MergeFrom(service.DeepCopy())
		Expect(unstructured.SetNestedField(service.Object, encoded(current.PEM()), "spec", "caBundle")).To(Succeed())
		Expect(c.Patch(ctx, service, before)).To(Succeed())
		Eventually(bundleNamed("v1.aggregated.example.com")).Should(And(holds(current), HaveField("Unavailable", "")))
	}, SpecTimeout(6*soon))

	It("are those of conversion webhooks, whose schemas cost no memory", func(ctx SpecContext) {
		expired := pkitest.NewCA("expired", now(2*time.Hour, -time.Hour))
		create(ctx, newDefinition("widgets", expired.PEM()))
		create(ctx, newDefinition("broken", []byte("garbage")))
		Eventually(bundleNamed("widgets.example.com")).Should(And(
			HaveField("Kind", v1alpha1.SubjectCustomResourceDefinition),
			HaveField("Purpose", v1alpha1.PurposeConversionWebhookCA), holds(expired)))
		Eventually(bundleNamed("broken.example.com")).Should(HaveField("Malformed", Not(BeEmpty())))

		watching, err := client.NewWithWatch(server.Config(), client.Options{Scheme: newScheme()})
		Expect(err).NotTo(HaveOccurred())
		definitions, err := optional.New(watching, &definition{}, optional.Options{Transform: strip})
		Expect(err).NotTo(HaveOccurred())
		go func() { _ = definitions.Start(ctx) }()
		Eventually(definitions.List).Should(ContainElement(HaveField("Name", "widgets.example.com")))
		all, err := definitions.List()
		Expect(err).NotTo(HaveOccurred())
		for _, each := range all {
			stored, err := json.Marshal(each)
			Expect(err).NotTo(HaveOccurred())
			Expect(len(stored)).To(BeNumerically("<", 4096), each.Name)
		}
	}, SpecTimeout(3*soon))
})

var _ = Describe("A missing permission", Ordered, func() {
	policyRule := rbacv1.PolicyRule{
		APIGroups: []string{"notafter.dev"}, Resources: []string{"certificatepolicies"}, Verbs: []string{"get", "list", "watch"},
	}
	rules := map[string]rbacv1.PolicyRule{
		"configmaps/extension-apiserver-authentication in kube-system": {
			APIGroups: []string{""}, Resources: []string{"configmaps"},
			ResourceNames: []string{"extension-apiserver-authentication"},
		},
		"endpointslices.discovery.k8s.io in default": {
			APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"},
		},
		"clustertrustbundles.certificates.k8s.io": {
			APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"},
		},
		"apiservices.apiregistration.k8s.io": {
			APIGroups: []string{"apiregistration.k8s.io"}, Resources: []string{"apiservices"},
		},
		"validatingwebhookconfigurations.admissionregistration.k8s.io": {
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"validatingwebhookconfigurations"},
		},
		"mutatingwebhookconfigurations.admissionregistration.k8s.io": {
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"},
		},
		"customresourcedefinitions.apiextensions.k8s.io": {
			APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"},
		},
		keysPermission: {NonResourceURLs: []string{keysPath}},
	}
	missing := func(names ...string) gomegatypes.GomegaMatcher {
		var permissions []any
		for _, name := range names {
			if name != keysPermission {
				permissions = append(permissions, MatchRegexp("^(list|watch) "+name+"$"))
			} else {
				permissions = append(permissions, name)
			}
		}
		return ConsistOf(permissions...)
	}

	BeforeEach(func(ctx SpecContext) {
		stopManager()
		observer, err := server.UserConfig(user)
		Expect(err).NotTo(HaveOccurred())
		grant(ctx, "policies", policyRule)
		startManager(observer)
		DeferCleanup(func() {
			stopManager()
			startManager(server.Config())
		})
		watchAll(ctx, "permissions") // it is gone before the suite's manager starts again
	})

	It("is named, each by itself, and gone when it is granted", func(ctx SpecContext) {
		Eventually(denied).Should(missing(slices.Collect(maps.Keys(rules))...))
		_, denials := store.Snapshot()
		for _, each := range denials {
			Expect(each.Message).To(ContainSubstring(user), each.Permission)
			Expect(each.Purposes).NotTo(BeEmpty(), each.Permission)
			want := v1alpha1.ConditionControlPlaneHealthy
			if each.Purposes[0] == v1alpha1.PurposeAPIServiceCA || each.Purposes[0] == v1alpha1.PurposeWebhookCA ||
				each.Purposes[0] == v1alpha1.PurposeConversionWebhookCA {
				want = v1alpha1.ConditionTrustBundlesHealthy
			}
			Expect(each.Concerns).To(ContainElement(want), each.Permission)
		}
		// What needs no permission is known all the same.
		Eventually(endpoints).Should(ConsistOf(HaveField("Verified", true)))
		Eventually(certificates(v1alpha1.PurposeClusterCA)).Should(HaveLen(1))

		var granted []rbacv1.PolicyRule
		for name, rule := range rules {
			if name == keysPermission {
				rule.Verbs = []string{"get"}
			} else {
				rule.Verbs = []string{"list", "watch"}
			}
			granted = append(granted, rule)
		}
		grant(ctx, "everything", granted...)
		Eventually(denied).WithTimeout(2 * soon).Should(BeEmpty())
		Eventually(certificates(v1alpha1.PurposeClientCA)).Should(HaveLen(1))
	}, SpecTimeout(8*soon))
})

// serveAPI answers as an aggregated API server does to the question whether it is there, with this certificate, until the spec
// ends. It returns the port.
func serveAPI(certificate *pkitest.Certificate) int64 {
	GinkgoHelper()
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"APIResourceList","apiVersion":"v1","resources":[]}`))
	}))
	api.TLS = tlsConfig(certificate)
	api.Config.ErrorLog = quiet()
	api.StartTLS()
	DeferCleanup(api.Close)
	address, ok := api.Listener.Addr().(*net.TCPAddr)
	Expect(ok).To(BeTrue())
	return int64(address.Port)
}

func newAPIService(name string, port int64, caBundle []byte) *unstructured.Unstructured {
	version, group, _ := strings.Cut(name, ".")
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"group": group, "version": version, "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"service":  map[string]any{"namespace": "default", "name": "api", "port": port},
			"caBundle": encoded(caBundle),
		},
	}}
}

// newDefinition is a CustomResourceDefinition with a large schema, and with all of it once more in an annotation.
func newDefinition(plural string, caBundle []byte) *apiextensionsv1.CustomResourceDefinition {
	large := strings.Repeat("large ", 20_000)
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com", Annotations: map[string]string{"last-applied": large}},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: "X" + plural},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
					OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Description: large},
				},
			}},
			Conversion: &apiextensionsv1.CustomResourceConversion{
				Strategy: apiextensionsv1.WebhookConverter,
				Webhook: &apiextensionsv1.WebhookConversion{
					ConversionReviewVersions: []string{"v1"},
					ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/"), CABundle: caBundle},
				},
			},
		},
	}
}
