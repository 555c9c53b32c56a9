// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// BenchmarkEvaluation takes the time of what the metric notafter_evaluation_duration_seconds does: gathering the evidence from
// caches, here filled by hand, and judging it. All nodes are healthy, and each has a request to both signers.
func BenchmarkEvaluation(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			r, p := benchmarked(b, n)
			b.ReportAllocs()
			for b.Loop() {
				e, err := r.gather(b.Context(), p, pkitest.Start().Add(time.Hour))
				if err != nil {
					b.Fatal(err)
				}
				if verdict := e.judge(); *verdict.Nodes.Compliant != int32(n) {
					b.Fatalf("%+v, want %d compliant nodes", verdict.Nodes, n)
				}
			}
		})
	}
}

// filled is a cache of informers that were filled by hand.
type filled struct {
	cache.Cache
	nodes, facts toolscache.SharedIndexInformer
}

func (f filled) GetInformer(_ context.Context, kind client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	if _, ok := kind.(*corev1.Node); ok {
		return f.nodes, nil
	}
	return f.facts, nil
}

// indexed are signing requests in an indexer.
type indexed struct{ toolscache.Indexer }

func (i indexed) IndexValues(index string) ([]string, error) {
	return i.ListIndexFuncValues(index), nil
}

func (i indexed) ByIndex(index, value string) ([]*certificatesv1.CertificateSigningRequest, error) {
	var requests []*certificatesv1.CertificateSigningRequest
	objects, err := i.Indexer.ByIndex(index, value)
	for _, object := range objects {
		if request, ok := object.(*certificatesv1.CertificateSigningRequest); ok {
			requests = append(requests, request)
		}
	}
	return requests, err
}

func (indexed) Permission(verb string) string { return verb }

// oneBundle is a reader of the one ConfigMap that there is.
type oneBundle struct{ configMap *corev1.ConfigMap }

func (o oneBundle) Get(types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	return o.configMap, true, nil
}

// noControlPlane has nothing to tell.
type noControlPlane struct{ ControlPlane }

func (noControlPlane) Snapshot() (*policy.ControlPlane, []policy.Denial) { return nil, nil }

func benchmarked(b *testing.B, n int) (*reconciler, *v1alpha1.CertificatePolicy) {
	b.Helper()
	byNode := toolscache.Indexers{csr.NodeNameIndex: csr.IndexNodeName}
	requests := map[string]requestSource{}
	caches := filled{}
	for _, informer := range []*toolscache.SharedIndexInformer{&caches.nodes, &caches.facts} {
		*informer = toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, nil, 0, toolscache.Indexers{})
	}
	add := func(store toolscache.Store, object client.Object) {
		if err := store.Add(object); err != nil {
			b.Fatal(err)
		}
	}
	for i := range n {
		node := healthyNode(i)
		add(caches.nodes.GetStore(), node)
		add(caches.facts.GetStore(), healthyFacts(node))
	}
	for _, signer := range []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName} {
		indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, byNode)
		requests[signer] = indexed{indexer}
		for i := range n {
			name := fmt.Sprintf("csr-%s-%d", signer, i)
			add(indexer, &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
				Spec: certificatesv1.CertificateSigningRequestSpec{
					SignerName: signer, Username: "system:node:" + healthyNode(i).Name,
				},
			})
		}
	}
	ca := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"},
		Data:       map[string]string{"ca.crt": string(pkitest.NewCA("cluster").PEM())},
	}
	return &reconciler{
		objects: caches, controlPlane: noControlPlane{}, trust: trust.New(oneBundle{ca}, types.NamespacedName{}, "ca.crt"),
		requests: &requestReader{sources: requests},
	}, &v1alpha1.CertificatePolicy{Spec: ignoringAllButNodes()}
}

func ignoringAllButNodes() v1alpha1.CertificatePolicySpec {
	var spec v1alpha1.CertificatePolicySpec
	spec.Nodes.ServingCertificate.Rotation = v1alpha1.ServingRotationRequired
	spec.Nodes.ClientCertificate.Rotation = v1alpha1.ClientRotationRequired
	return spec
}

func healthyNode(i int) *corev1.Node {
	name := fmt.Sprintf("node-%05d", i)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(pkitest.Start()),
			Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"},
		},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.%d.%d", i/256, i%256)}},
			NodeInfo:  corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(pkitest.Start()),
			}},
		},
	}
}

func healthyFacts(node *corev1.Node) *v1alpha1.NodeCertificates {
	since := metav1.NewTime(pkitest.Start())
	certificate := func(purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource) v1alpha1.CertificateStatus {
		return v1alpha1.CertificateStatus{
			Purpose: purpose, Source: source, SHA256: string(purpose) + node.Name,
			NotBefore: since, NotAfter: metav1.NewTime(since.AddDate(1, 0, 0)), IPAddresses: []string{node.Status.Addresses[0].Address},
		}
	}
	issued := func(signer string) v1alpha1.SigningRequestStatus {
		return v1alpha1.SigningRequestStatus{
			SignerName: signer, Name: "csr-" + node.Name, Stage: v1alpha1.StageIssued, Created: since, Decided: &since, Issued: &since,
		}
	}
	return &v1alpha1.NodeCertificates{
		ObjectMeta: metav1.ObjectMeta{
			Name:            node.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Status: v1alpha1.NodeCertificatesStatus{
			Serving: &v1alpha1.ServingStatus{
				Mode: v1alpha1.ServingModeClusterSigned, Outcome: v1alpha1.ProbeCertificatePresented, NameMatch: v1alpha1.NameMatches,
				Since: since,
			},
			Kubelet: &v1alpha1.KubeletStatus{
				Outcome: v1alpha1.KubeletRead, Since: since,
				ClientRotation: v1alpha1.KubeletSettingEnabled, ServingBootstrap: v1alpha1.KubeletSettingEnabled,
			},
			Certificates: []v1alpha1.CertificateStatus{
				certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake),
				certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest),
				certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest),
			},
			SigningRequests: []v1alpha1.SigningRequestStatus{
				issued(certificatesv1.KubeAPIServerClientKubeletSignerName), issued(certificatesv1.KubeletServingSignerName),
			},
		},
	}
}
