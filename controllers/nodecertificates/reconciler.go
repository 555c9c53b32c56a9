// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// reconciler writes NodeCertificates.
type reconciler struct {
	client client.Client
	clock  clock.PassiveClock
	// requests are the CertificateSigningRequests by signer name.
	requests map[string]*optional.Source[*certificatesv1.CertificateSigningRequest]
	records  *records
	missing  *access.Missing
	// sweep is told of nodes about which something new is written.
	sweep *sweep
}

// Reconcile writes what is known of one node, if it is not written yet.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	node := &corev1.Node{}
	if err := r.client.Get(ctx, req.NamespacedName, node); err != nil {
		// Without its Node, the garbage collector takes the NodeCertificates.
		r.missing.Granted(req.Name)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	err := r.reconcile(ctx, node)
	r.note(node.Name, err)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		logf.FromContext(ctx).V(1).Info("The cache is behind, trying again", "cause", err.Error())
		return reconcile.Result{RequeueAfter: enqueue.StaleRetry}, nil
	}
	// Anything else is retried with growing patience: without its CRD, for one, every attempt to write NodeCertificates fails.
	return reconcile.Result{}, err
}

func (r *reconciler) reconcile(ctx context.Context, node *corev1.Node) error {
	object, err := r.objectOf(ctx, node)
	if err != nil || object == nil {
		return err
	}
	f := facts{now: r.clock.Now()}
	if !ownedByFormer(object, node) {
		f.previous = object.Status
	}
	known, _ := r.records.get(node.Name, node.UID)
	f.evidence, f.answers = known.evidence, known.answers
	f.requests = r.requestsOf(node)
	status, err := f.status()
	if err != nil {
		logf.FromContext(ctx).Info("An issued certificate could not be read, going on without it", "cause", err.Error())
	}
	if err := r.write(ctx, node, object, status); err != nil {
		return err
	}
	if f.evidence != nil {
		r.sweep.look(node.Name)
	}
	return nil
}

// objectOf returns the node's NodeCertificates, a copy, and creates it when there is none, unless the Node is on its way out:
// then it is nil. One that somebody deleted, and a finalizer keeps, is written like any other: it is what is judged for as
// long as it stays, and that may be long.
func (r *reconciler) objectOf(ctx context.Context, node *corev1.Node) (*v1alpha1.NodeCertificates, error) {
	cached := &v1alpha1.NodeCertificates{}
	err := r.client.Get(ctx, client.ObjectKey{Name: node.Name}, cached)
	switch {
	case err == nil:
		return cached.DeepCopy(), nil
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading NodeCertificates %s: %w", node.Name, err)
	case !node.DeletionTimestamp.IsZero():
		return nil, nil
	}
	created := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{
		Name: node.Name, OwnerReferences: []metav1.OwnerReference{ownerReference(node)},
	}}
	if err := r.client.Create(ctx, created); err != nil {
		return nil, writing("create nodecertificates.notafter.dev", node, err)
	}
	return created, nil
}

// requestsOf are the node's signing requests, without those of a predecessor of the same name: a kubelet asks as its node
// only after that exists, and with a bootstrap identity before. A signer whose requests may not be read is left out: what
// was known of them stays, and it is the policies that say that the permission is missing.
func (r *reconciler) requestsOf(node *corev1.Node) map[string][]*certificatesv1.CertificateSigningRequest {
	result := make(map[string][]*certificatesv1.CertificateSigningRequest, len(r.requests))
	for signer, source := range r.requests {
		if requests, err := source.ByIndex(csr.NodeNameIndex, node.Name); err == nil {
			result[signer] = slices.DeleteFunc(slices.Clone(requests), func(request *certificatesv1.CertificateSigningRequest) bool {
				return csr.FiledAsNode(request) && request.CreationTimestamp.Before(&node.CreationTimestamp)
			})
		}
	}
	return result
}

// write writes what differs. The status comes before the owner: an object that has a new owner, but the facts of the former
// one, would pass for up to date.
func (r *reconciler) write(
	ctx context.Context, node *corev1.Node, object *v1alpha1.NodeCertificates, status v1alpha1.NodeCertificatesStatus,
) error {
	if !equality.Semantic.DeepEqual(object.Status, status) {
		// A copy, because the client decodes the answer into it and the facts are shared.
		status.DeepCopyInto(&object.Status)
		if err := r.client.Status().Update(ctx, object); err != nil {
			return writing("update nodecertificates.notafter.dev/status", node, err)
		}
	}
	if owners := []metav1.OwnerReference{ownerReference(node)}; !equality.Semantic.DeepEqual(object.OwnerReferences, owners) {
		object.OwnerReferences = owners
		if err := r.client.Update(ctx, object); err != nil {
			return writing("update nodecertificates.notafter.dev", node, err)
		}
	}
	return nil
}

// writeError is a write that failed.
type writeError struct {
	permission, node string
	err              error
}

// writing is the error of a write that takes this permission.
func writing(permission string, node *corev1.Node, err error) error {
	return &writeError{permission: permission, node: node.Name, err: err}
}

// Error implements error.
func (e *writeError) Error() string {
	return fmt.Sprintf("node %s: %s: %v", e.node, e.permission, e.err)
}

// Unwrap returns the API server's answer.
func (e *writeError) Unwrap() error { return e.err }

// note tells whether what is known of the node could be written. What was written before is judged in the meantime.
func (r *reconciler) note(node string, err error) {
	failed, ok := errors.AsType[*writeError](err)
	switch {
	case err == nil:
		r.missing.Granted(node)
	case ok && apierrors.IsForbidden(err):
		r.missing.Refused(node, policy.Denial{
			Permission: failed.permission, Source: "keeping what it finds out about the nodes",
			Concerns: []string{
				v1alpha1.ConditionCertificatesCurrent, v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionServingRotationEnabled,
			},
		}, failed.err)
	}
}

// ownerReference makes the garbage collector delete the NodeCertificates with its Node. It blocks nobody's deletion.
func ownerReference(node *corev1.Node) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: node.Name, UID: node.UID,
	}
}

// ownedByFormer says whether the object describes a Node that had this name before. One without an owner was tampered with:
// its facts are as good as any, and the owner is put back.
func ownedByFormer(object *v1alpha1.NodeCertificates, node *corev1.Node) bool {
	return !object.IsOf(node.UID) && slices.ContainsFunc(object.OwnerReferences, func(owner metav1.OwnerReference) bool {
		return owner.Kind == "Node" && owner.APIVersion == corev1.SchemeGroupVersion.String()
	})
}
