// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/notafter/notafter/api/v1alpha1"
)

// NewMapper returns the mapper of kinds to resources for the manager. It knows by itself the kinds
// that the cache holds, so that the manager starts, and says what it waits for, while the API server cannot be reached or the
// CRDs are not installed. All others it asks the API server for when they are needed.
func NewMapper(config *rest.Config, httpClient *http.Client) (meta.RESTMapper, error) {
	own := meta.NewDefaultRESTMapper(nil)
	for kind, resource := range map[string]string{
		"CertificatePolicy": "certificatepolicies", "NodeCertificates": "nodecertificates",
	} {
		own.AddSpecific(v1alpha1.GroupVersion.WithKind(kind), v1alpha1.GroupVersion.WithResource(resource),
			v1alpha1.GroupVersion.WithResource(resource), meta.RESTScopeRoot)
	}
	own.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	others, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("mapping kinds to resources: %w", err)
	}
	return meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{own, others}}, nil
}
