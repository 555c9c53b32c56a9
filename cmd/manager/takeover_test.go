// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// leaseDuration is how long a leader that says nothing is believed to live.
	leaseDuration = 15 * time.Second
	// retryPeriod is the longest time between two looks of a standby at the Lease: two seconds, and 1.2 times that at random.
	retryPeriod = 4400 * time.Millisecond
	// busy is what a busy machine may add.
	busy = 30 * time.Second
)

// Two replicas, one of which leads, is killed, and is replaced by the other; then replicas that are asked to stop.
func TestTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "before", "meanwhile", "after", "recovers")
	first := w.start()
	w.Eventually(probe(t.Context(), first, "/readyz")).Should(Equal(http.StatusOK))
	w.Eventually(w.leads).WithArguments(first).Should(BeTrue())
	second := w.start()
	w.Eventually(probe(t.Context(), second, "/readyz")).Should(Equal(http.StatusOK), "a standby is ready as well")
	w.Eventually(w.policy).Should(WithTransform(verdict, Equal("True "+v1alpha1.ReasonAsExpected)))
	w.Expect(w.leads(second)).To(BeFalse())

	w.relabel("before", false)
	w.relabel("recovers", false)
	w.Eventually(w.policy).Should(WithTransform(broken, HaveLen(2)))
	w.Eventually(w.tells).Should(Equal(told([]string{"before", "recovers"}, nil)))
	certificates := *w.must().Status.Certificates.Total
	past := w.record()

	t.Log("killing the leader")
	w.Expect(first.Kill()).To(Succeed())
	former := w.lease()
	w.relabel("meanwhile", false)
	w.relabel("recovers", true)
	w.Eventually(w.leads).WithArguments(second).Should(BeTrue())
	now := w.lease()
	w.Expect(now.Spec.HolderIdentity).NotTo(Equal(former.Spec.HolderIdentity))
	w.Expect(now.Spec.LeaseTransitions).To(HaveValue(Equal(*former.Spec.LeaseTransitions + 1)))
	took := now.Spec.AcquireTime.Sub(former.Spec.RenewTime.Time)
	t.Logf("another replica leads %s after the last sign of life of the one that was killed", took)
	w.Expect(took).To(And(
		BeNumerically(">=", leaseDuration), BeNumerically("<", leaseDuration+2*retryPeriod+busy)))

	w.Eventually(w.policy).Should(WithTransform(broken, ConsistOf(
		v1alpha1.ReasonServingLabelMissing+" before", v1alpha1.ReasonServingLabelMissing+" meanwhile")))
	w.relabel("after", false)
	everything := told([]string{"before", "meanwhile", "after", "recovers"}, []string{"recovers"})
	w.Eventually(w.tells).Should(Equal(everything))
	past.expectNoGap(w, certificates)

	third := w.start("--kube-api-qps=4", "--kube-api-burst=4")
	w.Eventually(probe(t.Context(), third, "/readyz")).Should(Equal(http.StatusOK))
	past = w.record()
	t.Log("stopping the leader")
	expectHandover(w, second, third)
	w.Consistently(w.tells, time.Second).Should(Equal(everything))

	t.Log("stopping a leader that has much to tell")
	for _, node := range []string{"before", "meanwhile", "after"} {
		w.relabel(node, true)
	}
	w.Eventually(w.policy).Should(WithTransform(broken, BeEmpty()))
	expectOrderlyEnd(w, third)
	w.Expect(w.tells()).To(Equal(told([]string{"before", "meanwhile", "after", "recovers"},
		[]string{"before", "meanwhile", "after", "recovers"})))
	past.expectNoGap(w, certificates)
}

// expectHandover stops the leader, and expects the standby to take over at once.
func expectHandover(w *world, leader, standby *operator.Operator) {
	w.t.Helper()
	holder := w.lease().Spec.HolderIdentity
	expectOrderlyEnd(w, leader)
	stopped := time.Now()
	w.Expect(w.lease().Spec.HolderIdentity).NotTo(Equal(holder), "the Lease is given up, and not left to run out")
	w.Eventually(w.leads).WithArguments(standby).Should(BeTrue())
	took := w.lease().Spec.AcquireTime.Sub(stopped)
	w.t.Logf("another replica leads %s after the one that was stopped", took)
	w.Expect(took).To(BeNumerically("<", retryPeriod+busy))
}

// expectOrderlyEnd stops a leader as a kubelet does, and expects that it gives up its Lease and has nothing to complain about.
func expectOrderlyEnd(w *world, leader *operator.Operator) {
	w.t.Helper()
	before, err := leader.Log()
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(leader.Stop()).To(Succeed())
	log, err := leader.Log()
	w.Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(strings.TrimPrefix(log, before)) {
		w.Expect(line).NotTo(ContainSubstring("ERROR"))
	}
	w.Expect(leader.ExitCode()).To(Equal(0))
}
