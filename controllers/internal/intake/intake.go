// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package intake makes the manager's cache and what is watched besides, for the controllers to share. What they keep is
// stripped of all that is not read: at 5,000 nodes that is the difference between megabytes and gigabytes.
package intake

import (
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
)

// signers are the two whose CertificateSigningRequests kubelets live by. Requests to any other signer are not read.
var signers = []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName}

// CacheOptions limits the manager's cache to what the controllers use: of Nodes and our own objects the fields that are read.
// Objects are handed out without a copy; the controllers copy before they change one. What notafter can do without is not in
// this cache, but in optional sources.
//
// The cache's watches run for watchTime, or optional.DefaultWatchTime if that is zero, and what it finds that it may not read
// any more is missing.
func CacheOptions(missing *access.Missing, watchTime time.Duration) cache.Options {
	return cache.Options{
		NewInformer: newInformer(missing, watchTime),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Node{}:                {Transform: stripNode, UnsafeDisableDeepCopy: new(true)},
			&v1alpha1.NodeCertificates{}:  {Transform: compactNodeCertificates, UnsafeDisableDeepCopy: new(true)},
			&v1alpha1.CertificatePolicy{}: {Transform: cache.TransformStripManagedFields()},
		},
	}
}

// SigningRequests are the CertificateSigningRequests to each signer, by the signer's name. They are sources of their own and
// not one, because a watch has one field selector.
type SigningRequests = map[string]*optional.Source[*certificatesv1.CertificateSigningRequest]

// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=list;watch

// AddSigningRequests adds the sources of signing requests to the manager, each with the index csr.NodeNameIndex.
func AddSigningRequests(mgr manager.Manager, watching client.WithWatch, watchTime time.Duration) (SigningRequests, error) {
	requests := make(SigningRequests, len(signers))
	for _, signer := range signers {
		source, err := optional.New(watching, &certificatesv1.CertificateSigningRequest{}, requestsTo(signer, watchTime))
		if err != nil {
			return nil, fmt.Errorf("signing requests to %s: %w", signer, err)
		}
		if err := mgr.Add(source); err != nil {
			return nil, fmt.Errorf("adding the signing requests to %s: %w", signer, err)
		}
		requests[signer] = source
	}
	return requests, nil
}

func requestsTo(signer string, watchTime time.Duration) optional.Options {
	return optional.Options{
		FieldSelector: fields.OneTermEqualSelector("spec.signerName", signer),
		Ignore:        hasLongName,
		Transform:     stripSigningRequest,
		Indexers:      toolscache.Indexers{csr.NodeNameIndex: csr.IndexNodeName},
		WatchTime:     watchTime,
	}
}

// +kubebuilder:rbac:groups="",resources=configmaps,namespace=kube-system,resourceNames=kube-root-ca.crt,verbs=list;watch

// AddConfigMap adds the source of one ConfigMap to the manager.
func AddConfigMap(
	mgr manager.Manager, watching client.WithWatch, name types.NamespacedName, watchTime time.Duration,
) (*optional.Source[*corev1.ConfigMap], error) {
	source, err := optional.New(watching, &corev1.ConfigMap{}, optional.Options{
		Namespace:     name.Namespace,
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name.Name),
		Transform:     cache.TransformStripManagedFields(),
		WatchTime:     watchTime,
	})
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s: %w", name, err)
	}
	if err := mgr.Add(source); err != nil {
		return nil, fmt.Errorf("adding the source of ConfigMap %s: %w", name, err)
	}
	return source, nil
}
