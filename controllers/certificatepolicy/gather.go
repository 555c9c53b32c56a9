// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/cached"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// nodeImageLabel is where AKS says which image a node was made from.
const nodeImageLabel = "kubernetes.azure.com/node-image-version"

// heardEvery is how exactly the judge knows when it was that a kubelet last reported. One that goes on reporting that it is not
// ready causes an evaluation so often.
const heardEvery = 10 * time.Minute

// evidence is everything that one evaluation takes into account.
type evidence struct {
	// invalid says why the spec cannot be evaluated. What follows is of no meaning then.
	invalid error
	input   policy.Input
	// selected finds a Node that input judges by its name, nil if it judges none of that name, and orphans are the UIDs of its
	// signing requests: for Events to refer to.
	selected func(name string) *corev1.Node
	orphans  map[string]types.UID
}

// gather reads the evidence, from caches only. An error means that a cache could not be read.
func (r *reconciler) gather(ctx context.Context, p *v1alpha1.CertificatePolicy, now time.Time) (*evidence, error) {
	e := &evidence{input: policy.Input{Policy: p.Name, Spec: &p.Spec, TrustSource: r.trust.ConfigMap.String(), Now: now}}
	var selector labels.Selector
	if selector, e.invalid = p.Spec.Nodes.Selector.AsSelector(); e.invalid != nil {
		return e, nil //nolint:nilerr // it is evidence: the policy's status says it
	}
	if _, err := r.trust.Bundle(); err != nil {
		e.input.TrustError = err.Error()
		e.input.Denied = append(e.input.Denied, trustDenials(err)...)
	}
	if r.missing != nil {
		e.input.Denied = append(e.input.Denied, r.missing.Denials()...)
	}
	nodes, err := cached.Of(ctx, r.objects, &corev1.Node{})
	if err != nil {
		return nil, err
	}
	facts, err := cached.Of(ctx, r.objects, &v1alpha1.NodeCertificates{})
	if err != nil {
		return nil, err
	}
	all := nodes.List()
	var denied []policy.Denial
	e.input.Requests, e.orphans, denied = r.requests.orphans(all, nodes.Has, now)
	e.input.Denied = append(e.input.Denied, denied...)
	e.input.ControlPlane, denied = r.controlPlane.Snapshot()
	e.input.Denied = append(e.input.Denied, denied...)
	e.selected = func(name string) *corev1.Node {
		if node, ok := nodes.Get(name); ok && selector.Matches(labels.Set(node.Labels)) {
			return node
		}
		return nil
	}
	e.selectNodes(all, facts, selector)
	r.gatherApprovals(e)
	r.gatherOptional(ctx, e)
	return e, nil
}

// gatherOptional reads what only some policies ask for, and what of it may not be read.
func (r *reconciler) gatherOptional(ctx context.Context, e *evidence) {
	var denied []policy.Denial
	if e.input.Spec.Nodes.BootstrapTokens.Mode == v1alpha1.WatchWatched {
		e.input.Tokens, denied = r.tokens.observe(ctx)
		e.input.Denied = append(e.input.Denied, denied...)
	}
	if policy.WantsWorkloads(e.input.Spec) {
		e.input.Workloads, denied = r.workloads.observe(ctx)
		e.input.Denied = append(e.input.Denied, denied...)
	}
}

// gatherApprovals reads what the approver of signing requests has to say, if the policy does, too.
func (r *reconciler) gatherApprovals(e *evidence) {
	if e.input.Spec.SigningRequestApproval == nil || r.approvals == nil {
		return
	}
	var denied []policy.Denial
	if e.input.Approvals, denied = r.approvals.Snapshot(); policy.WantsApproval(e.input.Spec) {
		e.input.Denied = append(e.input.Denied, denied...)
	}
}

// selectNodes has the selected nodes judged by the facts about each.
func (e *evidence) selectNodes(nodes []*corev1.Node, facts cached.Objects[*v1alpha1.NodeCertificates], selector labels.Selector) {
	e.input.Nodes = make([]policy.Node, 0, len(nodes))
	for _, node := range nodes {
		if !selector.Matches(labels.Set(node.Labels)) {
			continue
		}
		judged := judgedNode(node)
		if known, ok := facts.Get(node.Name); ok && known.IsOf(node.UID) {
			judged.Observed = &known.Status
		}
		e.input.Nodes = append(e.input.Nodes, judged)
	}
}

// judgedNode is what the judge sees of a Node.
func judgedNode(node *corev1.Node) policy.Node {
	judged := policy.Node{
		Name: node.Name, Labels: node.Labels, Created: node.CreationTimestamp.Time,
		KubeletVersion: node.Status.NodeInfo.KubeletVersion, NodeImageVersion: node.Labels[nodeImageLabel],
		HasAddress: slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
			return a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP
		}),
		InternalIPs: internalIPs(node),
	}
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			judged.Ready, judged.ReadySince = c.Status, c.LastTransitionTime.Time
			if c.Status != corev1.ConditionTrue {
				judged.Heard = c.LastHeartbeatTime.Truncate(heardEvery)
			}
		}
	}
	return judged
}

// internalIPs are the node's, spelled as a certificate's are. What is no address is left out: the node says it of itself.
func internalIPs(node *corev1.Node) []string {
	var addresses []string
	for _, candidate := range node.Status.Addresses {
		if candidate.Type != corev1.NodeInternalIP {
			continue
		}
		if address, err := netip.ParseAddr(candidate.Address); err == nil && address.Zone() == "" {
			addresses = append(addresses, address.Unmap().String())
		}
	}
	return addresses
}

// apiVersions are those of the objects that findings are about. For a subject of another kind no object stands. Its name is in
// Events all the same, so that those about two of them are not taken for one.
var apiVersions = map[v1alpha1.SubjectKind]string{
	v1alpha1.SubjectNode:                     corev1.SchemeGroupVersion.String(),
	v1alpha1.SubjectSigningRequest:           certificatesv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectConfigMap:                corev1.SchemeGroupVersion.String(),
	v1alpha1.SubjectSecret:                   corev1.SchemeGroupVersion.String(),
	v1alpha1.SubjectDaemonSet:                appsv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectDeployment:               appsv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectStatefulSet:              appsv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectAPIService:               "apiregistration.k8s.io/v1",
	v1alpha1.SubjectValidatingWebhook:        admissionregistrationv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectMutatingWebhook:          admissionregistrationv1.SchemeGroupVersion.String(),
	v1alpha1.SubjectCustomResourceDefinition: "apiextensions.k8s.io/v1",
	v1alpha1.SubjectClusterTrustBundle:       certificatesv1.SchemeGroupVersion.String(),
}

// object returns what an Event about the subject refers to. The Node is nil for other subjects, and for a Node that is gone
// or no longer selected.
func (e *evidence) object(subject v1alpha1.Subject) (related runtime.Object, node *corev1.Node) {
	ref := &corev1.ObjectReference{APIVersion: apiVersions[subject.Kind], Kind: string(subject.Kind), Name: subject.Name}
	switch subject.Kind {
	case v1alpha1.SubjectNode:
		if node = e.selected(subject.Name); node != nil {
			return node, node
		}
	case v1alpha1.SubjectSigningRequest:
		ref.UID = e.orphans[subject.Name]
	case v1alpha1.SubjectConfigMap, v1alpha1.SubjectSecret,
		v1alpha1.SubjectDaemonSet, v1alpha1.SubjectDeployment, v1alpha1.SubjectStatefulSet:
		if namespace, name, err := toolscache.SplitMetaNamespaceKey(subject.Name); err == nil {
			ref.Namespace, ref.Name = namespace, name
		}
	default:
	}
	return ref, nil
}

// requestReader finds the signing requests that belong to no Node, without looking at those that do. It remembers what it read
// from each, so that a request's PEM is parsed once and not at every evaluation.
type requestReader struct {
	sources map[string]requestSource
	mu      sync.Mutex
	// nodes are those of the last evaluation, to tell which are gone, and since is when the first one was.
	nodes []*corev1.Node
	since time.Time
	// known are the requests of the last evaluation.
	known map[types.UID]knownRequest
}

// requestSource is where the requests to one signer are read: an optional.Source, or part of one in a test.
type requestSource interface {
	IndexValues(index string) ([]string, error)
	ByIndex(index, value string) ([]*certificatesv1.CertificateSigningRequest, error)
	Permission(verb string) string
}

// knownRequest is what was read from one version of a request.
type knownRequest struct {
	resourceVersion string
	orphan          policy.Request
}

func newRequestReader(sources map[string]*optional.Source[*certificatesv1.CertificateSigningRequest]) *requestReader {
	r := &requestReader{sources: make(map[string]requestSource, len(sources))}
	for signer, source := range sources {
		r.sources[signer] = source
	}
	return r
}

// orphans returns the requests of no Node, their UIDs by name, and what is missing to read them all. It takes all Nodes, and
// what tells whether there is one of that name.
func (r *requestReader) orphans(
	nodes []*corev1.Node, exists func(name string) bool, now time.Time,
) (found []policy.Request, uids map[string]types.UID, denied []policy.Denial) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = now
	}
	gone := r.gone(nodes, exists)
	uids = map[string]types.UID{}
	known := make(map[types.UID]knownRequest, len(r.known))
	for signer, source := range r.sources {
		requests, err := unowned(source, exists)
		if err != nil {
			denied = append(denied, unread(signingRequestUse[signer], source.Permission("list"), err))
		}
		for _, request := range requests {
			read := r.read(request)
			if gone.Has(read.orphan.NodeName) {
				read.orphan.Registration = policy.RegistrationSeen
			}
			known[request.UID] = read
			found = append(found, read.orphan)
			uids[request.Name] = request.UID
		}
	}
	r.known = known
	return found, uids, denied
}

// gone returns the names of the Nodes that there were at the last evaluation and no longer are.
func (r *requestReader) gone(nodes []*corev1.Node, exists func(name string) bool) sets.Set[string] {
	gone := sets.Set[string]{}
	for _, node := range r.nodes {
		if !exists(node.Name) {
			gone.Insert(node.Name)
		}
	}
	r.nodes = nodes
	return gone
}

// unowned returns the requests whose Node does not exist.
func unowned(source requestSource, exists func(name string) bool) ([]*certificatesv1.CertificateSigningRequest, error) {
	names, err := source.IndexValues(csr.NodeNameIndex)
	if err != nil {
		return nil, err
	}
	var requests []*certificatesv1.CertificateSigningRequest
	for _, name := range names {
		if exists(name) {
			continue
		}
		ofNode, err := source.ByIndex(csr.NodeNameIndex, name)
		if err != nil {
			return nil, err
		}
		requests = append(requests, ofNode...)
	}
	return requests, nil
}

// read returns what is known of the request of no Node.
func (r *requestReader) read(request *certificatesv1.CertificateSigningRequest) knownRequest {
	known, ok := r.known[request.UID]
	if ok && known.resourceVersion == request.ResourceVersion {
		return known
	}
	read := knownRequest{resourceVersion: request.ResourceVersion, orphan: orphan(request, csr.NodeName(request))}
	switch {
	case ok && known.orphan.Registration == policy.RegistrationSeen:
		read.orphan.Registration = policy.RegistrationSeen
	case !read.orphan.Issued().Before(r.since.Truncate(time.Second)): // which is as exact as the API tells time
		read.orphan.Registration = policy.RegistrationNotSeen
	}
	return read
}

func orphan(request *certificatesv1.CertificateSigningRequest, node string) policy.Request {
	refusal, message := csr.Refusal(request)
	if message != "" {
		refusal += ": " + message
	}
	return policy.Request{
		Name: request.Name, SignerName: request.Spec.SignerName, NodeName: node, Requestor: request.Spec.Username,
		Stage: csr.Stage(request), Created: request.CreationTimestamp.Time, Decided: csr.Decided(request),
		Refusal: refusal, Malformed: csr.Malformed(request),
	}
}
