// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/metrics"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// approvals is what the specs say that the approver says.
type approvals struct {
	mu      sync.Mutex
	known   *policy.Approvals
	denied  []policy.Denial
	changed enqueue.Signal
}

var _ Approvals = &approvals{}

func newApprovals() *approvals { return &approvals{changed: enqueue.NewSignal()} }

func (a *approvals) Snapshot() (*policy.Approvals, []policy.Denial) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known, a.denied
}

func (a *approvals) Changed() <-chan event.GenericEvent { return a.changed }

// set replaces what is known.
func (a *approvals) set(known *policy.Approvals, denied ...policy.Denial) {
	a.mu.Lock()
	a.known, a.denied = known, denied
	a.mu.Unlock()
	a.changed.Send()
}

var _ = Describe("What the approver of signing requests says", func() {
	denied := policy.Denial{
		Permission: "update certificatesigningrequests.certificates.k8s.io/approval", Source: "approving requests",
		Message: "is forbidden", Concerns: []string{v1alpha1.ConditionApprovalHealthy},
	}

	It("is in the status of a policy that speaks of approval, and in no other", func(ctx SpecContext) {
		now := time.Now()
		observe(ctx, createNode(ctx, "approval", "approval-1"), now.Add(-time.Hour), now.Add(99*time.Hour))
		p := ignoreControlPlane(newPoolPolicy("approval"))
		p.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{
			Mode: v1alpha1.ApprovalApprove, AllowedIPRanges: []v1alpha1.IPRange{"10.0.0.0/8"},
		}
		createPolicy(ctx, p)
		silent := ignoreControlPlane(newPoolPolicy("approval"))
		silent.Name = "approval-silent"
		createPolicy(ctx, silent)
		run := startController()
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionApprovalHealthy, "Unknown NotObserved")

		run.approvals.set(&policy.Approvals{}, denied)
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionApprovalHealthy, "Unknown AccessDenied")

		violated := &policy.Approvals{Requests: []policy.JudgedRequest{{
			Name: "csr-1", NodeName: "approval-1", Created: now, Reason: "AddressNotAllowed",
			Message: "IP address 192.0.2.1 is not allowed", Violated: true, By: []string{p.Name},
		}}}
		run.approvals.set(violated)
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionApprovalHealthy, "False SigningRequestViolation")
		Expect(current(ctx, Default, p.Name).Status.Findings[0].Message).To(ContainSubstring("csr-1"))

		By("another process taking over, whose approver has not judged the requests yet")
		run.stop()
		before := current(ctx, Default, p.Name).ResourceVersion
		run = startController()
		Eventually(func() int { // the policy that does not wait for the approver
			return testutil.CollectAndCount(metrics.New(k8s, nil, run.verdicts), "notafter_policy_condition")
		}).Should(BeNumerically(">", 0))
		Consistently(func(g Gomega) {
			g.Expect(current(ctx, g, p.Name).ResourceVersion).To(Equal(before), "the status is written")
		}).WithTimeout(2 * time.Second).Should(Succeed())
		run.approvals.set(violated)

		By("the request being withdrawn")
		run.approvals.set(&policy.Approvals{})
		eventuallyCondition(ctx, p.Name, v1alpha1.ConditionApprovalHealthy, "True AsExpected")
		eventuallyCondition(ctx, silent.Name, v1alpha1.ConditionCompliant, "True AsExpected")
		Expect(conditions(current(ctx, Default, silent.Name))).NotTo(HaveKey(v1alpha1.ConditionApprovalHealthy))
	})
})
