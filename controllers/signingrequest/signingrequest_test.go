// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

// All specs share one operator; where one needs another, or none, it stops this one for a while. The first begins without the
// permission to approve.
var _ = Describe("The approver", Ordered, ContinueOnFailure, func() {
	var (
		written *writes
		stop    func()
	)
	start := func(change ...func(*ctrl.Options)) {
		GinkgoHelper()
		written, stop = startOperator(change...)
	}
	BeforeAll(func() {
		start()
		DeferCleanup(func() { stop() })
	})

	It("says that it may not approve, and approves once it may", func(ctx SpecContext) {
		const pool = "denied"
		// The others need it, whatever becomes of this one.
		DeferCleanup(operator.Install, server, configDir, "approval")
		node := create(ctx, newNode("denied-0", pool))
		request := ask(ctx, node.Name)
		policy := create(ctx, approving(pool))
		for _, permission := range []string{
			"approve signers.certificates.k8s.io/kubernetes.io/kubelet-serving",
			"update certificatesigningrequests.certificates.k8s.io/approval",
		} {
			Eventually(findings).WithArguments(ctx, policy).Should(ContainElement(And(
				HaveField("Reason", v1alpha1.ReasonAccessDenied),
				HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: permission}),
				HaveField("Message", ContainSubstring("config/components/approval")),
			)), permission)
		}
		Expect(written.by()).To(BeEmpty(), "what is sure to be refused is not tried")
		Expect(conditions(ctx, request)(Default)).To(BeEmpty())

		Expect(operator.Install(ctx, server, configDir, "approval")).To(Succeed())
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		Eventually(findings).WithArguments(ctx, policy).ShouldNot(ContainElement(HaveField("Reason", v1alpha1.ReasonAccessDenied)))
	})

	It("gets kubelets their serving certificates", func(ctx SpecContext) {
		const pool = "kubelets"
		create(ctx, approving(pool))
		for i := range 3 {
			name := fmt.Sprintf("kubelet-%d.%s", i, domain)
			k, err := fleet.Start(ctx, kubelet.Options{
				Name: name, Labels: map[string]string{poolLabel: pool}, Heartbeat: kubelet.NoHeartbeat,
			})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(k.Stop)
			Expect(k.WaitServing(ctx)).To(Succeed())
		}
	}, SpecTimeout(5*time.Minute))

	It("waits for a Node that comes after its request", func(ctx SpecContext) {
		const pool = "late"
		create(ctx, approving(pool))
		request := ask(ctx, "late-0")
		By("approving another request in the meantime")
		other := ask(ctx, create(ctx, newNode("late-1", pool)).Name)
		Eventually(conditions(ctx, other)).WithContext(ctx).Should(ConsistOf(approved))
		Consistently(conditions(ctx, request)).WithContext(ctx).Should(BeEmpty())
		create(ctx, newNode("late-0", pool))
		Eventually(conditions(ctx, request)).WithContext(ctx).WithTimeout(30 * time.Second).Should(ConsistOf(approved))
	})

	It("leaves the rest of a request alone", func(ctx SpecContext) {
		const pool = "rest"
		create(ctx, approving(pool))
		node := create(ctx, newNode("rest-0", pool))
		unusual := unfiled(node.Name, pkitest.DNSNames(node.Name), pkitest.IPAddresses(addressOf(node.Name).String()))
		// What no cache keeps of it.
		unusual.Spec.Request = append(unusual.Spec.Request, strings.Repeat("text\n", 12_000)...)
		unusual.Annotations = map[string]string{"example.com/kept": "yes"}
		unusual.Finalizers = []string{"example.com/kept"}
		request, err := fileAs(ctx, node.Name, unusual)
		Expect(err).NotTo(HaveOccurred())
		after := &certificatesv1.CertificateSigningRequest{}
		DeferCleanup(func(ctx context.Context) {
			after.Finalizers = nil
			Expect(c.Update(ctx, after)).To(Succeed())
			Expect(c.Delete(ctx, after)).To(Succeed())
		})
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		Eventually(func(g Gomega) {
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(request), after)).To(Succeed())
			g.Expect(after.Status.Certificate).NotTo(BeEmpty(), "the signer reads the first request")
		}).Should(Succeed())
		Expect(after.Labels).To(Equal(request.Labels))
		Expect(after.Annotations).To(Equal(request.Annotations))
		Expect(after.Finalizers).To(Equal(request.Finalizers))
		Expect(after.GenerateName).To(Equal(request.GenerateName))
		Expect(after.Spec).To(Equal(request.Spec))
	})

	It("decides on nothing that was changed since it was judged", func(ctx SpecContext) {
		const pool = "changed"
		policy := create(ctx, approving(pool))
		node := create(ctx, newNode("changed-0", pool))
		changed := make(chan error, 1)
		written.beforeNext(func(name string) {
			// With that, it is not decided on any more.
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/large":%q}}}`, strings.Repeat("x", csr.MaxMetadataBytes))
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
			changed <- c.Patch(ctx, request, client.RawPatch(types.MergePatchType, []byte(patch)))
		})
		conflicts := written.by()[http.StatusConflict]
		request := ask(ctx, node.Name)
		Eventually(changed).Should(Receive(BeNil()))
		Eventually(written.by).Should(HaveKeyWithValue(http.StatusConflict, conflicts+1))
		Eventually(findings).WithArguments(ctx, policy).Should(ContainElement(
			HaveField("Message", ContainSubstring("MetadataTooLarge"))))
		Consistently(conditions(ctx, request)).WithContext(ctx).Should(BeEmpty())
	})

	It("approves no name that the node must not have, and says which", func(ctx SpecContext) {
		const pool = "spoofed"
		policy := create(ctx, approving(pool))
		node := create(ctx, newNode("spoofed-0", pool))
		request := ask(ctx, node.Name, pkitest.DNSNames("kubernetes.default.svc"), pkitest.IPAddresses(addressOf(node.Name).String()))
		Eventually(findings).WithArguments(ctx, policy).Should(ContainElement(And(
			HaveField("Reason", v1alpha1.ReasonSigningRequestViolation), HaveField("Severity", v1alpha1.SeverityViolation),
			HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: node.Name}),
			HaveField("Message", ContainSubstring("kubernetes.default.svc")),
		)))
		Eventually(events).WithArguments(ctx, node.Name).Should(ContainElement(And(
			HaveField("Type", corev1.EventTypeWarning), HaveField("Note", ContainSubstring("kubernetes.default.svc")),
		)))
		Consistently(conditions(ctx, request)).WithContext(ctx).Should(BeEmpty())
		Expect(c.Delete(ctx, request)).To(Succeed())
		Eventually(findings).WithArguments(ctx, policy).ShouldNot(ContainElement(
			HaveField("Reason", v1alpha1.ReasonSigningRequestViolation)))
	})

	It("denies that if the policy wants it", func(ctx SpecContext) {
		const pool = "deny"
		create(ctx, approving(pool, func(spec *v1alpha1.SigningRequestApprovalSpec) { spec.OnViolation = v1alpha1.ViolationDeny }))
		node := create(ctx, newNode("deny-0", pool))
		request := ask(ctx, node.Name, pkitest.IPAddresses("192.0.2.1"))
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf("Denied AddressNotAllowed"))
	})

	It("heeds the stricter of two policies", func(ctx SpecContext) {
		const pool = "stricter"
		lax := create(ctx, approving(pool))
		strict := approving(pool, func(spec *v1alpha1.SigningRequestApprovalSpec) {
			spec.AllowedIPRanges = []v1alpha1.IPRange{"192.0.2.0/24"}
		})
		strict.Name = "strict"
		create(ctx, strict)
		Eventually(func(g Gomega) {
			current := &v1alpha1.CertificatePolicy{}
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(strict), current)).To(Succeed())
			g.Expect(current.Status.ObservedGeneration).To(Equal(current.Generation))
		}).Should(Succeed())
		request := ask(ctx, create(ctx, newNode("stricter-0", pool)).Name)
		Eventually(findings).WithArguments(ctx, lax).Should(ContainElement(And(
			HaveField("Reason", v1alpha1.ReasonApprovalPoliciesDisagree), HaveField("Severity", v1alpha1.SeverityInfo),
			HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectCertificatePolicy, Name: strict.Name}),
		)))
		Eventually(findings).WithArguments(ctx, strict).Should(ContainElement(
			HaveField("Reason", v1alpha1.ReasonSigningRequestViolation)))
		Consistently(conditions(ctx, request)).WithContext(ctx).Should(BeEmpty())
		Expect(c.Delete(ctx, strict)).To(Succeed())
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		Eventually(findings).WithArguments(ctx, lax).ShouldNot(ContainElement(
			HaveField("Reason", v1alpha1.ReasonApprovalPoliciesDisagree)))
	})

	It("works beside another approver", func(ctx SpecContext) {
		const pool, count = "beside", 40
		create(ctx, approving(pool))
		other, err := kubelet.StartApprover(ctx, server.Config(), kubelet.Verdict{Decision: kubelet.Approve})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(other.Stop)
		for i := range count / 4 {
			other.Set(stormNode(pool, 4*i), kubelet.Verdict{Decision: kubelet.Ignore})
		}
		requests := storm(ctx, pool, count)
		for i, request := range requests {
			expected := Or(ConsistOf(approved), ConsistOf("Approved TestOnlyApproved"))
			if i%4 == 0 {
				expected = ConsistOf(approved)
			}
			Eventually(conditions(ctx, request)).WithContext(ctx).Should(expected)
		}
		Consistently(findings).WithArguments(ctx, approving(pool)).ShouldNot(ContainElement(
			HaveField("Reason", v1alpha1.ReasonAccessDenied)))
	}, SpecTimeout(5*time.Minute))

	It("decides on no request to another signer", func(ctx SpecContext) {
		const pool = "foreign"
		create(ctx, approving(pool))
		node := create(ctx, newNode("foreign-0", pool))
		var foreign []string
		for _, signer := range []string{
			certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeAPIServerClientSignerName, "example.com/serving",
		} {
			request := create(ctx, &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "foreign-"},
				Spec: certificatesv1.CertificateSigningRequestSpec{
					SignerName: signer, Request: pkitest.Request(pkitest.Node(node.Name)),
					Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
				},
			})
			foreign = append(foreign, request.Name)
		}
		request := ask(ctx, node.Name)
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		Eventually(written.names).Should(ContainElement(request.Name))
		Consistently(written.names).ShouldNot(ContainElement(BeElementOf(foreign)))
	})

	It("lets a DNS server that hangs delay only the names that it hangs for", func(ctx SpecContext) {
		const pool, count = "resolved", 20
		create(ctx, approving(pool, func(spec *v1alpha1.SigningRequestApprovalSpec) {
			spec.DNSResolution = v1alpha1.DNSResolutionRequired
			spec.DNSTimeout = &metav1.Duration{Duration: time.Second}
			spec.OnViolation = v1alpha1.ViolationDeny
		}))
		for i := range count / 2 {
			silent.Store(stormNode(pool, 2*i), true)
		}
		requests := storm(ctx, pool, count)
		for i, request := range requests {
			if i%2 == 1 {
				Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
			}
		}
		for i, request := range requests {
			if i%2 == 0 {
				Eventually(func() int { return resolver.Queries(stormNode(pool, i)) }).Should(BeNumerically(">", 0))
				Expect(conditions(ctx, request)(Default)).To(BeEmpty())
			}
		}
		Consistently(conditions(ctx, requests[0])).WithContext(ctx).WithTimeout(2 * time.Second).Should(BeEmpty())
	}, SpecTimeout(5*time.Minute))

	It("leaves requests to the leader", func(ctx SpecContext) {
		const pool, lease = "leader", "signingrequest-test"
		stop()
		create(ctx, approving(pool))
		request := ask(ctx, create(ctx, newNode("leader-0", pool)).Name)
		held := create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: lease, Namespace: "notafter-system"},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: new("somebody-else"), LeaseDurationSeconds: ptr.To[int32](3600),
				RenewTime: new(metav1.NowMicro()), AcquireTime: new(metav1.NowMicro()),
			},
		})
		start(func(o *ctrl.Options) {
			o.LeaderElection, o.LeaderElectionID, o.LeaderElectionNamespace = true, lease, held.Namespace
			o.LeaderElectionConfig = server.Config()
			o.RetryPeriod = new(200 * time.Millisecond)
			o.LeaderElectionReleaseOnCancel = true
		})
		Consistently(conditions(ctx, request)).WithContext(ctx).WithTimeout(5 * time.Second).Should(BeEmpty())
		Expect(c.Delete(ctx, held)).To(Succeed())
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
	}, SpecTimeout(5*time.Minute))

	It("works off a backlog: each node's newest request, with one write", func(ctx SpecContext) {
		const pool, count = "backlog", 200
		create(ctx, approving(pool))
		stop()
		older := storm(ctx, pool, count)
		// A request is newer if it was created in a later second.
		last := older[0].CreationTimestamp
		for _, request := range older {
			if last.Before(&request.CreationTimestamp) {
				last = request.CreationTimestamp
			}
		}
		Eventually(func() bool { return time.Now().After(last.Add(time.Second)) }).Should(BeTrue())
		newer := storm(ctx, pool, count)
		start()
		for _, request := range newer {
			Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		}
		for _, request := range older {
			Expect(conditions(ctx, request)(Default)).To(BeEmpty())
		}
		// The API server tells of a write before the writer has its answer.
		Eventually(written.by).Should(Equal(map[int]int{http.StatusOK: count}))
		Consistently(written.by).Should(Equal(map[int]int{http.StatusOK: count}))
	}, SpecTimeout(8*time.Minute))

	It("stops while an absurd number of nodes waits, and goes on when that is over", func(ctx SpecContext) {
		const pool, count = "flood", 8
		policy := approving(pool, func(spec *v1alpha1.SigningRequestApprovalSpec) { spec.MaximumPendingNodes = 4 })
		create(ctx, policy)
		node := create(ctx, newNode("flood-real", pool))
		var flood []*certificatesv1.CertificateSigningRequest
		for i := range count {
			flood = append(flood, ask(ctx, fmt.Sprintf("flood-%d", i)))
		}
		Eventually(findings).WithArguments(ctx, policy).Should(ContainElement(
			HaveField("Reason", v1alpha1.ReasonSigningRequestApprovalSuspended)))
		request := ask(ctx, node.Name)
		Consistently(conditions(ctx, request)).WithContext(ctx).Should(BeEmpty())
		for _, each := range flood {
			Expect(c.Delete(ctx, each)).To(Succeed())
		}
		Eventually(conditions(ctx, request)).WithContext(ctx).Should(ConsistOf(approved))
		Eventually(findings).WithArguments(ctx, policy).Should(BeEmpty())
	}, SpecTimeout(5*time.Minute))

	It("says that the flood is over when nobody waits any more", func(ctx SpecContext) {
		const pool, count = "ebb", 8
		policy := approving(pool, func(spec *v1alpha1.SigningRequestApprovalSpec) { spec.MaximumPendingNodes = 4 })
		create(ctx, policy)
		var flood []*certificatesv1.CertificateSigningRequest
		for i := range count {
			flood = append(flood, ask(ctx, fmt.Sprintf("ebb-%d", i)))
		}
		Eventually(findings).WithArguments(ctx, policy).Should(ContainElement(
			HaveField("Reason", v1alpha1.ReasonSigningRequestApprovalSuspended)))
		for _, each := range flood {
			Expect(c.Delete(ctx, each)).To(Succeed())
		}
		Eventually(findings).WithArguments(ctx, policy).Should(BeEmpty())
	}, SpecTimeout(5*time.Minute))
})

// findings are those of a policy now, about approving.
func findings(ctx context.Context, policy *v1alpha1.CertificatePolicy) ([]v1alpha1.Finding, error) {
	current := &v1alpha1.CertificatePolicy{}
	err := c.Get(ctx, client.ObjectKeyFromObject(policy), current)
	var found []v1alpha1.Finding
	for _, finding := range current.Status.Findings {
		if finding.Subject.Kind == v1alpha1.SubjectPermission || strings.HasPrefix(finding.Reason, "SigningRequest") ||
			finding.Reason == v1alpha1.ReasonApprovalPoliciesDisagree {
			found = append(found, finding)
		}
	}
	return found, err
}

// events are those about a Node.
func events(ctx context.Context, node string) ([]eventsv1.Event, error) {
	var list eventsv1.EventList
	err := c.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault))
	var found []eventsv1.Event
	for i := range list.Items {
		if regarding := list.Items[i].Regarding; regarding.Kind == "Node" && regarding.Name == node {
			found = append(found, list.Items[i])
		}
	}
	return found, err
}

func stormNode(pool string, i int) string { return fmt.Sprintf("%s-%d.%s", pool, i, domain) }

// storm files a request for each of so many nodes of the pool, and makes the nodes that are not there.
func storm(ctx context.Context, pool string, count int) []*certificatesv1.CertificateSigningRequest {
	GinkgoHelper()
	const atOnce = 16
	requests := make([]*certificatesv1.CertificateSigningRequest, count)
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range count {
		group.Go(func() (err error) {
			name := stormNode(pool, i)
			if err := c.Create(ctx, newNode(name, pool)); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
			requests[i], err = file(ctx, name)
			return err
		})
	}
	Expect(group.Wait()).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		for i, request := range requests {
			Expect(client.IgnoreNotFound(c.Delete(ctx, request))).To(Succeed())
			Expect(client.IgnoreNotFound(c.Delete(ctx, newNode(stormNode(pool, i), pool)))).To(Succeed())
		}
	})
	return requests
}
