// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func passesUpdate[T client.Object](p predicate.Predicate, before T, change func(T)) bool {
	after := before.DeepCopyObject().(T)
	change(after)
	return p.Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after})
}

func TestNodeChanged(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", UID: "a", Labels: map[string]string{"pool": "a"}}}
	node.Status.Addresses = []corev1.NodeAddress{address(corev1.NodeInternalIP, "10.0.0.1")}
	p := nodeChanged()
	for name, change := range map[string]func(*corev1.Node){
		"label":           func(n *corev1.Node) { n.Labels["pool"] = "b" },
		"address":         func(n *corev1.Node) { n.Status.Addresses[0].Address = "10.0.0.2" },
		"kubelet port":    func(n *corev1.Node) { n.Status.DaemonEndpoints.KubeletEndpoint.Port = 1 },
		"kubelet version": func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "v1.37.2" },
		"deletion":        func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: noon} },
		"another Node":    func(n *corev1.Node) { n.UID = "b" },
	} {
		if !passesUpdate(p, node, change) {
			t.Errorf("a change of %s is held back", name)
		}
	}
	for name, change := range map[string]func(*corev1.Node){
		"heartbeat": func(n *corev1.Node) {
			n.ResourceVersion = "2"
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.NewTime(noon)}}
		},
		"annotation": func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} },
		"images":     func(n *corev1.Node) { n.Status.Images = []corev1.ContainerImage{{Names: []string{"a"}}} },
	} {
		if passesUpdate(p, node, change) {
			t.Errorf("a change of %s is let through", name)
		}
	}
	if !p.Create(event.CreateEvent{Object: node}) || !p.Delete(event.DeleteEvent{Object: node}) {
		t.Error("a Node that comes or goes is held back")
	}
}

func TestCertificateIssued(t *testing.T) {
	p := certificateIssued()
	known := &v1alpha1.NodeCertificates{}
	issue := func(purpose v1alpha1.CertificatePurpose, source v1alpha1.EvidenceSource) func(*v1alpha1.NodeCertificates) {
		return func(n *v1alpha1.NodeCertificates) {
			n.Status.Certificates = []v1alpha1.CertificateStatus{certificateStatus(purpose, source, leafFrom(noon).X509)}
		}
	}
	if !passesUpdate(p, known, issue(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest)) {
		t.Error("a first serving certificate is held back")
	}
	if !passesUpdate(p, known, issue(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest)) {
		t.Error("a first client certificate is held back")
	}
	if passesUpdate(p, known, issue(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake)) {
		t.Error("the prober's own news is let through")
	}
	issue(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest)(known)
	if !passesUpdate(p, known, issue(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest)) {
		t.Error("a renewed serving certificate is held back")
	}
	if passesUpdate(p, known, func(n *v1alpha1.NodeCertificates) { n.Status.Serving = &v1alpha1.ServingStatus{} }) {
		t.Error("another change is let through")
	}
	if p.Create(event.CreateEvent{Object: known}) {
		t.Error("an object that comes is let through")
	}
	if !p.Delete(event.DeleteEvent{Object: known}) {
		t.Error("an object that goes is held back")
	}
}

func TestForgetful(t *testing.T) {
	probed := newRecords()
	known := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	q := &waits{after: map[string]time.Duration{}}
	enqueued := func() bool {
		_, ok := q.after["one"]
		clear(q.after)
		return ok
	}
	probed.put("one", record{uid: "uid"})
	forgetful(probed).Update(t.Context(), event.UpdateEvent{ObjectOld: known, ObjectNew: known}, q)
	if _, ok := probed.get("one", "uid"); !ok || !enqueued() {
		t.Error("a changed object: the node is forgotten, or not enqueued")
	}
	forgetful(probed).Delete(t.Context(), event.DeleteEvent{Object: known}, q)
	if _, ok := probed.get("one", "uid"); ok || !enqueued() {
		t.Error("a deleted object: the node is not forgotten, or not enqueued")
	}
}

func TestPolicyChanged(t *testing.T) {
	p := policyChanged()
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
	if passesUpdate(p, policy, func(c *v1alpha1.CertificatePolicy) { c.Status.ObservedGeneration = 1 }) {
		t.Error("a verdict is let through")
	}
	if !passesUpdate(p, policy, func(c *v1alpha1.CertificatePolicy) { c.Generation = 2 }) {
		t.Error("a change is held back")
	}
	if !p.Create(event.CreateEvent{Object: policy}) || !p.Delete(event.DeleteEvent{Object: policy}) {
		t.Error("a policy that comes or goes is held back")
	}
	if p.Create(event.CreateEvent{Object: policy, IsInInitialList: true}) {
		t.Error("a policy that was there at the start is let through")
	}
}

func TestTrustBundleChanged(t *testing.T) {
	name := types.NamespacedName{Namespace: "kube-system", Name: "kube-root-ca.crt"}
	p := trustBundleChanged(trust.Source{ConfigMap: name, Key: "ca.crt"})
	bundle := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Data: map[string]string{"ca.crt": "a"},
	}
	passes := func(change func(*corev1.ConfigMap)) bool {
		changed := bundle.DeepCopy()
		change(changed)
		return p.Update(event.TypedUpdateEvent[*corev1.ConfigMap]{ObjectOld: bundle, ObjectNew: changed})
	}
	if !passes(func(c *corev1.ConfigMap) { c.Data["ca.crt"] = "b" }) {
		t.Error("another bundle is held back")
	}
	if passes(func(c *corev1.ConfigMap) { c.Data["other"] = "b" }) {
		t.Error("another key is let through")
	}
	type created = event.TypedCreateEvent[*corev1.ConfigMap]
	if !p.Create(created{Object: bundle}) || !p.Delete(event.TypedDeleteEvent[*corev1.ConfigMap]{Object: bundle}) {
		t.Error("a bundle that comes or goes is held back")
	}
	elsewhere := bundle.DeepCopy()
	elsewhere.Namespace = "default"
	if p.Create(created{Object: elsewhere}) || p.Create(created{Object: bundle, IsInInitialList: true}) {
		t.Error("another ConfigMap, or one that was there at the start, is let through")
	}
}

func TestNodeOfSigningRequest(t *testing.T) {
	request := signingRequest("csr-a", servingSigner, noon, nil)
	got := nodeOfSigningRequest(t.Context(), request)
	if len(got) != 1 || got[0].Name != "one" {
		t.Errorf("requests = %v", got)
	}
	request.Spec.Username = "somebody"
	request.Spec.Request = pkitest.Request(pkitest.CommonName("something"))
	if got := nodeOfSigningRequest(t.Context(), request); len(got) != 0 {
		t.Errorf("requests = %v", got)
	}
	p := signingRequestChanged()
	same := event.TypedUpdateEvent[*certificatesv1.CertificateSigningRequest]{ObjectOld: request, ObjectNew: request}
	if p.Update(same) || !p.Delete(event.TypedDeleteEvent[*certificatesv1.CertificateSigningRequest]{Object: request}) {
		t.Error("a repetition is let through, or a deletion held back")
	}
}

// waits is a queue that remembers what was added and when it is due.
type waits struct {
	enqueue.Queue
	after map[string]time.Duration
}

func (w *waits) Add(item reconcile.Request) { w.after[item.Name] = 0 }

func (w *waits) AddAfter(item reconcile.Request, after time.Duration) { w.after[item.Name] = after }

func TestEveryNodeIsSpread(t *testing.T) {
	builder := fake.NewClientBuilder()
	for _, name := range []string{"a", "b", "c", "d"} {
		builder.WithObjects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	draws := 0.0
	all := everyNode{client: builder.Build(), random: func() float64 { draws += 0.2; return draws }}
	q := &waits{after: map[string]time.Duration{}}
	all.add(t.Context(), q)
	if len(q.after) != 4 {
		t.Fatalf("enqueued %v", q.after)
	}
	distinct := map[time.Duration]bool{}
	for name, after := range q.after {
		distinct[after] = true
		if after <= 0 || after > 4*spreadPerNode {
			t.Errorf("%s is due after %v", name, after)
		}
	}
	if len(distinct) != 4 {
		t.Errorf("nodes are due at the same time: %v", q.after)
	}
}

func TestSigningRequestHandler(t *testing.T) {
	type object = *certificatesv1.CertificateSigningRequest
	all := everyNode{random: func() float64 { return 0 }, client: fake.NewClientBuilder().WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "two"}},
	).Build()}
	h, q := signingRequestHandler(all), &waits{after: map[string]time.Duration{}}
	h.Delete(t.Context(), event.TypedDeleteEvent[object]{Object: signingRequest("csr-a", servingSigner, noon, nil)}, q)
	if _, ok := q.after["one"]; !ok || len(q.after) != 1 {
		t.Errorf("a request of node one enqueued %v", q.after)
	}
	h.Generic(t.Context(), event.TypedGenericEvent[object]{}, q)
	if len(q.after) != 2 {
		t.Errorf("a permission that was granted enqueued %v, want every node", q.after)
	}
}
