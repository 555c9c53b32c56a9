// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/operator"
)

// The API server and etcd go away and come back. For a moment, the manager sits that out. For longer than it may lead without
// renewing its Lease, it ends, and is started anew, here by the test and in a cluster by the kubelet.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "api-server", "etcd", "everything")
	k := &keeper{world: w}
	k.replica = w.start()
	w.Eventually(w.policy).Should(WithTransform(verdict, Equal("True "+v1alpha1.ReasonAsExpected)))
	before := meta.FindStatusCondition(w.must().Status.Conditions, v1alpha1.ConditionCertificatesCurrent)

	t.Log("restarting the API server")
	w.Expect(w.cluster.StopAPIServer()).To(Succeed())
	w.Expect(w.cluster.StartAPIServer(t.Context())).To(Succeed())
	k.expectReport("api-server")

	t.Log("restarting etcd")
	w.Expect(w.cluster.StopEtcd()).To(Succeed())
	w.Expect(w.cluster.StartEtcd(t.Context())).To(Succeed())
	k.expectReport("api-server", "etcd")

	t.Log("stopping both until the manager gives up")
	w.Expect(w.cluster.StopAPIServer()).To(Succeed())
	w.Expect(w.cluster.StopEtcd()).To(Succeed())
	w.Eventually(k.replica.Done()).Should(BeClosed())
	k.revive()
	w.Eventually(probe(t.Context(), k.replica, "/healthz")).Should(Equal(http.StatusOK))
	w.Expect(probe(t.Context(), k.replica, "/readyz")()).NotTo(Equal(http.StatusOK))
	w.Expect(w.cluster.StartEtcd(t.Context())).To(Succeed())
	w.Expect(w.cluster.StartAPIServer(t.Context())).To(Succeed())
	k.expectReport("api-server", "etcd", "everything")
	w.Expect(probe(t.Context(), k.replica, "/readyz")()).To(Equal(http.StatusOK))

	// What did not change shows no trace of all that.
	after := meta.FindStatusCondition(w.must().Status.Conditions, v1alpha1.ConditionCertificatesCurrent)
	w.Expect(after).To(Equal(before))
}

// keeper does what a kubelet does: it starts the manager again when that has ended.
type keeper struct {
	*world

	replica *operator.Operator
}

// revive starts the manager again if it has ended, as it should if it cannot be the leader any more.
func (k *keeper) revive() {
	k.t.Helper()
	select {
	case <-k.replica.Done():
	default:
		return
	}
	k.Expect(k.replica.ExitCode()).To(Equal(exitFailure))
	log, err := k.replica.Log()
	k.Expect(err).NotTo(HaveOccurred())
	k.Expect(log).To(ContainSubstring("leader election lost"))
	k.t.Log("the manager ended, and is started again")
	k.replica = k.start()
}

// expectReport breaks the last of the nodes, and expects the policy to report all of them, and each of them once.
func (k *keeper) expectReport(nodes ...string) {
	k.t.Helper()
	k.relabel(nodes[len(nodes)-1], false)
	findings := make([]string, len(nodes))
	for i, node := range nodes {
		findings[i] = v1alpha1.ReasonServingLabelMissing + " " + node
	}
	k.Eventually(func() (*v1alpha1.CertificatePolicy, error) {
		k.revive()
		return k.policy()
	}).WithTimeout(3 * time.Minute).Should(WithTransform(broken, ConsistOf(findings)))
	k.Eventually(k.tells).Should(Equal(told(nodes, nil)))
}
