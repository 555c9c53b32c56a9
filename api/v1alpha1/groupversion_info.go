// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the notafter.dev API: what must hold of a cluster's certificates (CertificatePolicy) and what is
// true of one node's (NodeCertificates).
//
// +kubebuilder:object:generate=true
// +groupName=notafter.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the group and version of this package's kinds.
	GroupVersion = schema.GroupVersion{Group: "notafter.dev", Version: "v1alpha1"}

	// SchemeBuilder collects the functions that add this package's kinds to a scheme.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds this package's kinds to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&CertificatePolicy{}, &CertificatePolicyList{},
		&NodeCertificates{}, &NodeCertificatesList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
