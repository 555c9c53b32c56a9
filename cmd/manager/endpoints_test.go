// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/operator"
)

// kubectl runs kubectl as the cluster's administrator.
func (w *world) kubectl(args ...string) {
	w.t.Helper()
	_, err := w.cluster.RunKubectl(w.t.Context(), "", args...)
	w.Expect(err).NotTo(HaveOccurred())
}

// A manager that was started before the CRDs were installed waits for them, and says so. Metrics are for whom they are meant.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	w := newEmptyWorld(t, cluster.Options{})
	w.Expect(operator.Install(t.Context(), w.cluster, manifests)).To(Succeed())
	w.kubectl("delete", "-k", manifests+"/crd")
	replica := w.start("--metrics-secure")
	w.Eventually(probe(t.Context(), replica, "/healthz")).Should(Equal(http.StatusOK))
	w.Eventually(replica.Log).Should(ContainSubstring("nodecertificates.notafter.dev"))
	w.Expect(probe(t.Context(), replica, "/readyz")()).To(Equal(http.StatusInternalServerError))

	w.kubectl("apply", "--server-side", "-k", manifests+"/crd")
	w.Eventually(probe(t.Context(), replica, "/readyz")).Should(Equal(http.StatusOK))
	w.Expect(replica.Done()).NotTo(BeClosed())

	scrape := scraper(w, replica)
	w.Expect(scrape("")).To(Equal(http.StatusUnauthorized))
	w.Expect(scrape("no-token")).NotTo(Equal(http.StatusOK))
	token := w.token("scraper")
	w.Expect(scrape(token)).To(Equal(http.StatusForbidden))
	w.Expect(w.admin.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "scraper"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "notafter-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "scraper"}},
	})).To(Succeed())
	w.Eventually(scrape).WithArguments(token).Should(Equal(http.StatusOK)) // a refusal is remembered for a moment
	_, err := replica.Metrics(t.Context())
	w.Expect(err).To(MatchError(ContainSubstring("400 Bad Request")), "metrics without TLS")
}

// token makes a ServiceAccount, and a token of it.
func (w *world) token(name string) string {
	w.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	w.Expect(w.admin.Create(w.t.Context(), account)).To(Succeed())
	request := &authenticationv1.TokenRequest{}
	w.Expect(w.admin.SubResource("token").Create(w.t.Context(), account, request)).To(Succeed())
	return request.Status.Token
}

// scraper returns what asks the replica for its metrics over TLS, with a token or without, and says how that went.
func scraper(w *world, replica *operator.Operator) func(token string) (int, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it signs its own certificate
	w.t.Cleanup(transport.CloseIdleConnections)
	return func(token string) (int, error) {
		request, err := http.NewRequestWithContext(
			w.t.Context(), http.MethodGet, "https://"+replica.MetricsAddress()+"/metrics", http.NoBody)
		if err != nil {
			return 0, err
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(response.Body)
		if response.StatusCode == http.StatusOK {
			w.Expect(string(body)).To(ContainSubstring("notafter_probes_total"))
		}
		_ = response.Body.Close() // it was read
		return response.StatusCode, err
	}
}
