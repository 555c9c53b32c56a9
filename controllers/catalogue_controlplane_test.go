// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// catalogued is the name of everything that the specs make, and so nobody else's.
	catalogued = "catalogue"
	// cataloguedGroup is the group of the APIs that they make. Nobody asks for it.
	cataloguedGroup = "catalogue.example.com"
	// rootCA is where the operator under test reads the Cluster CA.
	rootCA = metav1.NamespaceSystem + "/" + cluster.RootCAConfigMap
)

// unjudged is the verdict of a policy that selects no node and has nothing to complain of.
const unjudged = "Unknown " + v1alpha1.ReasonNoNodesSelected

// cataloguePolicy makes a policy that selects no node and watches only what the spec says, and waits until it finds nothing.
func cataloguePolicy(ctx context.Context, watch func(*v1alpha1.CertificatePolicySpec)) {
	GinkgoHelper()
	policy := operator.PolicyFor(catalogued)
	operator.NodesOnly(&policy.Spec)
	watch(&policy.Spec)
	Expect(c.Create(ctx, policy)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(c.Delete(ctx, policy)).To(Succeed()) })
	expectNothing(ctx)
}

// expectFinding waits until the policy has this finding, and no other.
func expectFinding(ctx context.Context, reason string, severity v1alpha1.Severity, subject v1alpha1.Subject) {
	GinkgoHelper()
	verdict := unjudged
	if severity == v1alpha1.SeverityViolation {
		verdict = "False " + reason
	}
	Eventually(func(g Gomega) {
		policy := &v1alpha1.CertificatePolicy{}
		g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
		g.Expect(policy.Status.Findings).To(ConsistOf(And(
			HaveField("Reason", reason), HaveField("Severity", severity), HaveField("Subject", subject))))
		g.Expect(operator.Verdicts(policy)).To(HaveKeyWithValue(v1alpha1.ConditionCompliant, verdict))
	}).WithContext(ctx).Should(Succeed())
}

// expectNothing waits until the policy finds nothing any more.
func expectNothing(ctx context.Context) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		policy := &v1alpha1.CertificatePolicy{}
		g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
		g.Expect(policy.Status.Findings).To(BeEmpty())
		g.Expect(operator.Verdicts(policy)).To(HaveKeyWithValue(v1alpha1.ConditionCompliant, unjudged))
	}).WithContext(ctx).Should(Succeed())
}

// wrong is something wrong with a trust bundle.
type wrong struct {
	severity v1alpha1.Severity
	subject  v1alpha1.SubjectKind
	name     string
	object   func(caBundle []byte) client.Object
	caBundle func() []byte
	// repair mends the object.
	repair func(ctx context.Context, object client.Object)
}

var _ = Describe("The catalogue of the control plane", func() {
	DescribeTable("has what is wrong with a trust bundle, until it is repaired:",
		func(ctx SpecContext, reason string, w wrong) {
			cataloguePolicy(ctx, func(spec *v1alpha1.CertificatePolicySpec) {
				spec.TrustBundles = v1alpha1.TrustBundlesSpec{} // the defaults: all of them
			})
			object := w.object(w.caBundle())
			Expect(c.Create(ctx, object)).To(Succeed())
			DeferCleanup(func(ctx SpecContext) error { return client.IgnoreNotFound(c.Delete(ctx, object)) })
			expectFinding(ctx, reason, w.severity, v1alpha1.Subject{Kind: w.subject, Name: w.name})
			w.repair(ctx, object)
			expectNothing(ctx)
		},
		Entry("garbage", SpecTimeout(4*soon), v1alpha1.ReasonTrustBundleMalformed, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectValidatingWebhook, catalogued, newValidating,
			func() []byte { return []byte("garbage") }, renewBundle,
		}),
		Entry("a Cluster CA that was replaced", SpecTimeout(4*soon), v1alpha1.ReasonStaleTrustBundle, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectMutatingWebhook, catalogued, newMutating, formerClusterCA, renewBundle,
		}),
		Entry("expired, of a webhook", SpecTimeout(4*soon), v1alpha1.ReasonExpired, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectMutatingWebhook, catalogued, newMutating,
			aged(2*time.Hour, -time.Hour), renewBundle,
		}),
		Entry("expired, of a conversion webhook", SpecTimeout(4*soon), v1alpha1.ReasonExpired, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectCustomResourceDefinition, "gadgets." + cataloguedGroup, newConverted,
			aged(2*time.Hour, -time.Hour), renewBundle,
		}),
		Entry("overdue", SpecTimeout(4*soon), v1alpha1.ReasonRotationOverdue, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectValidatingWebhook, catalogued, newValidating,
			aged(95*time.Hour, 5*time.Hour), renewBundle,
		}),
		Entry("due", SpecTimeout(4*soon), v1alpha1.ReasonRotationDue, wrong{
			v1alpha1.SeverityInfo, v1alpha1.SubjectValidatingWebhook, catalogued, newValidating,
			aged(85*time.Hour, 15*time.Hour), renewBundle,
		}),
		Entry("not valid yet", SpecTimeout(4*soon), v1alpha1.ReasonNotYetValid, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectValidatingWebhook, catalogued, newValidating,
			aged(-time.Hour, 100*time.Hour), renewBundle,
		}),
		Entry("an aggregated API without its Service", SpecTimeout(4*soon), v1alpha1.ReasonAPIServiceUnavailable, wrong{
			v1alpha1.SeverityViolation, v1alpha1.SubjectAPIService, "v1." + cataloguedGroup, newAggregated,
			func() []byte { return server.CACertPEM() },
			func(ctx context.Context, object client.Object) { Expect(c.Delete(ctx, object)).To(Succeed()) },
		}),
	)

	It("has an aggregated API whose certificate another CA signed, until it is repaired", func(ctx SpecContext) {
		cataloguePolicy(ctx, func(spec *v1alpha1.CertificatePolicySpec) { spec.TrustBundles = v1alpha1.TrustBundlesSpec{} })
		old, current := pkitest.NewCA("aggregated-ca", fresh()), pkitest.NewCA("aggregated-ca", fresh())
		object := serveAggregated(ctx, old)
		bundle := func(ca *pkitest.CA) {
			GinkgoHelper()
			Expect(unstructured.SetNestedField(object.Object, base64.StdEncoding.EncodeToString(ca.PEM()), "spec", "caBundle")).
				To(Succeed())
		}
		bundle(current)
		Expect(c.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) error { return client.IgnoreNotFound(c.Delete(ctx, object)) })
		subject := v1alpha1.Subject{Kind: v1alpha1.SubjectAPIService, Name: object.GetName()}
		expectFinding(ctx, v1alpha1.ReasonAPIServiceUnavailable, v1alpha1.SeverityViolation, subject)
		Eventually(func(g Gomega) {
			policy := &v1alpha1.CertificatePolicy{}
			g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
			g.Expect(policy.Status.Findings).To(ContainElement(HaveField("Message", ContainSubstring("The cause is a certificate"))))
		}).WithContext(ctx).Should(Succeed())

		Eventually(func(g Gomega) {
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
			bundle(old)
			g.Expect(c.Update(ctx, object)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
		expectNothing(ctx)
	}, SpecTimeout(2*soon))

	It("has the age of each certificate of the control plane", func(ctx SpecContext) {
		never := &metav1.Duration{}
		cataloguePolicy(ctx, func(spec *v1alpha1.CertificatePolicySpec) {
			spec.ControlPlane = v1alpha1.ControlPlaneSpec{Expiry: v1alpha1.ControlPlaneExpirySpec{MinimumRemaining: never}}
		})
		// A fifth of their lives is over.
		for _, judged := range []struct {
			reason   string
			severity v1alpha1.Severity
			by       v1alpha1.ControlPlaneExpirySpec
		}{
			{v1alpha1.ReasonRotationDue, v1alpha1.SeverityInfo, v1alpha1.ControlPlaneExpirySpec{
				WarnAtLifetimePercent: 15, OverdueAtLifetimePercent: 90, MinimumRemaining: never,
			}},
			{v1alpha1.ReasonRotationOverdue, v1alpha1.SeverityViolation, v1alpha1.ControlPlaneExpirySpec{
				WarnAtLifetimePercent: 10, OverdueAtLifetimePercent: 15, MinimumRemaining: never,
			}},
			{v1alpha1.ReasonRotationOverdue, v1alpha1.SeverityViolation, v1alpha1.ControlPlaneExpirySpec{
				MinimumRemaining: &metav1.Duration{Duration: 400 * 24 * time.Hour},
			}},
		} {
			judgeControlPlaneBy(ctx, judged.by)
			of := func(certificate v1alpha1.CertificatePurpose, kind v1alpha1.SubjectKind, name string) OmegaMatcher {
				return And(HaveField("Reason", judged.reason), HaveField("Severity", judged.severity),
					HaveField("Certificate", certificate), HaveField("Subject", v1alpha1.Subject{Kind: kind, Name: name}))
			}
			const published = metav1.NamespaceSystem + "/extension-apiserver-authentication"
			Eventually(func(g Gomega) {
				policy := &v1alpha1.CertificatePolicy{}
				g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(ContainElements(
					of(v1alpha1.PurposeClusterCA, v1alpha1.SubjectConfigMap, rootCA),
					of(v1alpha1.PurposeAPIServer, v1alpha1.SubjectAPIServer, strings.TrimPrefix(server.Config().Host, "https://")),
					of(v1alpha1.PurposeClientCA, v1alpha1.SubjectConfigMap, published),
					of(v1alpha1.PurposeAggregationCA, v1alpha1.SubjectConfigMap, published),
				))
			}).WithContext(ctx).Should(Succeed())
		}
		judgeControlPlaneBy(ctx, v1alpha1.ControlPlaneExpirySpec{MinimumRemaining: never})
		expectNothing(ctx)
	}, SpecTimeout(2*soon))

	// Only where nobody publishes the Cluster CA can somebody publish another one.
	Describe("has what is wrong with the Cluster CA, until it is repaired:", Ordered, ContinueOnFailure, func() {
		BeforeAll(func(_ SpecContext) {
			Expect(server.StopControllerManager()).To(Succeed())
			DeferCleanup(func(ctx SpecContext) { Expect(server.StartControllerManager(ctx)).To(Succeed()) })
		}, NodeTimeout(4*soon))
		BeforeEach(func(ctx SpecContext) {
			cataloguePolicy(ctx, func(spec *v1alpha1.CertificatePolicySpec) {
				spec.ControlPlane.ClusterCA, spec.ControlPlane.APIServer = v1alpha1.WatchWatched, v1alpha1.WatchWatched
			})
			DeferCleanup(func(ctx SpecContext) { publishCA(ctx, server.CACertPEM()) })
		}, NodeTimeout(4*soon))

		endpoint := func() v1alpha1.Subject {
			return v1alpha1.Subject{
				Kind: v1alpha1.SubjectAPIServer, Name: strings.TrimPrefix(server.Config().Host, "https://"),
			}
		}
		It("an API server of another one", func(ctx SpecContext) {
			publishCA(ctx, aged(time.Hour, 99*time.Hour)())
			expectFinding(ctx, v1alpha1.ReasonClusterCAMismatch, v1alpha1.SeverityViolation, endpoint())
			publishCA(ctx, server.CACertPEM())
			expectNothing(ctx)
		}, SpecTimeout(4*soon))

		It("nothing in the ConfigMap", func(ctx SpecContext) {
			publishCA(ctx, nil)
			expectFinding(ctx, v1alpha1.ReasonTrustBundleUnavailable, v1alpha1.SeverityUnknown,
				v1alpha1.Subject{Kind: v1alpha1.SubjectConfigMap, Name: rootCA})
			publishCA(ctx, server.CACertPEM())
			expectNothing(ctx)
		}, SpecTimeout(4*soon))

		It("its end", func(ctx SpecContext) {
			current, key := server.CA()
			publishCA(ctx, pkitest.NewCA("", pkitest.Key(key), named(current),
				pkitest.Lifetime(current.NotBefore, time.Now().Add(-time.Minute))).PEM())
			Eventually(func(g Gomega) {
				policy := &v1alpha1.CertificatePolicy{}
				g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
				g.Expect(policy.Status.Findings).To(ContainElement(And(
					HaveField("Reason", v1alpha1.ReasonExpired), HaveField("Severity", v1alpha1.SeverityViolation),
					HaveField("Certificate", v1alpha1.PurposeClusterCA),
					HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectConfigMap, Name: rootCA}))))
			}).WithContext(ctx).Should(Succeed())
			publishCA(ctx, server.CACertPEM())
			expectNothing(ctx)
		}, SpecTimeout(soon))

		It("an API server whose certificate outlives it", func(ctx SpecContext) {
			current, key := server.CA()
			publishCA(ctx, pkitest.NewCA("", pkitest.Key(key), named(current),
				pkitest.Lifetime(current.NotBefore, current.NotAfter.AddDate(0, 0, -1))).PEM())
			expectFinding(ctx, v1alpha1.ReasonIssuerExpiresFirst, v1alpha1.SeverityInfo, endpoint())
			publishCA(ctx, server.CACertPEM())
			expectNothing(ctx)
		}, SpecTimeout(4*soon))
	})
})

// aged makes a CA certificate that became valid so long ago and remains so for so long.
func aged(age, remaining time.Duration) func() []byte {
	return func() []byte {
		return pkitest.NewCA(catalogued, pkitest.Lifetime(time.Now().Add(-age), time.Now().Add(remaining))).PEM()
	}
}

// named gives a certificate the name of another one.
func named(other *x509.Certificate) pkitest.Option {
	return pkitest.Template(func(cert *x509.Certificate) { cert.Subject = other.Subject })
}

// formerClusterCA is a CA of the Cluster CA's name that was made before it.
func formerClusterCA() []byte {
	current, _ := server.CA()
	return pkitest.NewCA("", named(current), pkitest.Lifetime(current.NotBefore.AddDate(0, 0, -1), current.NotAfter)).PEM()
}

// publishCA puts this where the operator reads the Cluster CA.
func publishCA(ctx context.Context, pem []byte) {
	GinkgoHelper()
	configMap := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: cluster.RootCAConfigMap}
	Expect(c.Get(ctx, key, configMap)).To(Succeed())
	configMap.Data = map[string]string{"ca.crt": string(pem)}
	Expect(c.Update(ctx, configMap)).To(Succeed())
}

// renewBundle puts the Cluster CA into the object's caBundle.
func renewBundle(ctx context.Context, object client.Object) {
	GinkgoHelper()
	Expect(c.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	former, ok := object.DeepCopyObject().(client.Object)
	Expect(ok).To(BeTrue())
	switch object := object.(type) {
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		object.Webhooks[0].ClientConfig.CABundle = server.CACertPEM()
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		object.Webhooks[0].ClientConfig.CABundle = server.CACertPEM()
	case *unstructured.Unstructured:
		Expect(unstructured.SetNestedField(object.Object, base64.StdEncoding.EncodeToString(server.CACertPEM()),
			"spec", "conversion", "webhook", "clientConfig", "caBundle")).To(Succeed())
	}
	Expect(c.Patch(ctx, object, client.MergeFrom(former))).To(Succeed()) // others write to it, too
}

// nobody selects no object, for webhooks that are there to be looked at.
var nobody = &metav1.LabelSelector{MatchLabels: map[string]string{cataloguedGroup + "/nobody": "true"}}

func newValidating(caBundle []byte) client.Object {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: catalogued},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "validating." + cataloguedGroup, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/"), CABundle: caBundle},
			Rules:             cataloguedRules(),
			NamespaceSelector: nobody, ObjectSelector: nobody,
			FailurePolicy: new(admissionregistrationv1.Ignore), SideEffects: new(admissionregistrationv1.SideEffectClassNone),
		}},
	}
}

func newMutating(caBundle []byte) client.Object {
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: catalogued},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "mutating." + cataloguedGroup, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/"), CABundle: caBundle},
			Rules:             cataloguedRules(),
			NamespaceSelector: nobody, ObjectSelector: nobody,
			FailurePolicy: new(admissionregistrationv1.Ignore), SideEffects: new(admissionregistrationv1.SideEffectClassNone),
		}},
	}
}

// cataloguedRules are about a group that nobody asks for.
func cataloguedRules() []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule: admissionregistrationv1.Rule{
			APIGroups: []string{cataloguedGroup}, APIVersions: []string{"*"}, Resources: []string{"*"},
		},
	}}
}

// newAggregated is an APIService of a Service that is not there.
func newAggregated(caBundle []byte) client.Object {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": "v1." + cataloguedGroup},
		"spec": map[string]any{
			"group": cataloguedGroup, "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"service":  map[string]any{"namespace": metav1.NamespaceDefault, "name": catalogued},
			"caBundle": base64.StdEncoding.EncodeToString(caBundle),
		},
	}}
}

// judgeControlPlaneBy changes what the policy says about the age of the control plane's certificates.
func judgeControlPlaneBy(ctx context.Context, expiry v1alpha1.ControlPlaneExpirySpec) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		policy := &v1alpha1.CertificatePolicy{}
		g.Expect(c.Get(ctx, client.ObjectKey{Name: catalogued}, policy)).To(Succeed())
		policy.Spec.ControlPlane.Expiry = expiry
		g.Expect(c.Update(ctx, policy)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

// serveAggregated serves an API with a certificate of the CA, and returns an APIService for it, which is not created yet.
func serveAggregated(ctx context.Context, ca *pkitest.CA) *unstructured.Unstructured {
	GinkgoHelper()
	pair := ca.Leaf(pkitest.DNSNames(catalogued+"."+metav1.NamespaceDefault+".svc"), fresh()).TLS()
	aggregated := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "%s/v1", "resources": []}`, cataloguedGroup)
	}))
	aggregated.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	aggregated.StartTLS()
	DeferCleanup(aggregated.Close)
	port := aggregated.Listener.Addr().(*net.TCPAddr).Port
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: catalogued},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
	Expect(c.Create(ctx, service)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(c.Delete(ctx, service)).To(Succeed()) })
	object := newAggregated(nil).(*unstructured.Unstructured)
	Expect(unstructured.SetNestedField(object.Object, int64(port), "spec", "service", "port")).To(Succeed())
	return object
}

// fresh is the lifetime of a certificate that is in order.
func fresh() pkitest.Option {
	return pkitest.Lifetime(time.Now().Add(-time.Hour), time.Now().Add(99*time.Hour))
}

// newConverted is a CustomResourceDefinition with a conversion webhook.
func newConverted(caBundle []byte) client.Object {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "gadgets." + cataloguedGroup},
		"spec": map[string]any{
			"group": cataloguedGroup, "scope": "Cluster",
			"names": map[string]any{"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}},
			}},
			"conversion": map[string]any{
				"strategy": "Webhook",
				"webhook": map[string]any{
					"conversionReviewVersions": []any{"v1"},
					"clientConfig": map[string]any{
						"url": "https://127.0.0.1:1/", "caBundle": base64.StdEncoding.EncodeToString(caBundle),
					},
				},
			},
		},
	}}
}
