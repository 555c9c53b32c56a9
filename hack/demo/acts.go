// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	policyName = "demo"
	image      = "AKSUbuntu-2204gen2containerd-202501.12.0"
	oldImage   = "AKSUbuntu-2204gen2containerd-202410.27.0"
	pool       = "pool1"

	healthy  = "aks-pool1-000000"
	stuck    = "aks-pool1-000001"
	overdue  = "aks-pool1-000002"
	expired  = "aks-pool1-000003"
	selfMade = "aks-pool1-000004"
	outdated = "aks-pool1-000005"

	// stuckLifetime is that of the certificate which runs out while one watches, stuckAge how much of it is over at the start.
	stuckLifetime = 30 * time.Second
	stuckAge      = 10
	// usualLifetime is that of a certificate which is overdue or expired from the start.
	usualLifetime = 30 * 24 * time.Hour
)

// install applies the manifests and the policy, and starts the manager and two nodes.
func (s *stage) install(ctx context.Context) error {
	say("Two nodes join by TLS bootstrapping. They are simulated, but request and keep their certificates as kubelets do.\n" +
		"# An approver approves the serving certificate of " + healthy + ". Nobody approves that of " + stuck + ",\n" +
		"# which still has one from before, about to run out.")
	if err := s.startHealthyAndStuck(ctx); err != nil {
		return err
	}
	say("notafter is installed, and a policy: the certificates of node pool " + pool + " must be healthy.")
	if err := s.show(ctx, "apply", "--server-side", "-k", filepath.Join(s.config, "default")); err != nil {
		return err
	}
	if err := s.show(ctx, "apply", "-f", filepath.Join(filepath.Dir(s.config), "hack", "demo", "policy.yaml")); err != nil {
		return err
	}
	var err error
	s.manager, err = operator.Start(ctx, s.cluster, s.binary, s.dir)
	return err
}

func (s *stage) startHealthyAndStuck(ctx context.Context) error {
	s.approver.Set(healthy, kubelet.Verdict{Decision: kubelet.Approve})
	if err := s.start(ctx, kubelet.Options{Name: healthy}); err != nil {
		return err
	}
	address := netip.MustParseAddr("127.80.0.1")
	notBefore, notAfter := kubelet.Window(stuckLifetime, stuckAge)
	leaf := kubelet.ServingLeaf(stuck, address.AsSlice(), notBefore, notAfter)
	leaf.DNSNames = nil // the Node has since got a name, so that the kubelet asks for another certificate at once
	old, err := s.ca().Issue(leaf)
	if err != nil {
		return err
	}
	return s.start(ctx, kubelet.Options{Name: stuck, Address: address, ServingCertificate: old})
}

// silentFailure is what notafter exists for.
func (s *stage) silentFailure(ctx context.Context) error {
	say("The request of " + stuck + " stays Pending. Kubernetes reports nothing. The policy does, after 5 seconds:")
	if err := s.compliant(ctx, metav1.ConditionFalse, v1alpha1.ReasonSigningRequestPending); err != nil {
		return err
	}
	if err := s.show(ctx, "get", "csr"); err != nil {
		return err
	}
	say("The certificate in use gets old, passes 90 % of its life, and runs out:")
	for _, reason := range []string{v1alpha1.ReasonRotationOverdue, v1alpha1.ReasonServingCertificateMissing} {
		if err := s.compliant(ctx, metav1.ConditionFalse, reason); err != nil {
			return err
		}
	}
	say("kubectl logs and kubectl exec now fail on that node, and yet the Node is Ready. The policy tells:")
	if err := s.showBrokenLogs(ctx); err != nil {
		return err
	}
	if err := s.show(ctx, "get", "node", stuck); err != nil {
		return err
	}
	return s.show(ctx, "get", "certificatepolicies")
}

// showBrokenLogs asks for the logs of a Pod on the node. No container runs there, but that is not what the answer is about.
func (s *stage) showBrokenLogs(ctx context.Context) error {
	overrides := fmt.Sprintf(`{"spec":{"nodeName":%q,"automountServiceAccountToken":false}}`, stuck)
	if err := wait.PollUntilContextTimeout(ctx, time.Second, patience, true, func(ctx context.Context) (bool, error) {
		_, err := s.kubectl(ctx, "get", "serviceaccount", "default")
		return err == nil, nil
	}); err != nil {
		return fmt.Errorf("waiting for the namespace's ServiceAccount: %w", err)
	}
	if _, err := s.kubectl(ctx, "run", "shop", "--image=shop", "--overrides="+overrides); err != nil {
		return err
	}
	out, err := s.kubectl(ctx, "logs", "shop")
	if err == nil {
		return fmt.Errorf("kubectl logs should fail with tls: internal error, and says:\n%s", out)
	}
	if !strings.Contains(err.Error(), "tls: internal error") {
		return fmt.Errorf("kubectl logs should fail with tls: internal error: %w", err)
	}
	_, answer, _ := strings.Cut(err.Error(), "\n")
	fmt.Printf("$ kubectl logs shop\n%s", answer)
	return nil
}

// otherFailures adds a node for each of the other ways to fail.
func (s *stage) otherFailures(ctx context.Context) error {
	say("Four more nodes join: one serves a certificate that nobody renewed, one an expired one, one signed its own, and one is\n" +
		"# too old to take part in serving certificate rotation.")
	if err := s.startFailing(ctx); err != nil {
		return err
	}
	wanted := map[string]string{
		overdue: v1alpha1.ReasonRotationOverdue, expired: v1alpha1.ReasonExpired,
		selfMade: v1alpha1.ReasonServingCertificateSelfSigned, outdated: v1alpha1.ReasonServingLabelMissing,
	}
	if err := s.awaitPolicy(ctx, fmt.Sprint(wanted), func(p *v1alpha1.CertificatePolicyStatus) bool {
		found := 0
		for i := range p.Findings {
			if wanted[p.Findings[i].Subject.Name] == p.Findings[i].Reason {
				found++
			}
		}
		return found == len(wanted)
	}); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"get", "certificatepolicies", "-o", "wide"},
		{"get", "nodecertificates"},
		{"get", "certificatepolicy", policyName, "-o",
			`jsonpath={range .status.conditions[*]}{.type}={.status}{"\t"}{.reason}{": "}{.message}{"\n"}{end}`},
		{"get", "certificatepolicy", policyName, "-o",
			`jsonpath={range .status.findings[*]}{.severity}{"\t"}{.subject.name}{"\t"}{.reason}{"\n"}{end}`},
	} {
		if err := s.show(ctx, args...); err != nil {
			return err
		}
	}
	say("Each finding says what was seen, what it breaks and how to fix it. The one about " + stuck + ":")
	return s.show(ctx, "get", "certificatepolicy", policyName, "-o",
		`jsonpath={range .status.findings[?(@.reason=="`+v1alpha1.ReasonServingCertificateMissing+`")]}{.message}{"\n"}{end}`)
}

func (s *stage) startFailing(ctx context.Context) error {
	for _, node := range []struct {
		name    string
		address string
		percent int
	}{{overdue, "127.80.0.2", 95}, {expired, "127.80.0.3", 110}} {
		address := netip.MustParseAddr(node.address)
		notBefore, notAfter := kubelet.Window(usualLifetime, node.percent)
		served, err := s.ca().Issue(kubelet.ServingLeaf(node.name, address.AsSlice(), notBefore, notAfter))
		if err != nil {
			return err
		}
		if err := s.startStatic(ctx, node.name, address, served); err != nil {
			return err
		}
	}
	if err := s.start(ctx, kubelet.Options{Name: selfMade, Serving: kubelet.ServingSelfSigned}); err != nil {
		return err
	}
	return s.start(ctx, kubelet.Options{
		Name: outdated, Serving: kubelet.ServingStatic,
		Labels: map[string]string{kubelet.LabelAgentPool: pool, kubelet.LabelNodeImageVersion: oldImage},
	})
}

func (s *stage) startStatic(ctx context.Context, name string, address netip.Addr, served *tls.Certificate) error {
	return s.start(ctx, kubelet.Options{
		Name: name, Address: address, Serving: kubelet.ServingStatic, ServingCertificate: served,
	})
}

// start starts a kubelet of the node pool and waits for its Node.
func (s *stage) start(ctx context.Context, o kubelet.Options) error {
	if o.Labels == nil {
		o.Labels = kubelet.AKSLabels(pool, image)
	}
	k, err := s.kubelets.Start(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return k.WaitRegistered(ctx)
}

func (s *stage) ca() kubelet.CA {
	return kubelet.ClusterCA(s.cluster.CA())
}

// repair does what the finding says.
func (s *stage) repair(ctx context.Context) error {
	say("The fix is to approve the request, here by hand:")
	pending, err := s.kubectl(ctx, "get", "csr", "--field-selector=spec.signerName=kubernetes.io/kubelet-serving", "-o",
		`jsonpath={.items[?(@.spec.username=="system:node:`+stuck+`")].metadata.name}`)
	if err != nil {
		return err
	}
	if err := s.show(ctx, "certificate", "approve", pending); err != nil {
		return err
	}
	if err := s.awaitPolicy(ctx, "the recovery of "+stuck, func(p *v1alpha1.CertificatePolicyStatus) bool {
		for i := range p.Findings {
			if p.Findings[i].Subject.Name == stuck {
				return false
			}
		}
		return true
	}); err != nil {
		return err
	}
	say("The kubelet has its certificate, and the findings about the node are gone. The Events tell the whole story:")
	if err := s.show(ctx, "get", "nodecertificates", stuck); err != nil {
		return err
	}
	return s.recoveryEvent(ctx)
}
