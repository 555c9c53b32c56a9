// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

const (
	servingSigner = certificatesv1.KubeletServingSignerName
	clientSigner  = certificatesv1.KubeAPIServerClientKubeletSignerName
)

var (
	testCA = pkitest.NewCA("cluster-ca")
	noon   = pkitest.Start().Add(12*time.Hour + 123456789)
)

// signingRequest is a request of node one; a certificate makes it issued.
func signingRequest(name, signer string, created time.Time, issued *pkitest.Certificate) *certificatesv1.CertificateSigningRequest {
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pkitest.Request(pkitest.Node("one"), pkitest.IPAddresses("10.0.0.1")),
			SignerName: signer, Username: "system:node:one",
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
	if issued != nil {
		request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(created),
		}}
		request.Status.Certificate = issued.PEM()
	}
	return request
}

func requests(signer string, of ...*certificatesv1.CertificateSigningRequest) map[string][]*certificatesv1.CertificateSigningRequest {
	all := map[string][]*certificatesv1.CertificateSigningRequest{servingSigner: nil, clientSigner: nil}
	all[signer] = of
	return all
}

// leafFrom is a certificate whose life starts then.
func leafFrom(start time.Time) *pkitest.Certificate {
	return testCA.Leaf(pkitest.Node("one"), pkitest.IPAddresses("10.0.0.1"), pkitest.Lifetime(start, start.Add(24*time.Hour)))
}

func statusOf(t *testing.T, f facts) v1alpha1.NodeCertificatesStatus {
	t.Helper()
	status, err := f.status()
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func servedBy(t *testing.T, leaf *pkitest.Certificate) *evidence {
	t.Helper()
	return newEvidence(presented(leaf.Chain()), somewhere, bundleOf(t, testCA), noon)
}

func failed(outcome v1alpha1.ProbeOutcome) *evidence {
	return newEvidence(tlsprobe.Result{Outcome: outcome, Message: "why"}, somewhere, trusted{}, noon)
}

func TestStatusOfANewNodeIsEmpty(t *testing.T) {
	status := statusOf(t, facts{now: noon, requests: requests(servingSigner)})
	if !equality.Semantic.DeepEqual(status, v1alpha1.NodeCertificatesStatus{}) {
		t.Errorf("status = %+v", status)
	}
}

func TestStatusHoldsAllThatIsKnown(t *testing.T) {
	leaf, client := leafFrom(pkitest.Start()), leafFrom(pkitest.Start().Add(time.Hour))
	f := facts{now: noon, evidence: servedBy(t, leaf), requests: requests(servingSigner,
		signingRequest("csr-b", servingSigner, pkitest.Start(), leaf))}
	f.requests[clientSigner] = []*certificatesv1.CertificateSigningRequest{
		signingRequest("csr-a", clientSigner, pkitest.Start(), client),
	}
	status := statusOf(t, f)

	want := []v1alpha1.CertificateStatus{
		certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, leaf.X509),
		certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, leaf.X509),
		certificateStatus(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, client.X509),
	}
	if diff := cmp.Diff(want, status.Certificates); diff != "" {
		t.Error(diff)
	}
	if status.Serving == nil || status.Serving.Mode != v1alpha1.ServingModeClusterSigned ||
		!status.Serving.Since.Time.Equal(noon.Truncate(time.Second)) {
		t.Errorf("serving = %+v", status.Serving)
	}
	if len(status.SigningRequests) != 2 || status.SigningRequests[0].SignerName != clientSigner ||
		status.SigningRequests[1].Stage != v1alpha1.StageIssued {
		t.Errorf("signingRequests = %+v", status.SigningRequests)
	}

	// What the API server gives back is what it was given, so that nothing is written twice.
	encoded, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var stored v1alpha1.NodeCertificatesStatus
	if err := json.Unmarshal(encoded, &stored); err != nil {
		t.Fatal(err)
	}
	f.previous, f.now = stored, noon.Add(time.Hour)
	if again := statusOf(t, f); !equality.Semantic.DeepEqual(stored, again) {
		t.Errorf("the status moves by itself: %s", cmp.Diff(stored, again))
	}
}

func TestSinceMovesWithModeAndOutcomeOnly(t *testing.T) {
	first, second := leafFrom(pkitest.Start()), leafFrom(pkitest.Start().Add(time.Hour))
	f := facts{now: noon, evidence: servedBy(t, first)}
	status := statusOf(t, f)
	since := status.Serving.Since

	f.previous, f.now, f.evidence = status, noon.Add(time.Hour), servedBy(t, second)
	status = statusOf(t, f)
	if !status.Serving.Since.Equal(&since) || len(status.Certificates) != 1 ||
		!status.Certificates[0].NotBefore.Time.Equal(second.X509.NotBefore) {
		t.Errorf("a rotation: status = %+v", status)
	}
	f.previous, f.now, f.evidence = status, noon.Add(2*time.Hour), failed(v1alpha1.ProbeNoCertificate)
	status = statusOf(t, f)
	if !status.Serving.Since.Time.Equal(noon.Add(2 * time.Hour).Truncate(time.Second)) {
		t.Errorf("the certificate is gone: serving = %+v", status.Serving)
	}
}

func TestFactsStayWhenTheirSourceIsGone(t *testing.T) {
	leaf := leafFrom(pkitest.Start())
	known := statusOf(t, facts{now: noon, evidence: servedBy(t, leaf), requests: requests(servingSigner,
		signingRequest("csr-a", servingSigner, pkitest.Start(), leaf))})
	before := known.DeepCopy()

	t.Run("restart, and the request was collected", func(t *testing.T) {
		status := statusOf(t, facts{previous: known, now: noon.Add(time.Hour), requests: requests(servingSigner)})
		if !equality.Semantic.DeepEqual(known, status) {
			t.Error(cmp.Diff(known, status))
		}
	})
	t.Run("the kubelet cannot be asked", func(t *testing.T) {
		for _, outcome := range []v1alpha1.ProbeOutcome{
			v1alpha1.ProbeUnreachable, v1alpha1.ProbeHandshakeFailed, v1alpha1.ProbeNoAddress,
		} {
			status := statusOf(t, facts{previous: known, now: noon, evidence: failed(outcome), requests: requests(servingSigner)})
			if diff := cmp.Diff(known.Certificates, status.Certificates); diff != "" {
				t.Errorf("%s: %s", outcome, diff)
			}
			if status.Serving.Outcome != outcome || status.Serving.Mode != v1alpha1.ServingModeUnknown {
				t.Errorf("serving = %+v", status.Serving)
			}
		}
	})
	t.Run("the kubelet has none", func(t *testing.T) {
		status := statusOf(t, facts{previous: known, now: noon, evidence: failed(v1alpha1.ProbeNoCertificate)})
		if certificate(status.Certificates, v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake) != nil {
			t.Error("a certificate that is not served is still the one in use")
		}
		if issuedServing(&status) == nil {
			t.Error("the issued certificate is forgotten")
		}
	})
	t.Run("the cached status is not changed", func(t *testing.T) {
		statusOf(t, facts{previous: known, now: noon, evidence: failed(v1alpha1.ProbeNoCertificate)})
		statusOf(t, facts{previous: known, now: noon, evidence: servedBy(t, leafFrom(noon))})
		if diff := cmp.Diff(*before, known); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a signer that is not watched any more", func(t *testing.T) {
		status := statusOf(t, facts{previous: known, now: noon})
		if diff := cmp.Diff(known.SigningRequests, status.SigningRequests); diff != "" {
			t.Error(diff)
		}
	})
}

// What a kubelet served at some time says nothing about what it serves when a policy selects it again.
func TestHandshakesAreForgottenWhenNobodyLooks(t *testing.T) {
	issued := leafFrom(noon.Add(-time.Hour))
	before := statusOf(t, facts{
		evidence: servedBy(t, issued), answers: settled(v1alpha1.KubeletFailed, "why"), now: noon,
		requests: requests(servingSigner, signingRequest("csr-1", servingSigner, noon.Add(-time.Hour), issued)),
	})
	if len(before.Certificates) != 2 || before.Serving == nil || before.Kubelet == nil {
		t.Fatalf("nothing to forget: %+v", before)
	}
	after := statusOf(t, facts{previous: before, evidence: &evidence{unwanted: true}, answers: &answers{}, now: noon})
	if after.Serving != nil || after.Kubelet != nil {
		t.Errorf("serving %+v and kubelet %+v, want neither", after.Serving, after.Kubelet)
	}
	if len(after.Certificates) != 1 || after.Certificates[0].Source != v1alpha1.SourceSigningRequest {
		t.Errorf("certificates %+v, want the one that was issued", after.Certificates)
	}
}

func TestNewestIssuedCertificate(t *testing.T) {
	start := pkitest.Start()
	older, newer := leafFrom(start), leafFrom(start.Add(time.Hour))
	first := signingRequest("csr-b", servingSigner, start, older)
	second := signingRequest("csr-a", servingSigner, start.Add(time.Hour), newer)
	sameTime := signingRequest("csr-c", servingSigner, start, newer)
	pending := signingRequest("csr-d", servingSigner, start.Add(2*time.Hour), nil)
	var knownNewer v1alpha1.NodeCertificatesStatus
	knownNewer.Certificates = append(knownNewer.Certificates,
		certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, newer.X509))

	for name, test := range map[string]struct {
		previous v1alpha1.NodeCertificatesStatus
		requests []*certificatesv1.CertificateSigningRequest
		want     *pkitest.Certificate
	}{
		"by creation":               {requests: []*certificatesv1.CertificateSigningRequest{second, first}, want: newer},
		"then by name":              {requests: []*certificatesv1.CertificateSigningRequest{first, sameTime}, want: newer},
		"a pending one has none":    {requests: []*certificatesv1.CertificateSigningRequest{first, pending}, want: older},
		"only the older one exists": {knownNewer, []*certificatesv1.CertificateSigningRequest{first}, newer},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				slices.Reverse(test.requests)
				status := statusOf(t, facts{previous: test.previous, now: noon, requests: requests(servingSigner, test.requests...)})
				want := certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, test.want.X509)
				if diff := cmp.Diff(&want, issuedServing(&status)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestGarbageInARequestIsReportedAndLeavesTheRest(t *testing.T) {
	broken := signingRequest("csr-a", servingSigner, pkitest.Start(), leafFrom(pkitest.Start()))
	broken.Status.Certificate = []byte("garbage")
	status, err := facts{now: noon, evidence: servedBy(t, leafFrom(noon)), requests: requests(servingSigner, broken)}.status()
	if err == nil {
		t.Error("no error")
	}
	if status.Serving == nil || len(status.Certificates) != 1 || len(status.SigningRequests) != 1 {
		t.Errorf("status = %+v", status)
	}
}
