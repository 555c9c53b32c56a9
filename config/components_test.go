// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kubeletPort is where kubelets listen unless they are told otherwise.
const kubeletPort = 10250

// highAvailability are the components that make the manager survive what happens to nodes, and live with its neighbours.
var highAvailability = []string{"network-policy", "pod-disruption-budget", "priority-class", "topology-spread"}

// overlay makes a folder with a kustomization of config/default and components, as a user would write it.
func overlay(t *testing.T, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "resources: [%s/default]\ncomponents:\n", config)
	for _, component := range components {
		fmt.Fprintf(&text, "  - %s/components/%s\n", config, component)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testComponents applies the components together, and checks that they are about the Deployment's Pods as the API server
// keeps them, defaults included.
func testComponents(t *testing.T, c client.Client, kubectl func(t *testing.T, args ...string) string) {
	t.Helper()
	kubectl(t, "apply", "--server-side", "-k", overlay(t, highAvailability...))
	own := client.ObjectKey{Namespace: "notafter-system", Name: "notafter-controller-manager"}
	get := func(key client.ObjectKey, object client.Object) {
		t.Helper()
		if err := c.Get(t.Context(), key, object); err != nil {
			t.Fatal(err)
		}
	}
	var deployment appsv1.Deployment
	get(own, &deployment)
	pod := &deployment.Spec.Template
	selects := func(what string, selector *metav1.LabelSelector) {
		t.Helper()
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Empty() || !parsed.Matches(labels.Set(pod.Labels)) {
			t.Errorf("%s is for %s, and the manager's Pods are labelled %v", what, parsed, pod.Labels)
		}
	}

	var network networkingv1.NetworkPolicy
	get(own, &network)
	selects("the NetworkPolicy", &network.Spec.PodSelector)
	var budget policyv1.PodDisruptionBudget
	get(own, &budget)
	selects("the PodDisruptionBudget", budget.Spec.Selector)
	for i := range pod.Spec.TopologySpreadConstraints {
		constraint := &pod.Spec.TopologySpreadConstraints[i]
		selects("the spread over "+constraint.TopologyKey, constraint.LabelSelector)
	}
	var priority schedulingv1.PriorityClass
	get(client.ObjectKey{Name: pod.Spec.PriorityClassName}, &priority)

	want := map[string]corev1.UnsatisfiableConstraintAction{
		corev1.LabelHostname: corev1.ScheduleAnyway, corev1.LabelTopologyZone: corev1.DoNotSchedule,
	}
	got := map[string]corev1.UnsatisfiableConstraintAction{}
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		got[constraint.TopologyKey] = constraint.WhenUnsatisfiable
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the replicas are spread over (-want +got):\n%s", diff)
	}
	checkPorts(t, &network, pod.Spec.Containers)
}

// checkPorts checks that the NetworkPolicy opens what the manager serves, and the ways to the API server, kubelets and DNS.
func checkPorts(t *testing.T, network *networkingv1.NetworkPolicy, containers []corev1.Container) {
	t.Helper()
	served := map[string]bool{}
	for i := range containers {
		for _, port := range containers[i].Ports {
			served[port.Name+"/"+string(port.Protocol)] = true
		}
	}
	opened := map[string]bool{}
	for _, rule := range network.Spec.Ingress {
		for _, port := range rule.Ports {
			opened[port.Port.String()+"/"+string(*port.Protocol)] = true
		}
	}
	if diff := cmp.Diff(served, opened); diff != "" {
		t.Errorf("ports that are open (-the manager's +the NetworkPolicy's):\n%s", diff)
	}
	reached := map[string]bool{}
	for _, rule := range network.Spec.Egress {
		if len(rule.Ports) == 0 {
			t.Error("a rule lets the manager reach every port")
		}
		for _, port := range rule.Ports {
			reached[port.Port.String()+"/"+string(*port.Protocol)] = true
		}
	}
	want := map[string]bool{
		"443/TCP": true, "6443/TCP": true, fmt.Sprintf("%d/TCP", kubeletPort): true, "53/UDP": true, "53/TCP": true,
	}
	if diff := cmp.Diff(want, reached); diff != "" {
		t.Errorf("ports that the manager may reach (-want +got):\n%s", diff)
	}
}
