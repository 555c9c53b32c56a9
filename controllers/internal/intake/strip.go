// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"slices"
	"unique"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

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
	meta.Labels = shared(node.Labels, node.Name)
	node.ObjectMeta = meta
	node.Spec = corev1.NodeSpec{}
	status := corev1.NodeStatus{Addresses: node.Status.Addresses, DaemonEndpoints: node.Status.DaemonEndpoints}
	status.NodeInfo.KubeletVersion = node.Status.NodeInfo.KubeletVersion
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			status.Conditions = []corev1.NodeCondition{{
				Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime, LastHeartbeatTime: c.LastHeartbeatTime,
			}}
		}
	}
	node.Status = status
	return node, nil
}

// hasLongName says that a request has a name that only its size can be the purpose of: a cache has to keep it whole. Kubernetes
// does not limit the names of requests, and kubelets give theirs a few dozen bytes.
func hasLongName(o metav1.Object) bool {
	return len(o.GetName()) > validation.DNS1123SubdomainMaxLength
}

func stripSigningRequest(o any) (any, error) {
	request, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return o, nil
	}
	request.ManagedFields = nil
	switch tooLarge := request.ObjectMeta.Size() > csr.MaxMetadataBytes; {
	case !csr.MayBeDecided(request):
		request.ObjectMeta = identity(&request.ObjectMeta)
	case tooLarge:
		request.ObjectMeta = identity(&request.ObjectMeta)
		csr.LeaveOutMetadata(request)
	}
	request.Spec = csr.ReadOf(request)
	for i := range request.Spec.Groups {
		canonical(&request.Spec.Groups[i])
	}
	canonical(&request.Spec.SignerName)
	for i := range request.Status.Conditions {
		c := &request.Status.Conditions[i]
		canonical(&c.Type)
		canonical(&c.Status)
		canonical(&c.Reason)
		canonical(&c.Message)
	}
	return request, nil
}

// canonical replaces a text by an equal one that came before. It saves memory where many objects have the same text, and time
// when they are compared. Objects that come together, as in a list, share one copy. Later ones may share another: package unique
// forgets a copy at a garbage collection when nobody has its handle, which is not kept here.
func canonical[T ~string](text *T) { *text = T(unique.Make(string(*text)).Value()) }

// compactNodeCertificates has the texts once that are the same in all NodeCertificates, or in one: the certificate in use is the
// one that was issued, as a rule.
func compactNodeCertificates(o any) (any, error) {
	known, ok := o.(*v1alpha1.NodeCertificates)
	if !ok {
		return o, nil
	}
	known.ManagedFields = nil
	if serving := known.Status.Serving; serving != nil {
		canonical(&serving.Mode)
		canonical(&serving.Outcome)
		canonical(&serving.NameMatch)
	}
	if kubelet := known.Status.Kubelet; kubelet != nil {
		canonical(&kubelet.Outcome)
		canonical(&kubelet.ClientRotation)
		canonical(&kubelet.ServingBootstrap)
	}
	for i := range known.Status.SigningRequests {
		canonical(&known.Status.SigningRequests[i].SignerName)
		canonical(&known.Status.SigningRequests[i].Stage)
	}
	known.Status.Certificates = compactCertificates(known.Status.Certificates)
	return known, nil
}

func compactCertificates(decoded []v1alpha1.CertificateStatus) []v1alpha1.CertificateStatus {
	certificates := slices.Clone(decoded) // which leaves the room for more behind
	for i := range certificates {
		c := &certificates[i]
		canonical(&c.Purpose)
		canonical(&c.Source)
		canonical(&c.Issuer)
		if i == 0 || certificates[i-1].SHA256 != c.SHA256 {
			continue
		}
		before := certificates[i-1]
		before.Purpose, before.Source = c.Purpose, c.Source
		if equality.Semantic.DeepEqual(&before, c) {
			*c = before
		}
	}
	return certificates
}

// shared returns the labels of a Node with one copy of each text for all Nodes, which have most keys and values in common.
func shared(labels map[string]string, nodeName string) map[string]string {
	result := make(map[string]string, len(labels))
	for key, value := range labels {
		if value == nodeName {
			// The one value that is each Node's own, as a rule.
			value = nodeName
		} else {
			value = unique.Make(value).Value()
		}
		result[unique.Make(key).Value()] = value
	}
	return result
}
