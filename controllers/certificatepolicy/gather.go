// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// nodeImageLabel is where AKS says which image a node was made from.
const nodeImageLabel = "kubernetes.azure.com/node-image-version"

// evidence is everything that one evaluation takes into account.
type evidence struct {
	now time.Time
	// invalid says why the spec cannot be evaluated. What follows is of no meaning then.
	invalid error
	input   policy.Input
	// selected are the Nodes that input judges, and orphans the UIDs of its signing requests, for Events to refer to.
	selected map[string]*corev1.Node
	orphans  map[string]types.UID
}

// gather reads the evidence, from caches only. An error means that a cache could not be read.
func (r *reconciler) gather(ctx context.Context, p *v1alpha1.CertificatePolicy, now time.Time) (*evidence, error) {
	e := &evidence{
		now:      now,
		input:    policy.Input{Spec: &p.Spec, TrustSource: r.trust.ConfigMap.String(), Now: now},
		selected: map[string]*corev1.Node{},
	}
	var selector labels.Selector
	if selector, e.invalid = p.Spec.Nodes.Selector.AsSelector(); e.invalid != nil {
		return e, nil //nolint:nilerr // it is evidence: the policy's status says it
	}
	_, err := r.trust.Bundle(ctx)
	if err != nil {
		e.input.TrustError = err.Error()
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing Nodes: %w", err)
	}
	var facts v1alpha1.NodeCertificatesList
	if err := r.client.List(ctx, &facts, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing NodeCertificates: %w", err)
	}
	if e.input.Requests, e.orphans, err = r.requests.orphans(ctx, &nodes); err != nil {
		return nil, err
	}
	e.selectNodes(&nodes, &facts, selector)
	return e, nil
}

func (e *evidence) selectNodes(nodes *corev1.NodeList, facts *v1alpha1.NodeCertificatesList, selector labels.Selector) {
	byName := make(map[string]*v1alpha1.NodeCertificates, len(facts.Items))
	for i := range facts.Items {
		byName[facts.Items[i].Name] = &facts.Items[i]
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if !selector.Matches(labels.Set(node.Labels)) {
			continue
		}
		judged := judgedNode(node)
		if known := byName[node.Name]; known != nil && ownedBy(known, node) {
			judged.Observed = &known.Status
		}
		e.input.Nodes = append(e.input.Nodes, judged)
		e.selected[node.Name] = node
	}
}

// judgedNode is what the judge sees of a Node.
func judgedNode(node *corev1.Node) policy.Node {
	return policy.Node{
		Name: node.Name, Labels: node.Labels, Created: node.CreationTimestamp.Time,
		KubeletVersion: node.Status.NodeInfo.KubeletVersion, NodeImageVersion: node.Labels[nodeImageLabel],
		HasAddress: slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
			return a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP
		}),
	}
}

// ownedBy says whether the facts are about this Node, and not about one of the same name that was there before.
func ownedBy(facts *v1alpha1.NodeCertificates, node *corev1.Node) bool {
	return slices.ContainsFunc(facts.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == node.UID })
}

// object returns what an Event about the subject refers to. The Node is nil for other subjects, and for a Node that is gone
// or no longer selected.
func (e *evidence) object(subject v1alpha1.Subject) (related runtime.Object, node *corev1.Node) {
	switch subject.Kind {
	case v1alpha1.SubjectNode:
		if node = e.selected[subject.Name]; node != nil {
			return node, node
		}
		return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: subject.Name}, nil
	case v1alpha1.SubjectSigningRequest:
		return &corev1.ObjectReference{
			APIVersion: certificatesv1.SchemeGroupVersion.String(), Kind: "CertificateSigningRequest",
			Name: subject.Name, UID: e.orphans[subject.Name],
		}, nil
	case v1alpha1.SubjectConfigMap:
		key := namespacedName(subject.Name)
		return &corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: key.Namespace, Name: key.Name}, nil
	default:
		return nil, nil
	}
}

// requestReader finds the signing requests that belong to no Node. It remembers what it read from each, so that a request's
// PEM is parsed once and not at every evaluation.
type requestReader struct {
	caches map[string]cache.Cache
	mu     sync.Mutex
	known  map[types.UID]knownRequest
}

// knownRequest is what was read from one version of a request.
type knownRequest struct {
	resourceVersion string
	node            string
	// orphan is nil until it was needed.
	orphan *policy.Request
}

func newRequestReader(caches map[string]cache.Cache) *requestReader {
	return &requestReader{caches: caches, known: map[types.UID]knownRequest{}}
}

// orphans returns the requests of no Node in nodes, and their UIDs by name.
func (r *requestReader) orphans(ctx context.Context, nodes *corev1.NodeList) (
	[]policy.Request, map[string]types.UID, error,
) {
	existing := make(map[string]struct{}, len(nodes.Items))
	for i := range nodes.Items {
		existing[nodes.Items[i].Name] = struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []policy.Request
	uids := map[string]types.UID{}
	seen := make(map[types.UID]knownRequest, len(r.known))
	for signer, requests := range r.caches {
		var list certificatesv1.CertificateSigningRequestList
		if err := requests.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, nil, fmt.Errorf("listing CertificateSigningRequests to %s: %w", signer, err)
		}
		for i := range list.Items {
			request := &list.Items[i]
			known := r.read(request)
			if _, ok := existing[known.node]; !ok {
				if known.orphan == nil {
					known.orphan = orphan(request, known.node)
				}
				found = append(found, *known.orphan)
				uids[request.Name] = request.UID
			}
			seen[request.UID] = known
		}
	}
	r.known = seen
	return found, uids, nil
}

func (r *requestReader) read(request *certificatesv1.CertificateSigningRequest) knownRequest {
	known, ok := r.known[request.UID]
	if !ok || known.resourceVersion != request.ResourceVersion {
		return knownRequest{resourceVersion: request.ResourceVersion, node: csr.NodeName(request)}
	}
	return known
}

func orphan(request *certificatesv1.CertificateSigningRequest, node string) *policy.Request {
	refusal, message := csr.Refusal(request)
	if message != "" {
		refusal += ": " + message
	}
	return &policy.Request{
		Name: request.Name, SignerName: request.Spec.SignerName, NodeName: node, Stage: csr.Stage(request),
		Created: request.CreationTimestamp.Time, Decided: csr.Decided(request),
		Refusal: refusal, Malformed: csr.Malformed(request),
	}
}
