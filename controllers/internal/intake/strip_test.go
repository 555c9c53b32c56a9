// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
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
