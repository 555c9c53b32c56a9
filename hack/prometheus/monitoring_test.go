// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package prometheus_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/prometheus"
)

// firing are the alerts that fire, each with what it is about.
func firing(ctx context.Context) ([]string, error) {
	answer, err := scraper.Alerts(ctx)
	if err != nil {
		return nil, err
	}
	alerts := []string{}
	for _, alert := range answer.Alerts {
		if alert.State == promv1.AlertStateFiring {
			alerts = append(alerts, fmt.Sprintf("%s %s", alert.Labels["alertname"], alert.Labels["node"]))
		}
	}
	slices.Sort(alerts)
	return alerts, nil
}

// query returns the samples that an expression has now.
func query(ctx context.Context, expr string) (model.Vector, error) {
	value, warnings, _, err := scraper.Query(ctx, expr, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	if len(warnings) > 0 {
		return nil, fmt.Errorf("%s: %v", expr, warnings)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("%s: a %s", expr, value.Type())
	}
	return vector, nil
}

// scrape asks the manager for its metrics, over TLS that is verified, with a token or without one.
func scrape(ctx context.Context, token string) (status int, body []byte) {
	GinkgoHelper()
	pool := x509.NewCertPool()
	Expect(pool.AppendCertsFromPEM(server.CACertPEM())).To(BeTrue())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+manager.MetricsAddress()+"/metrics", http.NoBody)
	Expect(err).NotTo(HaveOccurred())
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close() //nolint:errcheck // it has been read
	body, err = io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, body
}

var _ = Describe("A Prometheus that scrapes the manager", Ordered, func() {
	const broken = "blue-1"

	It("gets in with the scraper's token over verified TLS, and finds nothing to alert of", func(ctx SpecContext) {
		up := func() (model.Vector, error) { return query(ctx, `up{job="notafter-metrics"} == 1`) }
		Eventually(up).Should(HaveLen(1))
		Eventually(query).WithContext(ctx).WithArguments(
			`max(notafter_policy_condition{policy="cluster", type="Compliant", status="True"}) == 1`).Should(HaveLen(1))
		Eventually(query).WithContext(ctx).WithArguments(`leader_election_master_status{name="notafter.dev"} == 1`).Should(HaveLen(1))
		By("waiting until every rule has been evaluated")
		Eventually(func(g Gomega) {
			rules, err := scraper.Rules(ctx, nil)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(rules.Groups).NotTo(BeEmpty())
			for _, group := range rules.Groups {
				g.Expect(group.Rules).NotTo(BeEmpty(), group.Name)
				for _, rule := range group.Rules {
					g.Expect(rule).To(And(HaveField("Health", BeEquivalentTo(promv1.RuleHealthGood)), HaveField("LastEvaluation", Not(BeZero()))))
				}
			}
		}).WithContext(ctx).Should(Succeed())
		Eventually(firing).WithContext(ctx).Should(BeEmpty())
		Consistently(firing, hurry+10*time.Second, time.Second).WithContext(ctx).Should(BeEmpty())
	}, SpecTimeout(8*time.Minute))

	It("lets nobody in without a token, and nobody with one that may not", func(ctx SpecContext) {
		status, _ := scrape(ctx, "")
		Expect(status).To(Equal(http.StatusUnauthorized))
		status, _ = scrape(ctx, tokenOf(ctx, "default"))
		Expect(status).To(Equal(http.StatusForbidden))
	}, SpecTimeout(3*time.Minute))

	It("gets metrics that promtool has nothing to say against", func(ctx SpecContext) {
		status, body := scrape(ctx, scraperToken(ctx))
		Expect(status).To(Equal(http.StatusOK))
		// What others register has names that they chose.
		ours := bytes.Buffer{}
		for line := range bytes.Lines(body) {
			if bytes.Contains(line, []byte("notafter_")) {
				ours.Write(line)
			}
		}
		output, err := prometheus.Promtool(ctx, dir, &ours, "check", "metrics")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(BeEmpty())
	}, SpecTimeout(3*time.Minute))

	It("alerts of the node that breaks, and of no other", func(ctx SpecContext) {
		// Its serving certificate has expired, and nobody approves another.
		approver.Set(broken, kubelet.Verdict{Decision: kubelet.Ignore})
		address := kubelet.PickAddress()
		notBefore, notAfter := kubelet.Window(time.Hour, 110)
		expired, err := kubelet.ClusterCA(server.CA()).Issue(kubelet.ServingLeaf(broken, address.AsSlice(), notBefore, notAfter))
		Expect(err).NotTo(HaveOccurred())
		startKubelet(ctx, kubelet.Options{Name: broken, Address: address, ServingCertificate: expired}, "blue")
		Eventually(firing).WithContext(ctx).Should(Equal([]string{
			"NotafterServingCertificateMissing " + broken, "NotafterSigningRequestStuck " + broken,
		}))
		alerts, err := scraper.Alerts(ctx)
		Expect(err).NotTo(HaveOccurred())
		for _, alert := range alerts.Alerts {
			if alert.Labels["alertname"] == "NotafterServingCertificateMissing" {
				Expect(alert.Labels).To(HaveKeyWithValue(model.LabelName("severity"), model.LabelValue("critical")))
				Expect(alert.Annotations["summary"]).To(BeEquivalentTo(
					"Node blue-1 has no serving certificate (policy cluster: ServingCertificateMissing)."))
				Expect(alert.Annotations["runbook_url"]).To(BeEquivalentTo(
					"https://github.com/notafter/notafter/blob/main/docs/runbooks/ServingCertificateMissing.md"))
			}
		}
	}, SpecTimeout(8*time.Minute))

	It("has data for every panel of the dashboard", func(ctx SpecContext) {
		dashboard, err := prometheus.ReadDashboard(filepath.Join(root, "config", "grafana", "notafter.json"))
		Expect(err).NotTo(HaveOccurred())
		queries := 0
		for i := range dashboard.Panels {
			panel := &dashboard.Panels[i]
			for j := range panel.Targets {
				queries++
				expr := dashboard.Query(&panel.Targets[j])
				// A rate needs a second scrape.
				Eventually(query).WithContext(ctx).WithArguments(expr).ShouldNot(BeEmpty(), "%s: %s", panel.Title, expr)
			}
		}
		Expect(queries).To(BeNumerically(">", 20))
	}, SpecTimeout(8*time.Minute))

	It("is silent again when the node is repaired", func(ctx SpecContext) {
		approver.Set(broken, kubelet.Verdict{Decision: kubelet.Approve})
		Eventually(firing).WithContext(ctx).Should(BeEmpty())
	}, SpecTimeout(8*time.Minute))

	It("alerts when the manager is down", func(ctx SpecContext) {
		stopManager()
		Eventually(firing).WithContext(ctx).Should(Equal([]string{"NotafterDown "}))
	}, SpecTimeout(8*time.Minute))
})
