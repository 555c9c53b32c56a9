// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/controllers"
)

// The accounts that the default install makes.
const (
	managerAccount = "notafter-controller-manager"
	readerAccount  = "notafter-kubelet-reader"
)

// asked is something that an account may do or not: "VERB RESOURCE.GROUP[/SUBRESOURCE]" or "VERB /path", in a namespace and
// for a name where given.
type asked struct{ what, namespace, name string }

// String is what a failure shows.
func (a asked) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s in namespace %q for name %q", a.what, a.namespace, a.name))
}

// allowed is all that the accounts may do.
var allowed = map[string][]asked{
	managerAccount: slices.Concat(
		every("", "", "get list watch", "certificatepolicies.notafter.dev"),
		every("", "", "list watch", "nodes", "certificatesigningrequests.certificates.k8s.io", "nodecertificates.notafter.dev",
			"mutatingwebhookconfigurations.admissionregistration.k8s.io",
			"validatingwebhookconfigurations.admissionregistration.k8s.io", "customresourcedefinitions.apiextensions.k8s.io",
			"apiservices.apiregistration.k8s.io", "daemonsets.apps", "deployments.apps", "statefulsets.apps",
			"clustertrustbundles.certificates.k8s.io"),
		every("", "", "create update delete", "nodecertificates.notafter.dev"),
		every("", "", "update", "certificatepolicies.notafter.dev/status", "nodecertificates.notafter.dev/status"),
		every("", "", "create", "tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"),
		every("", "", "get", "/openid/v1/jwks"),
		every("default", "", "create", "events.events.k8s.io"),
		every("default", "", "list watch", "endpointslices.discovery.k8s.io"),
		every("kube-system", "kube-root-ca.crt", "list watch", "configmaps"),
		every("kube-system", "extension-apiserver-authentication", "list watch", "configmaps"),
		every(systemNamespace, readerAccount, "create", "serviceaccounts/token"),
		every(systemNamespace, "notafter.dev", "get update", "leases.coordination.k8s.io"),
		every(systemNamespace, "", "create", "leases.coordination.k8s.io"),
	),
	readerAccount: every("", "", "get", "nodes/metrics", "nodes/configz"),
}

// denied is what nobody who takes over a pod of notafter must be able to do.
var denied = slices.Concat(
	every("", "", "*", "*.*"),
	every("", "", "get list watch create update patch delete", "secrets"),
	every("kube-system", "", "get list", "secrets"),
	every(systemNamespace, "", "get list", "secrets"),
	every("", "", "get create", "nodes/proxy", "nodes/log", "nodes/exec", "nodes/run", "nodes/checkpoint", "nodes/stats"),
	every("", "", "create update patch delete", "nodes"),
	every("", "", "update patch", "nodes/status"),
	every("", "", "update patch", "certificatesigningrequests.certificates.k8s.io/approval",
		"certificatesigningrequests.certificates.k8s.io/status"),
	every("", "", "create delete", "certificatesigningrequests.certificates.k8s.io"),
	every("", "kubernetes.io/kubelet-serving", "approve sign attest", "signers.certificates.k8s.io"),
	every("", "kubernetes.io/kube-apiserver-client-kubelet", "approve sign attest", "signers.certificates.k8s.io"),
	every("", "", "get list create delete", "pods"),
	every("", "", "create get", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "pods/ephemeralcontainers"),
	every("", "", "create update patch delete", "deployments.apps", "daemonsets.apps"),
	every("", "", "get list create update patch delete", "configmaps"),
	every("kube-system", "", "create update patch delete", "configmaps"),
	every("", "", "create", "serviceaccounts/token"),
	every(systemNamespace, managerAccount, "create", "serviceaccounts/token"),
	every("kube-system", "default", "create", "serviceaccounts/token"),
	every("", "", "impersonate", "users", "groups", "serviceaccounts"),
	every("", "", "bind escalate create update patch", "clusterroles.rbac.authorization.k8s.io"),
	every("", "", "create update patch", "clusterrolebindings.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"),
	every("", "", "create update patch delete", "certificatepolicies.notafter.dev"),
	every("", "", "create update patch delete", "validatingwebhookconfigurations.admissionregistration.k8s.io",
		"mutatingwebhookconfigurations.admissionregistration.k8s.io", "customresourcedefinitions.apiextensions.k8s.io",
		"apiservices.apiregistration.k8s.io"),
	every("", "", "get", "/metrics", "/logs/", "/debug/pprof/"),
)

// every is each verb on each resource.
func every(namespace, name, verbs string, resources ...string) []asked {
	var all []asked
	for _, resource := range resources {
		for verb := range strings.FieldsSeq(verbs) {
			all = append(all, asked{verb + " " + resource, namespace, name})
		}
	}
	return all
}

// accessSpecs are about what the install may do, as the API server answers it.
func accessSpecs() {
	for _, account := range []string{managerAccount, readerAccount} {
		It("lets "+account+" do what it has to, and nothing else", func(ctx SpecContext) {
			self := as(ctx, systemNamespace, account)
			for _, a := range allowed[account] {
				Expect(may(ctx, self, a)).To(BeTrue(), "%s should be allowed", a)
			}
			for _, a := range denied {
				Expect(may(ctx, self, a)).To(BeFalse(), "%s should be denied", a)
			}
			Expect(rulesBeyond(ctx, self, account)).To(BeEmpty(), "what its rules allow and this test does not know of")
		})
	}
}

// as returns a client that is an account.
func as(ctx context.Context, namespace, account string) client.Client {
	GinkgoHelper()
	other := rest.AnonymousClientConfig(config)
	other.QPS, other.Burst = config.QPS, config.Burst
	other.BearerToken = tokenOf(ctx, namespace, account)
	c, err := client.New(other, client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	return c
}

// tokenOf asks for a token of an account.
func tokenOf(ctx context.Context, namespace, account string) string {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{}
	owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	Expect(admin.SubResource("token").Create(ctx, owner, request)).To(Succeed())
	return request.Status.Token
}

// may asks the API server, as the account itself.
func may(ctx context.Context, self client.Client, a asked) bool {
	GinkgoHelper()
	verb, what, _ := strings.Cut(a.what, " ")
	review := &authorizationv1.SelfSubjectAccessReview{}
	if strings.HasPrefix(what, "/") {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: verb, Path: what}
	} else {
		kind, subresource, _ := strings.Cut(what, "/")
		resource, group, _ := strings.Cut(kind, ".")
		review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Subresource: subresource, Namespace: a.namespace, Name: a.name,
		}
	}
	Expect(self.Create(ctx, review)).To(Succeed())
	return review.Status.Allowed
}

// rulesBeyond lists what the account's rules allow, in any namespace of the install, beyond what it is known to need and what
// every account may do.
func rulesBeyond(ctx context.Context, self client.Client, account string) []string {
	GinkgoHelper()
	known := map[string]bool{
		"create selfsubjectaccessreviews.authorization.k8s.io": true, "create selfsubjectrulesreviews.authorization.k8s.io": true,
		"create selfsubjectreviews.authentication.k8s.io": true,
		// Public: what is in them is for everybody to trust.
		"get clustertrustbundles.certificates.k8s.io": true, "list clustertrustbundles.certificates.k8s.io": true,
		"watch clustertrustbundles.certificates.k8s.io": true,
		// The Events of the leader election, in the core API as client-go writes them.
		"create events": true, "patch events": true,
	}
	for _, a := range allowed[account] {
		known[a.what] = true
	}
	var beyond []string
	for _, namespace := range []string{"default", "kube-system", "kube-public", systemNamespace} {
		review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
		Expect(self.Create(ctx, review)).To(Succeed())
		Expect(review.Status.Incomplete).To(BeFalse())
		for _, rule := range review.Status.ResourceRules {
			for _, what := range spelledOut(rule) {
				if !known[what] {
					beyond = append(beyond, namespace+": "+what)
				}
			}
		}
	}
	return beyond
}

// spelledOut lists what a rule allows, as asked does.
func spelledOut(rule authorizationv1.ResourceRule) []string {
	var all []string
	for _, verb := range rule.Verbs {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				kind, subresource, found := strings.Cut(resource, "/")
				if group != "" {
					kind += "." + group
				}
				if found {
					kind += "/" + subresource
				}
				all = append(all, verb+" "+kind)
			}
		}
	}
	return all
}
