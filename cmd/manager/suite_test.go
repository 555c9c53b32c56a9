// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// soon is how long anything may take on a busy machine. What has to be quick is measured.
	soon = time.Minute
	// pool is the node pool, and the name of the policy for it.
	pool      = "pool"
	nodeImage = "AKSUbuntu-2204gen2containerd-202501.12.0"
	// manifests is their folder.
	manifests = "../../config"
)

// binary is where the manager was built, as `make build` does it.
var binary string

func TestMain(m *testing.M) {
	logf.SetLogger(logr.Discard())
	// The tests have a cluster each, and wait more than they work. More at once would only keep each other from what has a time.
	if err := flag.Set("test.parallel", "2"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "notafter-manager-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what stays is in the system's folder for temporary files
	binary = filepath.Join(dir, "manager")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v0.0.0-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the manager: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// world is a cluster with notafter's manifests, and what runs in it.
type world struct {
	*WithT

	t       *testing.T
	cluster *cluster.Cluster
	admin   client.WithWatch
	fleet   *kubelet.Fleet
}

// newWorld starts a cluster with notafter installed, but for a manager that runs, and with nodes.
func newWorld(t *testing.T, nodes ...string) *world {
	t.Helper()
	w := newEmptyWorld(t, cluster.Options{ControllerManager: true, SigningDuration: 24 * time.Hour})
	w.Expect(operator.Install(t.Context(), w.cluster, manifests)).To(Succeed())
	token, err := w.cluster.BootstrapToken(t.Context(), time.Hour)
	w.Expect(err).NotTo(HaveOccurred())
	approver, err := kubelet.StartApprover(t.Context(), w.cluster.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	w.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(approver.Stop)
	w.fleet, err = kubelet.NewFleet(kubelet.Join{API: w.cluster.Config(), BootstrapToken: token}, t.TempDir())
	w.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(w.fleet.Stop)
	for _, name := range nodes {
		_, err := w.fleet.Start(t.Context(), kubelet.Options{Name: name, Labels: kubelet.AKSLabels(pool, nodeImage)})
		w.Expect(err).NotTo(HaveOccurred())
	}
	w.Expect(w.fleet.WaitServing(t.Context())).To(Succeed())
	w.Eventually(func() error { return w.admin.Create(t.Context(), newPolicy()) }).Should(Succeed())
	return w
}

// newEmptyWorld starts a cluster without anything in it.
func newEmptyWorld(t *testing.T, o cluster.Options) *world {
	t.Helper()
	o.Log = t.Output()
	w := &world{WithT: NewWithT(t), t: t, cluster: cluster.StartForTest(t, o)}
	w.SetDefaultEventuallyTimeout(soon)
	w.SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	var err error
	w.admin, err = client.NewWithWatch(w.cluster.Config(), client.Options{Scheme: controllers.NewScheme()})
	w.Expect(err).NotTo(HaveOccurred())
	return w
}

// newPolicy asks for everything, and for the label of AKS: taking it from a Node is a finding that shows at once.
func newPolicy() *v1alpha1.CertificatePolicy {
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: pool}}
	policy.Spec.Expiry.MinimumRemaining = &metav1.Duration{}
	policy.Spec.ControlPlane.Expiry.MinimumRemaining = &metav1.Duration{}
	policy.Spec.Nodes.Probe.Timeout = &metav1.Duration{Duration: time.Minute} // a busy machine is no finding
	policy.Spec.Nodes.ServingCertificate.Label = &v1alpha1.NodeLabel{Key: kubelet.LabelServingCA, Value: "cluster"}
	return policy
}

// start runs one more replica, with the flags of the Deployment and more, until the test ends.
func (w *world) start(args ...string) *operator.Operator {
	w.t.Helper()
	args = append([]string{"--leader-elect", "--leader-election-namespace=" + operator.Namespace}, args...)
	replica, err := operator.Start(w.t.Context(), w.cluster, binary, w.t.TempDir(), args...)
	w.Expect(err).NotTo(HaveOccurred())
	w.t.Cleanup(func() {
		if err := replica.Kill(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("the end of the log of the manager with the process id %d:\n%s", replica.PID(), replica.LogTail())
		}
	})
	return replica
}

// probe is what a replica answers to a probe.
func probe(ctx context.Context, replica *operator.Operator, path string) func() (int, error) {
	return func() (int, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+replica.HealthAddress()+path, http.NoBody)
		if err != nil {
			return 0, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
}

// leads says whether a replica takes itself for the leader.
func (w *world) leads(replica *operator.Operator) (bool, error) {
	families, err := replica.Metrics(w.t.Context())
	if err != nil {
		return false, err
	}
	statuses := families["leader_election_master_status"].GetMetric()
	if len(statuses) == 0 {
		return false, errors.New("the replica does not say whether it leads")
	}
	for _, metric := range statuses {
		if metric.GetGauge().GetValue() == 1 {
			return true, nil
		}
	}
	return false, nil
}

// lease is the one by which the replicas agree on a leader.
func (w *world) lease() *coordinationv1.Lease {
	w.t.Helper()
	lease := &coordinationv1.Lease{}
	key := client.ObjectKey{Namespace: operator.Namespace, Name: "notafter.dev"}
	w.Expect(w.admin.Get(w.t.Context(), key, lease)).To(Succeed())
	return lease
}

// relabel gives a Node the label that the policy asks for, or takes it away.
func (w *world) relabel(node string, labelled bool) {
	w.t.Helper()
	patch := []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, kubelet.LabelServingCA))
	if labelled {
		patch = []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:"cluster"}}}`, kubelet.LabelServingCA))
	}
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	w.Eventually(func() error {
		return w.admin.Patch(w.t.Context(), object, client.RawPatch(types.MergePatchType, patch))
	}).Should(Succeed())
}

// policy reads the policy.
func (w *world) policy() (*v1alpha1.CertificatePolicy, error) {
	policy := &v1alpha1.CertificatePolicy{}
	return policy, w.admin.Get(w.t.Context(), client.ObjectKey{Name: pool}, policy)
}

// must is policy where nothing is in the way.
func (w *world) must() *v1alpha1.CertificatePolicy {
	w.t.Helper()
	policy, err := w.policy()
	w.Expect(err).NotTo(HaveOccurred())
	return policy
}

// broken are the findings in a status, as "reason subject".
func broken(policy *v1alpha1.CertificatePolicy) []string {
	found := []string{}
	for i := range policy.Status.Findings {
		found = append(found, policy.Status.Findings[i].Reason+" "+policy.Status.Findings[i].Subject.Name)
	}
	return found
}

// verdict is the Compliant condition's status and reason.
func verdict(policy *v1alpha1.CertificatePolicy) string {
	condition := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionCompliant)
	if condition == nil {
		return ""
	}
	return string(condition.Status) + " " + condition.Reason
}

// events counts the Events about policies and Nodes: "kind reason subject", where the subject is the Node. Of those about
// recoveries, it is the ones from what told is about: a busy machine may cause findings of its own.
func (w *world) events() (map[string]int, error) {
	list := &eventsv1.EventList{}
	if err := w.admin.List(w.t.Context(), list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for i := range list.Items {
		event := &list.Items[i]
		if event.ReportingController != "notafter" ||
			event.Reason == v1alpha1.ReasonRecovered && !strings.HasPrefix(event.Note, v1alpha1.ReasonServingLabelMissing) {
			continue
		}
		subject := event.Regarding
		if event.Regarding.Kind == "CertificatePolicy" && event.Related != nil {
			subject = *event.Related
		}
		n := 1
		if event.Series != nil {
			n = int(event.Series.Count)
		}
		counts[strings.Join([]string{event.Regarding.Kind, event.Reason, subject.Name}, " ")] += n
	}
	return counts, nil
}

// told are the Events that tell once, about the policy and about the Node, of what was raised and what is over.
func told(raised, over []string) map[string]int {
	counts := map[string]int{}
	for _, kind := range []string{"CertificatePolicy", "Node"} {
		for _, node := range raised {
			counts[kind+" "+v1alpha1.ReasonServingLabelMissing+" "+node]++
		}
		for _, node := range over {
			counts[kind+" "+v1alpha1.ReasonRecovered+" "+node]++
		}
	}
	return counts
}

// tells are the Events about what told is about.
func (w *world) tells() (map[string]int, error) {
	counts, err := w.events()
	maps.DeleteFunc(counts, func(key string, _ int) bool {
		reason := strings.Fields(key)[1]
		return reason != v1alpha1.ReasonServingLabelMissing && reason != v1alpha1.ReasonRecovered
	})
	return counts, err
}

// history is every version of the policy's status and of the facts about nodes, from when it begins.
type history struct {
	mu       sync.Mutex
	policies []*v1alpha1.CertificatePolicy
	facts    []*v1alpha1.NodeCertificates
	deleted  []string
}

// record begins a history.
func (w *world) record() *history {
	w.t.Helper()
	h := &history{}
	for _, list := range []client.ObjectList{&v1alpha1.CertificatePolicyList{}, &v1alpha1.NodeCertificatesList{}} {
		watcher, err := w.admin.Watch(w.t.Context(), list)
		w.Expect(err).NotTo(HaveOccurred())
		w.t.Cleanup(watcher.Stop)
		go func() {
			for event := range watcher.ResultChan() {
				h.add(string(event.Type), event.Object)
			}
		}()
	}
	return h
}

func (h *history) add(kind string, object any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o, ok := object.(client.Object); ok && kind == "DELETED" {
		h.deleted = append(h.deleted, o.GetName())
	}
	switch o := object.(type) {
	case *v1alpha1.CertificatePolicy:
		h.policies = append(h.policies, o)
	case *v1alpha1.NodeCertificates:
		h.facts = append(h.facts, o)
	}
}

// expectNoGap fails if anything that was known was not known in between.
func (h *history) expectNoGap(w *world, certificates int32) {
	w.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Expect(h.policies).NotTo(BeEmpty())
	w.Expect(h.deleted).To(BeEmpty())
	for _, policy := range h.policies {
		at := "in the policy's version " + policy.ResourceVersion
		for _, condition := range policy.Status.Conditions {
			w.Expect(condition.Status).NotTo(Equal(metav1.ConditionUnknown), condition.Type+" "+condition.Reason+" "+at)
		}
		w.Expect(policy.Status.Findings).NotTo(ContainElement(HaveField("Severity", v1alpha1.SeverityUnknown)), at)
		w.Expect(policy.Status.Certificates.Total).To(HaveValue(Equal(certificates)), at)
	}
	for _, facts := range h.facts {
		at := "of " + facts.Name + " in version " + facts.ResourceVersion
		w.Expect(facts.Status.Serving).NotTo(BeNil(), at)
		w.Expect(facts.Status.Kubelet).NotTo(BeNil(), at)
		w.Expect(len(facts.Status.Certificates)).To(BeNumerically(">=", 2), at)
	}
}
