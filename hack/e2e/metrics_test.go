// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scraper is the account that may read metrics, as the guide says to make one.
const scraper = "scraper"

// metricsSpecs are about who may read metrics.
func metricsSpecs() {
	It("answers over TLS, to those who may, through the Service too", func(ctx SpecContext) {
		needsOwnCluster()
		leader := leaderPod(ctx)
		bystander := tokenOf(ctx, witness, "default")

		Expect(scrape(ctx, leader, "")).Error().To(MatchError("401 Unauthorized"))
		Expect(scrape(ctx, leader, "nonsense")).Error().To(MatchError("500 Internal Server Error"), "as controller-runtime has it")
		Expect(scrape(ctx, leader, bystander)).Error().To(MatchError("403 Forbidden"))
		Expect(scrape(ctx, leader, scraperToken(ctx))).To(ContainSubstring("\nnotafter_source_readable{"))

		By("asking through the Service, by way of the API server, which passes no credentials on")
		_, err := try(ctx, "get", "--raw", "/api/v1/namespaces/"+systemNamespace+"/services/https:notafter-metrics:8443/proxy/metrics")
		Expect(err).To(MatchError(ContainSubstring("the server has asked for the client to provide credentials")))
	}, SpecTimeout(2*soon))
}

// leaderPod returns the manager's pod that leads.
func leaderPod(ctx context.Context) *corev1.Pod {
	GinkgoHelper()
	var leader *corev1.Pod
	Eventually(func(g Gomega, ctx context.Context) {
		lease := &coordinationv1.Lease{}
		g.Expect(admin.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "notafter.dev"}, lease)).To(Succeed())
		g.Expect(lease.Spec.HolderIdentity).NotTo(BeNil())
		name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
		leader = &corev1.Pod{}
		g.Expect(admin.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: name}, leader)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
	return leader
}

// scraperToken returns a token of an account that is bound to the role for reading metrics, making both if need be.
func scraperToken(ctx context.Context) string {
	GinkgoHelper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: witness, Name: scraper}}
	Expect(client.IgnoreAlreadyExists(admin.Create(ctx, account))).To(Succeed())
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "e2e-scraper"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "notafter-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: witness, Name: scraper}},
	}
	Expect(client.IgnoreAlreadyExists(admin.Create(ctx, binding))).To(Succeed())
	return tokenOf(ctx, witness, scraper)
}

func metricsAddress(pod *corev1.Pod) string { return pod.Status.PodIP + ":8443" }

// scrape reads the metrics of a pod as Prometheus would, with a token if there is one.
func scrape(ctx context.Context, pod *corev1.Pod, token string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+metricsAddress(pod)+"/metrics", nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the manager signs its own
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", errors.New(response.Status)
	}
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
