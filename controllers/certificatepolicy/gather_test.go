// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// That a request had a Node is remembered for as long as there is the request, and no longer.
func TestRequestsOfNoNode(t *testing.T) {
	const signer = certificatesv1.KubeletServingSignerName
	indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{csr.NodeNameIndex: csr.IndexNodeName})
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "1", ResourceVersion: "1", CreationTimestamp: metav1.NewTime(start)},
		Spec:       certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Username: "system:node:a"},
	}
	if err := indexer.Add(request); err != nil {
		t.Fatal(err)
	}
	r := &requestReader{sources: map[string]requestSource{signer: indexed{indexer}}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	look := func(nodes ...*corev1.Node) []policy.Request {
		t.Helper()
		found, uids, denied := r.orphans(nodes, func(string) bool { return len(nodes) > 0 }, start.Add(time.Minute))
		if len(denied) > 0 || len(uids) != len(found) || len(r.known) != len(found) {
			t.Errorf("%d requests, %d UIDs, %d remembered, %v", len(found), len(uids), len(r.known), denied)
		}
		return found
	}
	if found := look(node); len(found) > 0 {
		t.Errorf("of a Node: %v", found)
	}
	for _, version := range []string{"1", "1", "2"} {
		changed := request.DeepCopy()
		changed.ResourceVersion = version
		if err := indexer.Update(changed); err != nil {
			t.Fatal(err)
		}
		if found := look(); len(found) != 1 || found[0].Registration != policy.RegistrationSeen {
			t.Errorf("version %s, of a Node that is gone: %+v", version, found)
		}
	}
	if err := indexer.Delete(request); err != nil {
		t.Fatal(err)
	}
	if found := look(); len(found) > 0 {
		t.Errorf("a request that is gone: %v", found)
	}
}
