// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"io"
	nethttp "net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// promptly is how long a finding may take from its cause to the status, unless another write came less than writeInterval
// before: then that has to pass first.
const promptly = time.Second

// rounds is for how long something is tried again that has to be prompt: a busy machine may spoil a measurement, and a
// controller that is not prompt spoils them all.
const rounds = 3 * time.Minute

var _ = Describe("CertificatePolicy", func() {
	It("reports a finding, its Events and the recovery", func(ctx SpecContext) {
		node := createNode(ctx, "events", "events-1")
		now := time.Now()
		facts := observe(ctx, node, now.Add(-time.Hour), now.Add(99*time.Hour))
		p := createPolicy(ctx, newPoolPolicy("events"))
		startController()

		By("a kubelet that lost its certificate")
		Eventually(func(g Gomega) {
			healthy(facts)
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
			seen := watchPolicy(p.Name)
			seen.waitQuiet()
			servesNothing(facts)
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			changed := time.Now()
			g.Expect(seen.eventually(v1alpha1.ReasonServingCertificateMissing)).To(BeTemporally("<", changed.Add(promptly)))
		}).WithTimeout(rounds).Should(Succeed())
		got := current(ctx, Default, p.Name)
		Expect(conditions(got)).To(And(
			HaveKeyWithValue(v1alpha1.ConditionCompliant, "False ServingCertificateMissing"),
			HaveKeyWithValue(v1alpha1.ConditionReady, "True Evaluated")))
		Expect(got.Status.Nodes.Violating).To(HaveValue(BeEquivalentTo(1)))
		Expect(kstatusNow(ctx, Default, p.Name)).To(Equal(status.CurrentStatus), "a verdict must not hold up a rollout")

		missing := And(
			HaveField("Type", corev1.EventTypeWarning),
			HaveField("Reason", v1alpha1.ReasonServingCertificateMissing),
			HaveField("ReportingController", reporterName))
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(ContainElement(And(missing, relatedTo("Node", node))))
			g.Expect(eventsAbout(ctx, g, node.UID)).To(ContainElement(And(missing, relatedTo("CertificatePolicy", p))))
		}).Should(Succeed())
		Expect(kubectl(ctx, "describe", "node", node.Name)).To(MatchRegexp(
			`Warning +ServingCertificateMissing +\S+ +notafter +CertificatePolicy events: The kubelet`))

		By("the recovery")
		healthy(facts)
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		By("the recovery's Events")
		over := And(
			HaveField("Type", corev1.EventTypeNormal), HaveField("Reason", v1alpha1.ReasonRecovered),
			HaveField("Note", HavePrefix("ServingCertificateMissing")))
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(ContainElement(And(over, relatedTo("Node", node))))
			g.Expect(eventsAbout(ctx, g, node.UID)).To(ContainElement(over))
		}).Should(Succeed())
	})

	It("reports each threshold within a second of the instant", func(ctx SpecContext) {
		now := time.Now()
		facts := observe(ctx, createNode(ctx, "thresholds", "thresholds-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		p := createPolicy(ctx, newPoolPolicy("thresholds"))
		startController()
		Eventually(func(g Gomega) {
			healthy(facts)
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
			seen := watchPolicy(p.Name)
			seen.waitQuiet()
			// 20 s of life, of which 80 % are over in about 4 s, 90 % in about 6 s and all in about 8 s.
			notBefore := time.Now().Truncate(time.Second).Add(-12 * time.Second)
			serves(facts, notBefore, notBefore.Add(20*time.Second))
			Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
			seen.eventually(v1alpha1.ReasonExpired)
			for reason, after := range map[string]time.Duration{
				v1alpha1.ReasonRotationDue: 16 * time.Second, v1alpha1.ReasonRotationOverdue: 18 * time.Second,
				v1alpha1.ReasonExpired: 20 * time.Second,
			} {
				at, finding := seen.first(reason)
				g.Expect(finding).NotTo(BeNil(), reason)
				Expect(at).To(BeTemporally(">=", notBefore.Add(after)), reason)
				g.Expect(at).To(BeTemporally("<", notBefore.Add(after+promptly)), reason)
			}
		}).WithTimeout(rounds).Should(Succeed())
		Expect(current(ctx, Default, p.Name).Status.Findings).To(HaveLen(1), "one age at a time")
	})

	It("shows the verdict in kubectl get", func(ctx SpecContext) {
		notAfter := time.Now().Add(99 * time.Hour).Truncate(time.Second)
		observe(ctx, createNode(ctx, "columns", "columns-1"), notAfter.Add(-100*time.Hour), notAfter)
		expired := time.Now().Add(-time.Hour).Truncate(time.Second)
		observe(ctx, createNode(ctx, "columns", "columns-2"), expired.Add(-100*time.Hour), expired)
		p := createPolicy(ctx, ignoreControlPlane(newPoolPolicy("columns")))
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False Expired")
		Expect(kubectl(ctx, "get", "certificatepolicies", p.Name)).To(MatchRegexp(
			`(?m)^NAME +READY +COMPLIANT +NODES +VIOLATING +NEXT-EXPIRY +AGE\n` +
				`columns +True +False +2 +1 +` + notAfter.UTC().Format(time.RFC3339) + ` +\S+$`))
		Expect(kubectl(ctx, "get", "certpolicy", p.Name, "-o", "wide")).To(MatchRegexp(
			`(?m)REASON +UNKNOWN +CERTIFICATES +DUE +OVERDUE +EXPIRED +AGE\n.* Expired +0 +2 +0 +0 +1 +\S+$`))
	})

	It("writes nothing and sends no Event while nothing changes, nor after a restart", func(ctx SpecContext) {
		node := createNode(ctx, "idle", "idle-1")
		now := time.Now()
		facts := observe(ctx, node, now.Add(-time.Hour), now.Add(99*time.Hour))
		servesNothing(facts)
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		p := createPolicy(ctx, newPoolPolicy("idle"))
		first := startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False ServingCertificateMissing")
		told := func(g Gomega, about client.Object) (reasons []string) {
			for _, e := range eventsAbout(ctx, g, about.GetUID()) {
				reasons = append(reasons, e.Reason)
			}
			return reasons
		}
		Eventually(func(g Gomega) {
			found := len(current(ctx, g, p.Name).Status.Findings)
			g.Expect(found).To(BeNumerically(">", 0))
			g.Expect(told(g, p)).To(HaveLen(found))
			g.Expect(told(g, node)).To(HaveLen(found))
		}).Should(Succeed())

		By("waiting until the last write of the start has been counted")
		var before float64
		Eventually(func(g Gomega) {
			before = writes(ctx)
			g.Consistently(func() float64 { return writes(ctx) }, 2*time.Second, 500*time.Millisecond).Should(Equal(before))
		}).Should(Succeed())
		announced := told(Default, p)
		Expect(told(Default, node)).To(ConsistOf(announced))
		unchanged := func(g Gomega) {
			// A heartbeat, as kubelets send them.
			heartbeat := client.MergeFrom(node.DeepCopy())
			node.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			g.Expect(k8s.Status().Patch(ctx, node, heartbeat)).To(Succeed())
			g.Expect(writes(ctx)).To(Equal(before))
		}
		Consistently(unchanged).WithTimeout(5 * time.Second).WithPolling(500 * time.Millisecond).Should(Succeed())

		first.stop()
		second := startController()
		Eventually(func() int {
			return testutil.CollectAndCount(metrics.New(k8s, nil, second.verdicts), "notafter_findings")
		}).Should(BeNumerically(">", 0))
		Consistently(unchanged).WithTimeout(2 * time.Second).WithPolling(500 * time.Millisecond).Should(Succeed())
		Expect(told(Default, p)).To(Equal(announced))
	})

	It("takes what is written of nodes for true only after a look at them, once it takes over", func(ctx SpecContext) {
		now := time.Now()
		facts := observe(ctx, createNode(ctx, "weekend", "weekend-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		p := createPolicy(ctx, newPoolPolicy("weekend"))
		run := startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		run.stop()

		serves(facts, now.Add(-3*time.Hour), now.Add(-time.Hour))
		Expect(k8s.Status().Update(ctx, facts)).To(Succeed())
		looked := make(chan struct{})
		startController(func(o *Options) { o.NodesObserved = looked })
		fresh := newPoolPolicy("weekend")
		fresh.Name = "weekend-fresh"
		createPolicy(ctx, fresh)
		eventuallyCondition(ctx, fresh.Name, v1alpha1.ConditionCompliant, "False Expired")
		Expect(conditions(current(ctx, Default, p.Name))).To(HaveKeyWithValue(v1alpha1.ConditionCompliant, "True AsExpected"))
		Expect(eventsAbout(ctx, Default, p.UID)).To(BeEmpty())
		close(looked)
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False Expired")
	})

	It("keeps two policies apart, and drops a deleted one's series", func(ctx SpecContext) {
		now := time.Now()
		badFacts := observe(ctx, createNode(ctx, "bad", "bad-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		observe(ctx, createNode(ctx, "good", "good-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		bad, good := createPolicy(ctx, newPoolPolicy("bad")), createPolicy(ctx, newPoolPolicy("good"))
		run := startController()
		eventuallyCondition(ctx, bad.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		eventuallyCondition(ctx, good.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		untouched := current(ctx, Default, good.Name).ResourceVersion

		servesNothing(badFacts)
		Expect(k8s.Status().Update(ctx, badFacts)).To(Succeed())
		eventuallyCondition(ctx, bad.Name, v1alpha1.ConditionCompliant, "False ServingCertificateMissing")
		Expect(current(ctx, Default, good.Name).ResourceVersion).To(Equal(untouched))

		series := func() int {
			return testutil.CollectAndCount(metrics.New(k8s, nil, run.verdicts), "notafter_policy_condition")
		}
		both := series()
		Expect(k8s.Delete(ctx, bad)).To(Succeed())
		Eventually(series).Should(Equal(both / 2))
	})

	It("judges signing requests that belong to no Node", func(ctx SpecContext) {
		p := newPoolPolicy("orphans")
		p.Spec.Nodes.SigningRequests.PendingTimeout = &metav1.Duration{Duration: time.Second}
		createPolicy(ctx, p)
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "Unknown NoNodesSelected")

		config, err := kubernetes.UserConfig("system:node:orphans-1", "system:nodes")
		Expect(err).NotTo(HaveOccurred())
		kubelet, err := client.New(config, client.Options{Scheme: scheme})
		Expect(err).NotTo(HaveOccurred())
		request := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "orphans-request"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Request: pkitest.Request(pkitest.Node("orphans-1")),
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			},
		}
		Expect(kubelet.Create(ctx, request)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) error { return k8s.Delete(ctx, request) })
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False SigningRequestPending")
		Expect(findingOf(current(ctx, Default, p.Name), v1alpha1.ReasonSigningRequestPending).Subject).To(Equal(
			v1alpha1.Subject{Kind: v1alpha1.SubjectSigningRequest, Name: request.Name}))
		Eventually(func(g Gomega) {
			g.Expect(eventsAbout(ctx, g, p.UID)).To(ContainElement(And(
				HaveField("Reason", v1alpha1.ReasonSigningRequestPending), relatedTo("CertificateSigningRequest", request))))
		}).Should(Succeed())

		By("its Node appearing, in a pool that the policy does not select")
		createNode(ctx, "other", "orphans-1")
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "Unknown NoNodesSelected")
	})

	It("takes no facts about a Node's predecessor of the same name", func(ctx SpecContext) {
		node := createNode(ctx, "recreated", "recreated-1")
		now := time.Now()
		observe(ctx, node, now.Add(-100*time.Hour), now.Add(-time.Hour))
		p := createPolicy(ctx, newPoolPolicy("recreated"))
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "False Expired")
		Expect(k8s.Delete(ctx, node)).To(Succeed())
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "Unknown NoNodesSelected")
		createNode(ctx, "recreated", "recreated-1")
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "Unknown NotObserved")
	})

	It("coalesces a burst of a thousand nodes", func(ctx SpecContext) {
		const nodes = 1000
		now := time.Now()
		all := make([]*v1alpha1.NodeCertificates, nodes)
		DeferCleanup(deletePool, "burst")
		inParallel(nodes, func(i int) {
			node := newNode("burst", fmt.Sprintf("burst-%04d", i))
			Expect(k8s.Create(ctx, node)).To(Succeed())
			all[i] = observe(ctx, node, now.Add(-time.Hour), now.Add(99*time.Hour))
		})
		p := createPolicy(ctx, newPoolPolicy("burst"))
		startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionCompliant, "True AsExpected")

		// change changes all nodes at once, and returns the status that tells so, and how long after the last change it came.
		change := func(how func(*v1alpha1.NodeCertificates), violating int) (v1alpha1.CertificatePolicyStatus, time.Duration) {
			seen := watchPolicy(p.Name)
			began := time.Now()
			inParallel(nodes, func(i int) {
				how(all[i])
				Expect(k8s.Status().Update(ctx, all[i])).To(Succeed())
			})
			ended := time.Now()
			Eventually(func(g Gomega) {
				got := seen.list()
				g.Expect(got).NotTo(BeEmpty())
				g.Expect(got[len(got)-1].policy.Status.Nodes.Violating).To(HaveValue(BeEquivalentTo(violating)))
			}).Should(Succeed())
			versions := seen.list()
			last := versions[len(versions)-1]
			writes := len(versions) - 1 // the first version was there before
			GinkgoWriter.Printf("%d changes in %s: %d status writes\n", nodes, ended.Sub(began), writes)
			Expect(writes).To(BeNumerically("<=", int(last.at.Sub(began)/writeInterval)+1))
			return last.policy.Status, last.at.Sub(ended)
		}
		began := time.Now()
		last, delay := change(servesNothing, nodes)
		Expect(last.Findings).To(HaveLen(maxFindings))

		By("a bounded number of Events, and few that sum up the rest")
		var single, summaries int
		Eventually(func(g Gomega) {
			var suppressed int
			single, summaries = 0, 0
			for _, e := range eventsAbout(ctx, g, p.UID) {
				if e.Reason != v1alpha1.ReasonFindingsSuppressed {
					single++
					continue
				}
				summaries++
				match := regexp.MustCompile(`(\d+) findings raised`).FindStringSubmatch(e.Note)
				Expect(match).NotTo(BeNil(), e.Note)
				n, err := strconv.Atoi(match[1])
				Expect(err).NotTo(HaveOccurred())
				suppressed += n
			}
			g.Expect(single+suppressed).To(Equal(len(last.Findings)+int(last.OmittedFindings)), "every finding is announced or counted")
		}).WithTimeout(6 * summaryDelay).WithPolling(500 * time.Millisecond).Should(Succeed())
		Expect(summaries).To(And(BeNumerically(">=", 1), BeNumerically("<=", 1+int(time.Since(began)/summaryDelay))))
		Expect(single).To(And(BeNumerically(">=", eventBurst/2), BeNumerically("<", eventBurst)))

		By("the last of the changes being reported promptly")
		Eventually(func(g Gomega) {
			if delay >= writeInterval+promptly {
				change(healthy, 0)
				_, delay = change(servesNothing, nodes)
			}
			g.Expect(delay).To(BeNumerically("<", writeInterval+promptly))
		}).WithTimeout(rounds).Should(Succeed())
	}, NodeTimeout(10*time.Minute))
})

// relatedTo matches an Event with the object as related one.
func relatedTo(kind string, o client.Object) types.GomegaMatcher {
	return HaveField("Related", HaveValue(And(
		HaveField("Kind", kind), HaveField("Name", o.GetName()), HaveField("UID", o.GetUID()))))
}

// inParallel does the work n times, several at once.
func inParallel(n int, work func(i int)) {
	GinkgoHelper()
	var group errgroup.Group
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			defer GinkgoRecover()
			work(i)
			return nil
		})
	}
	Expect(group.Wait()).To(Succeed())
}

// writes counts, by the API server's own metrics, the requests so far that wrote one of our objects or an Event.
func writes(ctx context.Context) float64 {
	GinkgoHelper()
	http, err := rest.HTTPClientFor(restConfig)
	Expect(err).NotTo(HaveOccurred())
	request, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, restConfig.Host+"/metrics", nil)
	Expect(err).NotTo(HaveOccurred())
	response, err := http.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	Expect(response.StatusCode).To(Equal(nethttp.StatusOK), string(text))
	var total float64
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") ||
			!regexp.MustCompile(`resource="(certificatepolicies|nodecertificates|events)"`).MatchString(line) ||
			!regexp.MustCompile(`verb="(POST|PUT|PATCH|APPLY|DELETE)"`).MatchString(line) {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
		Expect(err).NotTo(HaveOccurred())
		total += value
	}
	return total
}
