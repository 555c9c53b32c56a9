// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
)

// signers are the two whose CertificateSigningRequests kubelets live by. Requests to any other signer are not read.
var signers = []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName}

// CacheOptions limits the manager's cache to what the controllers use: of Nodes and our own objects the fields that are
// read, of ConfigMaps only the trust bundle. At 5,000 nodes that is the difference between megabytes and gigabytes.
// Objects are handed out without a copy; the controllers copy before they change one.
func CacheOptions(trustConfigMap types.NamespacedName) cache.Options {
	return cache.Options{
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Node{}: {Transform: stripNode, UnsafeDisableDeepCopy: new(true)},
			&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{
				trustConfigMap.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", trustConfigMap.Name)},
			}},
			&v1alpha1.NodeCertificates{}: {
				Transform: cache.TransformStripManagedFields(), UnsafeDisableDeepCopy: new(true),
			},
			&v1alpha1.CertificatePolicy{}: {Transform: cache.TransformStripManagedFields()},
		},
	}
}

// signingRequestCache is a cache of one signer's CertificateSigningRequests. The manager's cache can't hold it: a cache has
// one field selector per kind, and two signers are watched.
type signingRequestCache struct{ cache.Cache }

// GetCache lets the manager start and sync it before the controllers, as it does its own.
func (c signingRequestCache) GetCache() cache.Cache { return c.Cache }

func newSigningRequestCache(config *rest.Config, options cache.Options, signer string) (signingRequestCache, error) {
	options.ByObject = map[client.Object]cache.ByObject{
		&certificatesv1.CertificateSigningRequest{}: {
			Field:                 fields.OneTermEqualSelector("spec.signerName", signer),
			Transform:             stripSigningRequest,
			UnsafeDisableDeepCopy: new(true),
		},
	}
	c, err := cache.New(config, options)
	if err != nil {
		return signingRequestCache{}, fmt.Errorf("making the cache of signing requests to %s: %w", signer, err)
	}
	return signingRequestCache{c}, nil
}

// identity is the part of an object's metadata that the controllers read.
func identity(o *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, Generation: o.Generation,
		CreationTimestamp: o.CreationTimestamp, DeletionTimestamp: o.DeletionTimestamp,
	}
}

func stripNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	meta := identity(&node.ObjectMeta)
	meta.Labels = node.Labels
	node.ObjectMeta = meta
	node.Spec = corev1.NodeSpec{}
	status := corev1.NodeStatus{Addresses: node.Status.Addresses, DaemonEndpoints: node.Status.DaemonEndpoints}
	status.NodeInfo.KubeletVersion = node.Status.NodeInfo.KubeletVersion
	node.Status = status
	return node, nil
}

func stripSigningRequest(o any) (any, error) {
	request, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return o, nil
	}
	request.ObjectMeta = identity(&request.ObjectMeta)
	request.Spec.Extra = nil
	request.Spec.UID = ""
	return request, nil
}
