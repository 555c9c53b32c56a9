// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"reflect"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// lookupTimeout bounds a predicate's look into a cache that is not synced yet.
const lookupTimeout = time.Second

// factsChanged passes what changes the facts about a node, or whose facts they are.
func factsChanged() predicate.TypedPredicate[*v1alpha1.NodeCertificates] {
	return predicate.TypedFuncs[*v1alpha1.NodeCertificates]{
		UpdateFunc: func(e event.TypedUpdateEvent[*v1alpha1.NodeCertificates]) bool {
			return !equality.Semantic.DeepEqual(e.ObjectOld.Status, e.ObjectNew.Status) ||
				!equality.Semantic.DeepEqual(e.ObjectOld.OwnerReferences, e.ObjectNew.OwnerReferences)
		},
	}
}

// nodeChanged passes what changes anything that the judge sees of a Node. Heartbeats of one that is ready do not.
func nodeChanged() predicate.TypedPredicate[*corev1.Node] {
	return predicate.TypedFuncs[*corev1.Node]{
		UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Node]) bool {
			return e.ObjectOld.UID != e.ObjectNew.UID ||
				!reflect.DeepEqual(judgedNode(e.ObjectOld), judgedNode(e.ObjectNew))
		},
	}
}

// maybeOrphaned passes the signing requests that belong to no Node. The others reach the policy through the node's
// NodeCertificates. A request whose Node cannot be looked up passes: an evaluation too many does no harm.
func maybeOrphaned(nodes client.Reader) predicate.TypedPredicate[*certificatesv1.CertificateSigningRequest] {
	return predicate.NewTypedPredicateFuncs(func(request *certificatesv1.CertificateSigningRequest) bool {
		name := csr.NodeName(request)
		if name == "" {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		err := nodes.Get(ctx, client.ObjectKey{Name: name}, &corev1.Node{}, client.UnsafeDisableDeepCopy)
		return err != nil
	})
}
