// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// What is in the cache is what the API server holds, whatever is shared within it.
func TestCompactNodeCertificatesAreTheSame(t *testing.T) {
	certificate := func(purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource, sha256 string) v1alpha1.CertificateStatus {
		return v1alpha1.CertificateStatus{
			Purpose: purpose, Source: source, SHA256: sha256, Subject: "CN=system:node:node-1", Issuer: "CN=ca", SerialNumber: "1f",
			NotAfter: metav1.NewTime(time.Unix(1, 0)), DNSNames: []string{"node-1"}, IPAddresses: []string{"10.0.0.1"},
		}
	}
	odd := certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, "aa")
	odd.Subject = "CN=another"
	known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	known.Status.Certificates = []v1alpha1.CertificateStatus{
		certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, "aa"),
		certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, "aa"), odd,
		certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, "bb"),
	}
	want := known.DeepCopy()
	known.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "notafter"}}
	got, err := compactNodeCertificates(known)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("-stored +cached:\n%s", diff)
	}
}

func TestSharedLabelsAreTheSame(t *testing.T) {
	labels := map[string]string{"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux", "empty": ""}
	if got := shared(labels, "node-1"); !maps.Equal(got, labels) {
		t.Errorf("got %v, want %v", got, labels)
	}
}

// All metadata of a request that may be decided on are kept, or none of a request that has too many: a node can file thousands.
func TestSigningRequestsKeepTheMetadataThatADecisionWrites(t *testing.T) {
	pending := func(change func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		request := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{
				Name: "csr-1", GenerateName: "csr-", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
			},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:node-1",
			},
		}
		change(request)
		return request
	}
	whole := metav1.ObjectMeta{
		Name: "csr-1", GenerateName: "csr-", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
	}
	for name, test := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   metav1.ObjectMeta
	}{
		"may be decided": {func(*certificatesv1.CertificateSigningRequest) {}, whole},
		"for a client certificate": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.SignerName = certificatesv1.KubeAPIServerClientKubeletSignerName
		}, metav1.ObjectMeta{Name: "csr-1"}},
		"filed by no node": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Username = "system:bootstrap:abcdef"
		}, metav1.ObjectMeta{Name: "csr-1"}},
		"decided": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
				{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue},
			}
		}, metav1.ObjectMeta{Name: "csr-1"}},
		"too large": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Annotations["c"] = strings.Repeat("d", csr.MaxMetadataBytes)
		}, metav1.ObjectMeta{Name: "csr-1", Annotations: map[string]string{"notafter.dev/metadata-left-out": ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stripSigningRequest(pending(test.change))
			if err != nil {
				t.Fatal(err)
			}
			request, ok := got.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				t.Fatalf("got a %T", got)
			}
			if diff := cmp.Diff(test.want, request.ObjectMeta); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A node can file as many requests as it likes, each as large as the API server stores, and every replica keeps them all.
func TestLittleIsKeptOfHostileSigningRequests(t *testing.T) {
	const most = 8 << 10
	large := strings.Repeat("x", 1<<20)
	kubelets := pkitest.Request(pkitest.Node("node-1"), pkitest.DNSNames("node-1"))
	for name, change := range map[string]func(*certificatesv1.CertificateSigningRequest){
		"a kubelet's": func(*certificatesv1.CertificateSigningRequest) {},
		"text after it": func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = append(r.Spec.Request, large[:60_000]...)
		},
		"much text":        func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = append(r.Spec.Request, large...) },
		"a large request":  func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = manyNames(60_000) },
		"all that is read": func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = manyNames(csr.MaxRequestBytes) },
		"annotations": func(r *certificatesv1.CertificateSigningRequest) {
			r.Annotations = map[string]string{"a": large[:200_000]}
		},
		"just so many": func(r *certificatesv1.CertificateSigningRequest) {
			r.Annotations = map[string]string{"a": large[:1_900]}
		},
		"labels":   func(r *certificatesv1.CertificateSigningRequest) { r.Labels = map[string]string{large: ""} },
		"a prefix": func(r *certificatesv1.CertificateSigningRequest) { r.GenerateName = large },
		"owners": func(r *certificatesv1.CertificateSigningRequest) {
			r.OwnerReferences = []metav1.OwnerReference{{Name: large}}
		},
		"finalizers": func(r *certificatesv1.CertificateSigningRequest) { r.Finalizers = []string{large} },
		"extra of the user": func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Extra = map[string]certificatesv1.ExtraValue{"a": {large}}
		},
	} {
		for stage, conditions := range map[string][]certificatesv1.CertificateSigningRequestCondition{
			"undecided": nil, "denied": {{Type: certificatesv1.CertificateDenied}}, "failed": {{Type: certificatesv1.CertificateFailed}},
		} {
			t.Run(name+", "+stage, func(t *testing.T) {
				request := &certificatesv1.CertificateSigningRequest{
					ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "0fbd9a4c-7a3e-4e6e-8a3b-0f3e2f9a1b2c", ResourceVersion: "123456789"},
					Spec: certificatesv1.CertificateSigningRequestSpec{
						SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:node-1",
						Groups: []string{"system:nodes", "system:authenticated"}, Request: slices.Clone(kubelets),
						Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
					},
					Status: certificatesv1.CertificateSigningRequestStatus{Conditions: conditions},
				}
				change(request)
				stripped, err := stripSigningRequest(request)
				if err != nil {
					t.Fatal(err)
				}
				kept, ok := stripped.(*certificatesv1.CertificateSigningRequest)
				if !ok {
					t.Fatalf("got a %T", stripped)
				}
				if size := kept.Size(); size > most || cap(kept.Spec.Request) > most {
					t.Errorf("%d bytes are kept, and room for a request of %d", size, cap(kept.Spec.Request))
				}
			})
		}
	}
}

// manyNames is a request of about that size in DER.
func manyNames(size int) []byte {
	const each = 50
	names := make([]string, (size-600)/(each+2))
	for i := range names {
		names[i] = fmt.Sprintf("%0*d.example.com", each-len(".example.com"), i)
	}
	return pkitest.Request(pkitest.Node("node-1"), pkitest.DNSNames(names...))
}

// A cache keeps names whole, and Kubernetes limits those of requests only by the size of an object.
func TestSigningRequestsWithLongNamesAreIgnored(t *testing.T) {
	ignore := requestsTo(certificatesv1.KubeletServingSignerName, 0).Ignore
	for length, want := range map[int]bool{9: false, 253: false, 254: true, 1 << 20: true} {
		if got := ignore(&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("x", length)}}); got != want {
			t.Errorf("of %d bytes: ignored is %t, want %t", length, got, want)
		}
	}
}
