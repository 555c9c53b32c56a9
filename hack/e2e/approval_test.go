// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
)

// spoofed is the name of a request that no kubelet filed: see fileSpoofed.
var spoofed string

// What is said of the node before its request is approved, and of the one that must not be.
var (
	awaitsApproval = report{approved, v1alpha1.ReasonSigningRequestPending, v1alpha1.PurposeKubeletServing,
		v1alpha1.ConditionBootstrapHealthy}
	servesNothing = report{approved, v1alpha1.ReasonServingCertificateMissing, v1alpha1.PurposeKubeletServing,
		v1alpha1.ConditionServingRotationEnabled}
	asksForAnother = report{approved, v1alpha1.ReasonSigningRequestViolation, v1alpha1.PurposeKubeletServing,
		v1alpha1.ConditionApprovalHealthy}
)

// approvalSpecs are about a real kubelet whose requests notafter alone decides on.
func approvalSpecs() {
	BeforeAll(needsOwnCluster)

	It("does not approve another node's address, and says whose it asked for", func(ctx SpecContext) {
		expectReported(ctx, awaitsApproval)
		expectReported(ctx, servesNothing)
		Expect(logsOf(ctx, approved)).To(MatchError(ContainSubstring(noCertificate)))

		grantApproval(ctx)
		wantApproval(ctx)
		expectReported(ctx, asksForAnother)
		expectEvents(ctx, approved, And(HaveField("Reason", v1alpha1.ReasonSigningRequestViolation), HaveField("Note", And(
			ContainSubstring(spoofed), ContainSubstring("AddressNotOfNode"), ContainSubstring(nodes[steady1].IP())))))
		Expect(servingRequests(ctx, approved)).To(And(
			ContainElement(HaveField("Name", spoofed)), HaveEach(HaveField("Status.Conditions", BeEmpty()))))
	}, SpecTimeout(2*soon))

	It("approves what the kubelet asked for once that is deleted, and logs can be read", func(ctx SpecContext) {
		Expect(admin.Delete(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: spoofed}})).To(Succeed())
		expectServed(ctx, nil)
		expectRecovered(ctx, awaitsApproval)
		expectRecovered(ctx, asksForAnother)
		expectApprovalHealthy(ctx)
		Eventually(logsOf).WithContext(ctx).WithArguments(approved).Should(Succeed())
	}, SpecTimeout(2*soon))
}

// laterApprovalSpecs look at the same node again when its certificate has run its course.
func laterApprovalSpecs() {
	BeforeAll(needsOwnCluster)

	It("approves renewals, too", func(ctx SpecContext) {
		requests, err := servingRequests(ctx, approved)
		Expect(err).NotTo(HaveOccurred())
		var first *x509.Certificate
		for i := range requests {
			first = cmp.Or(first, certificateOf(&requests[i]))
		}
		Expect(first).NotTo(BeNil())
		expectServed(ctx, first)
		expectApprovalHealthy(ctx)
		Expect(logsOf(ctx, approved)).To(Succeed())
	}, SpecTimeout(2*soon))

	It("names the permissions that were taken away, and goes on once they are back", func(ctx SpecContext) {
		run(ctx, "delete", "clusterrolebinding", "notafter-approval")
		before := onDisk(nodes[approved], servingFile)
		loseServingCertificate(approved)
		Eventually(policyOf(approved)).WithContext(ctx).Should(And(
			HaveField("Status.Findings", And(
				ContainElement(missing("update certificatesigningrequests.certificates.k8s.io/approval")),
				ContainElement(missing("approve signers.certificates.k8s.io/"+certificatesv1.KubeletServingSignerName)),
			)),
			WithTransform(conditionsOf, HaveKeyWithValue(v1alpha1.ConditionApprovalHealthy, "Unknown "+v1alpha1.ReasonAccessDenied)),
		))
		Eventually(eventsOf).WithContext(ctx).WithArguments(approved).Should(ContainElement(And(
			HaveField("Reason", v1alpha1.ReasonAccessDenied), HaveField("Regarding.Kind", "CertificatePolicy"))), "Events")

		grantApproval(ctx)
		expectServed(ctx, before)
		expectApprovalHealthy(ctx)
		Eventually(logsOf).WithContext(ctx).WithArguments(approved).Should(Succeed())
	}, SpecTimeout(2*soon))
}

// fileSpoofed does what somebody does who has read a node's disk: it files a request in its name, for another node's address.
// That is long before the specs about it, for notafter gives an address a minute to show among those of the Node.
func fileSpoofed(ctx context.Context) {
	GinkgoHelper()
	Eventually(func(ctx context.Context) (time.Duration, error) {
		requests, err := servingRequests(ctx, approved)
		if err != nil || len(requests) == 0 {
			return 0, err
		}
		return time.Since(requests[0].CreationTimestamp.Time), nil
	}).WithContext(ctx).Should(BeNumerically(">", 2*time.Second), "the kubelet's own request is the older one")

	path, err := pathOnDisk(nodes[approved], clientFile)
	Expect(err).NotTo(HaveOccurred())
	stolen := rest.AnonymousClientConfig(config)
	stolen.CertFile, stolen.KeyFile = path, path
	thief, err := client.New(stolen, client.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	subject := pkix.Name{CommonName: "system:node:" + approved, Organization: []string{"system:nodes"}}
	content, err := certutil.MakeCSR(key, &subject, []string{approved}, []net.IP{net.ParseIP(nodes[steady1].IP())})
	Expect(err).NotTo(HaveOccurred())
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content, SignerName: certificatesv1.KubeletServingSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
	Expect(thief.Create(ctx, request)).To(Succeed())
	spoofed = request.Name
}

// grantApproval grants the permission, as the guide says to.
func grantApproval(ctx context.Context) {
	GinkgoHelper()
	run(ctx, "apply", "-k", filepath.Join(configDir, "components", "approval"))
}

// wantApproval has the node's policy approve requests for addresses of the nodes' network.
func wantApproval(ctx context.Context) {
	GinkgoHelper()
	network, err := netip.MustParseAddr(nodes[approved].IP()).Prefix(24)
	Expect(err).NotTo(HaveOccurred())
	policy, err := policyOf(approved)(ctx)
	Expect(err).NotTo(HaveOccurred())
	before := policy.DeepCopy()
	policy.Spec.SigningRequestApproval = &v1alpha1.SigningRequestApprovalSpec{
		Mode:                    v1alpha1.ApprovalApprove,
		AllowedIPRanges:         []v1alpha1.IPRange{v1alpha1.IPRange(network.String())},
		MaximumDecisionsPerNode: 1000, // certificates live for minutes
	}
	Expect(admin.Patch(ctx, policy, client.MergeFrom(before))).To(Succeed())
}

// expectServed waits until the kubelet serves a certificate of the Cluster CA, other than an earlier one, that was issued to a
// request which notafter approved.
func expectServed(ctx context.Context, earlier *x509.Certificate) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		certificate, err := servedOn(ctx, approved)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(certificate.Equal(earlier)).To(BeFalse(), "still the earlier certificate")
		requests, err := servingRequests(ctx, approved)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(requests).To(ContainElement(And(
			WithTransform(func(r certificatesv1.CertificateSigningRequest) bool { return certificate.Equal(certificateOf(&r)) }, BeTrue()),
			HaveField("Status.Conditions", ConsistOf(And(
				HaveField("Type", certificatesv1.CertificateApproved), HaveField("Reason", "KeepsRules"),
				HaveField("Message", ContainSubstring("CertificatePolicy "+approved+" allows")),
			))),
		)))
	}).WithContext(ctx).Should(Succeed())
}

// servedOn returns the certificate that a node's kubelet serves, which must be one of the Cluster CA for the node's address.
func servedOn(ctx context.Context, name string) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CACertPEM())
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(nodes[name].IP(), "10250"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	encrypted, ok := connection.(*tls.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection over TLS is a %T", connection)
	}
	return encrypted.ConnectionState().PeerCertificates[0], nil
}

// servingRequests returns a node's requests for serving certificates, in the order in which they were filed.
func servingRequests(ctx context.Context, name string) ([]certificatesv1.CertificateSigningRequest, error) {
	list := &certificatesv1.CertificateSigningRequestList{}
	if err := admin.List(ctx, list, client.MatchingFields{"spec.signerName": certificatesv1.KubeletServingSignerName}); err != nil {
		return nil, err
	}
	requests := slices.DeleteFunc(list.Items, func(r certificatesv1.CertificateSigningRequest) bool {
		return r.Spec.Username != "system:node:"+name
	})
	slices.SortFunc(requests, func(a, b certificatesv1.CertificateSigningRequest) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return requests, nil
}

// certificateOf is what was issued to a request; nil if nothing.
func certificateOf(request *certificatesv1.CertificateSigningRequest) *x509.Certificate {
	certificates, err := certutil.ParseCertsPEM(request.Status.Certificate)
	if err != nil {
		return nil
	}
	return certificates[0]
}

// expectApprovalHealthy waits until nothing stands in the way of approval, nor of compliance.
func expectApprovalHealthy(ctx context.Context) {
	GinkgoHelper()
	Eventually(policyOf(approved)).WithContext(ctx).Should(WithTransform(conditionsOf, And(
		HaveKeyWithValue(v1alpha1.ConditionApprovalHealthy, "True "+v1alpha1.ReasonAsExpected),
		HaveKeyWithValue(v1alpha1.ConditionCompliant, HavePrefix("True ")),
	)))
}

// missing matches the finding about a permission.
func missing(permission string) OmegaMatcher {
	return And(HaveField("Reason", v1alpha1.ReasonAccessDenied),
		HaveField("Subject", v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: permission}))
}
