// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"errors"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/notafter/notafter/api/v1alpha1"
)

// wakes says what the predicate makes of a change of the object.
func wakes[T client.Object](p predicate.TypedPredicate[T], before T, change func(T)) bool {
	after, _ := before.DeepCopyObject().(T)
	after.SetResourceVersion("2")
	change(after)
	return p.Update(event.TypedUpdateEvent[T]{ObjectOld: before, ObjectNew: after})
}

func TestNodeChanged(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "1", Labels: map[string]string{"pool": "blue"}},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.36.0"},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "worker-1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Unix(100, 0)}},
		},
	}
	down := node.DeepCopy()
	down.Status.Conditions[0].Status = corev1.ConditionFalse
	for later, want := range map[time.Duration]bool{5 * time.Minute: false, heardEvery: true} {
		got := wakes(nodeChanged(), down, func(n *corev1.Node) {
			n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Unix(100, 0).Add(later))
		})
		if got != want {
			t.Errorf("a kubelet that says that it is not ready, and says so again %s later, wakes the policies: %v", later, got)
		}
	}
	for name, test := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"heartbeat":         {func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Unix(110, 0) }, false},
		"not ready":         {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		"annotation":        {func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, false},
		"another name":      {func(n *corev1.Node) { n.Status.Addresses[0].Address = "worker-2" }, false},
		"another address":   {func(n *corev1.Node) { n.Status.Addresses[1].Address = "10.0.0.2" }, true},
		"no IP address":     {func(n *corev1.Node) { n.Status.Addresses = n.Status.Addresses[:1] }, true},
		"label":             {func(n *corev1.Node) { n.Labels["pool"] = "green" }, true},
		"node image":        {func(n *corev1.Node) { n.Labels[nodeImageLabel] = "AKSUbuntu-2204gen2containerd-202501.12.0" }, true},
		"kubelet version":   {func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "v1.37.0" }, true},
		"another Node":      {func(n *corev1.Node) { n.UID = "2" }, true},
		"nothing (re-list)": {func(*corev1.Node) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wakes(nodeChanged(), node, test.change); got != test.want {
				t.Errorf("wakes the policies: %v, want %v", got, test.want)
			}
		})
	}
	if !nodeChanged().Create(event.TypedCreateEvent[*corev1.Node]{Object: node}) ||
		!nodeChanged().Delete(event.TypedDeleteEvent[*corev1.Node]{Object: node}) {
		t.Error("a Node that comes or goes wakes nobody")
	}
}

func TestFactsChanged(t *testing.T) {
	facts := &v1alpha1.NodeCertificates{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}
	facts.Status.Certificates = []v1alpha1.CertificateStatus{{NotAfter: metav1.Unix(100, 0)}}
	for name, test := range map[string]struct {
		change func(*v1alpha1.NodeCertificates)
		want   bool
	}{
		"status": {func(n *v1alpha1.NodeCertificates) { n.Status.Certificates[0].NotAfter = metav1.Unix(200, 0) }, true},
		"owner":  {func(n *v1alpha1.NodeCertificates) { n.OwnerReferences = []metav1.OwnerReference{{UID: "2"}} }, true},
		"label":  {func(n *v1alpha1.NodeCertificates) { n.Labels = map[string]string{"a": "b"} }, false},
		"same instant in another zone": {func(n *v1alpha1.NodeCertificates) {
			n.Status.Certificates[0].NotAfter = metav1.NewTime(time.Unix(100, 0).In(time.FixedZone("east", 3600)))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wakes(factsChanged(), facts, test.change); got != test.want {
				t.Errorf("wakes the policies: %v, want %v", got, test.want)
			}
		})
	}
}

// lookup is a cache in which the Nodes of the map are; other names give their error.
type lookup struct {
	client.Reader
	nodes map[string]error
}

func (l lookup) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	err, ok := l.nodes[key.Name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, key.Name)
	}
	return err
}

func TestMaybeOrphaned(t *testing.T) {
	orphaned := maybeOrphaned(lookup{nodes: map[string]error{"there": nil, "unknowable": errors.New("not synced")}})
	for user, want := range map[string]bool{
		"system:node:there": false, "system:node:gone": true, "system:node:unknowable": true, "somebody": true,
	} {
		request := &certificatesv1.CertificateSigningRequest{}
		request.Spec.Username = user
		if got := orphaned.Create(event.TypedCreateEvent[*certificatesv1.CertificateSigningRequest]{Object: request}); got != want {
			t.Errorf("request of %s wakes the policies: %v, want %v", user, got, want)
		}
		if got := orphaned.Delete(event.TypedDeleteEvent[*certificatesv1.CertificateSigningRequest]{Object: request}); got != want {
			t.Errorf("deleted request of %s wakes the policies: %v, want %v", user, got, want)
		}
	}
}
