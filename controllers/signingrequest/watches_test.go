// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
)

// However requests arrive, the node that waits longest is next; and one that files another request does not go to the end.
func TestLongestWaitFirst(t *testing.T) {
	const nodes = 1000
	start := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	q := priorityqueue.New[reconcile.Request]("")
	defer q.ShutDown()
	var want []string
	for i := range nodes {
		want = append(want, fmt.Sprintf("node-%d", i))
	}
	for _, i := range rand.Perm(nodes) {
		add(q, want[i], start.Add(time.Duration(i)*time.Second))
	}
	for _, i := range rand.Perm(nodes) {
		add(q, want[i], start.Add(nodes*time.Second+time.Duration(i)))
	}
	var got []string
	for range nodes {
		item, _ := q.Get()
		got = append(got, item.Name)
		q.Done(item)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestNodeChanged(t *testing.T) {
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "1", Labels: map[string]string{"a": "b"}}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
		change(n)
		return n
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"nothing":   {func(*corev1.Node) {}, false},
		"heartbeat": {func(n *corev1.Node) { n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}} }, false},
		"version":   {func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "v1.37.0" }, false},
		"address":   {func(n *corev1.Node) { n.Status.Addresses[0].Address = "10.0.0.2" }, true},
		"label":     {func(n *corev1.Node) { n.Labels["a"] = "c" }, true},
		"made anew": {func(n *corev1.Node) { n.UID = "2" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := event.UpdateEvent{ObjectOld: node(func(*corev1.Node) {}), ObjectNew: node(tc.change)}
			if got := nodeChanged().Update(e); got != tc.want {
				t.Errorf("passes: %t, want %t", got, tc.want)
			}
		})
	}
}

func TestCertificatesChanged(t *testing.T) {
	facts := func(sha256 string, stage v1alpha1.SigningStage) *v1alpha1.NodeCertificates {
		return &v1alpha1.NodeCertificates{Status: v1alpha1.NodeCertificatesStatus{
			Certificates:    []v1alpha1.CertificateStatus{{SHA256: sha256}},
			SigningRequests: []v1alpha1.SigningRequestStatus{{Stage: stage}},
		}}
	}
	served := facts("aa", v1alpha1.StagePending)
	served.Status.Serving = &v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeClusterSigned}
	for name, tc := range map[string]struct {
		after *v1alpha1.NodeCertificates
		want  bool
	}{
		"origin":      {served, true},
		"request":     {facts("aa", v1alpha1.StageApproved), false},
		"certificate": {facts("bb", v1alpha1.StagePending), true},
	} {
		t.Run(name, func(t *testing.T) {
			e := event.UpdateEvent{ObjectOld: facts("aa", v1alpha1.StagePending), ObjectNew: tc.after}
			if got := certificatesChanged().Update(e); got != tc.want {
				t.Errorf("passes: %t, want %t", got, tc.want)
			}
		})
	}
}
