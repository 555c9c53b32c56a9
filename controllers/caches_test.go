// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
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
