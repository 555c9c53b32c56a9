// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/hack/cluster"
)

// chartComponents are the components that the chart has, by the value that switches each on.
var chartComponents = map[string]string{
	"approval.enabled":            "approval",
	"bootstrapTokens.enabled":     "bootstrap-tokens",
	"grafana.enabled":             "grafana",
	"networkPolicy.enabled":       "network-policy",
	"podDisruptionBudget.enabled": "pod-disruption-budget",
	"priorityClass.enabled":       "priority-class",
	"prometheus.enabled":          "prometheus",
	"topologySpread.enabled":      "topology-spread",
}

// tool returns the path of a tool of hack/tools.
func tool(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../hack/tools/install.sh", name).Output()
	if err != nil {
		t.Fatalf("building %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// helm runs Helm with nothing of this machine's configuration, and returns what it says, or its complaint as the error.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), tool(t, "helm"), args...)
	home := t.TempDir()
	command.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// template renders the chart and returns its objects by kind, namespace and name.
func template(t *testing.T, namespace string, set ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	args := []string{"template", "notafter", "chart", "--namespace", namespace}
	for _, value := range set {
		args = append(args, "--set-json", value)
	}
	out, err := helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return byKey(t, []byte(out))
}

// kustomized returns the objects of config/default with components.
func kustomized(t *testing.T, components ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	return built(t, overlay(t, components...))
}

// built returns the objects of a kustomization.
func built(t *testing.T, folder string) map[string]*unstructured.Unstructured {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool(t, "kustomize"), "build", folder).Output()
	if err != nil {
		t.Fatal(err)
	}
	return byKey(t, out)
}

func byKey(t *testing.T, manifests []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, object := range decode(t, "what was rendered", manifests) {
		key := fmt.Sprintf("%s %s/%s", object.GetKind(), object.GetNamespace(), object.GetName())
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = object
	}
	return all
}

// However it is installed, and with whatever components, it is the same.
func TestChartEqualsKustomization(t *testing.T) {
	values := slices.Sorted(maps.Keys(chartComponents))
	combinations := [][]string{nil}
	for _, value := range values {
		combinations = append(combinations, []string{value})
	}
	if len(values) > 1 {
		combinations = append(combinations, values)
	}
	for _, enabled := range combinations {
		t.Run(strings.Join(enabled, ","), func(t *testing.T) {
			var set, components []string
			for _, value := range enabled {
				set = append(set, value+"=true")
				components = append(components, chartComponents[value])
			}
			compareChart(t, kustomized(t, components...), template(t, "notafter-system", set...))
		})
	}
}

// What docs/monitoring.md does by patches of a kustomization, values of the chart do.
func TestChartMonitoringEqualsKustomization(t *testing.T) {
	compareChart(t, built(t, "testdata/monitoring"), template(t, "notafter-system",
		"prometheus.enabled=true", "grafana.enabled=true", `prometheus.labels={"release": "kube-prometheus-stack"}`,
		`metrics.certificateSecret="notafter-metrics"`))
}

// compareChart compares what kustomize and Helm make.
func compareChart(t *testing.T, want, got map[string]*unstructured.Unstructured) {
	t.Helper()
	for key, object := range got {
		withoutHelmsOwn(t, key, object)
	}
	delete(want, "Namespace /notafter-system") // helm --create-namespace makes it
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("objects (-kustomize build +helm template):\n%s", diff)
	}
	for key, object := range want {
		if diff := cmp.Diff(object, got[key]); diff != "" {
			t.Errorf("%s (-kustomize build +helm template):\n%s", key, diff)
		}
	}
}

// Whoever looks for what belongs to notafter finds all of it by its labels.
func TestEverythingIsLabelled(t *testing.T) {
	for key, object := range kustomized(t, slices.Sorted(maps.Values(chartComponents))...) {
		for _, label := range []string{"app.kubernetes.io/name", "app.kubernetes.io/part-of"} {
			if got := object.GetLabels()[label]; got != "notafter" {
				t.Errorf("%s has the label %s=%q", key, label, got)
			}
		}
	}
}

// withoutHelmsOwn removes what the chart has by Helm's conventions.
func withoutHelmsOwn(t *testing.T, key string, object *unstructured.Unstructured) {
	t.Helper()
	labels := object.GetLabels()
	for _, label := range []string{
		"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart",
	} {
		if labels[label] == "" {
			t.Errorf("%s has no label %s", key, label)
		}
		delete(labels, label)
	}
	if object.SetLabels(labels); len(labels) == 0 {
		unstructured.RemoveNestedField(object.Object, "metadata", "labels")
	}
	if annotations := object.GetAnnotations(); object.GetKind() == "CustomResourceDefinition" {
		if annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would be deleted with the release, and all policies with it", key)
		}
		delete(annotations, "helm.sh/resource-policy")
		object.SetAnnotations(annotations)
	}
}

func TestComponentsAreInTheChart(t *testing.T) {
	folders, err := os.ReadDir("components")
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Collect(maps.Values(chartComponents))
	for _, folder := range folders {
		if !slices.Contains(known, folder.Name()) {
			t.Errorf("config/components/%s is not in the chart: add it to hack/chart, the values and this test", folder.Name())
		}
	}
}

func TestChartLints(t *testing.T) {
	all := []string{"crds.install=false"}
	for value := range chartComponents {
		all = append(all, value+"=true")
	}
	for _, set := range []string{"", strings.Join(all, ",")} {
		if out, err := helm(t, "lint", "--strict", "chart", "--set", set); err != nil {
			t.Errorf("with %q: %v\n%s", set, err, out)
		}
	}
}

func TestChartValues(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	set := []string{
		`image={"repository": "registry.example:5000/notafter", "tag": "v9", "digest": "` + digest + `", "pullPolicy": "Always"}`,
		`imagePullSecrets=[{"name": "registry"}]`, `replicas=1`, `args=["--log-level=debug"]`,
		`resources={"requests": {"cpu": 1}}`, `nodeSelector={"pool": "system"}`,
		`tolerations=[{"key": "dedicated", "operator": "Exists"}]`, `priorityClassName="system-cluster-critical"`,
		`podAnnotations={"a": "1"}`, `podLabels={"l": "2"}`, `crds.install=false`, `serviceAccount.annotations={"s": "3"}`,
		`metrics.certificateSecret="metrics"`,
	}
	for value := range chartComponents {
		set = append(set, value+"=true")
	}
	objects := template(t, "elsewhere", set...)
	for key, object := range objects {
		if strings.Contains(fmt.Sprint(object.Object), "notafter-system") {
			t.Errorf("%s still names the namespace notafter-system", key)
		}
		if object.GetKind() == "CustomResourceDefinition" {
			t.Errorf("%s is there although crds.install is false", key)
		}
	}
	account := convert[corev1.ServiceAccount](t, objects["ServiceAccount elsewhere/notafter-controller-manager"])
	if diff := cmp.Diff(map[string]string{"s": "3"}, account.Annotations); diff != "" {
		t.Errorf("annotations of the ServiceAccount (-want +got):\n%s", diff)
	}
	if monitor := fmt.Sprint(objects["ServiceMonitor elsewhere/notafter-metrics"].Object); !strings.Contains(
		monitor, "serverName:notafter-metrics.elsewhere.svc") {
		t.Errorf("the metrics of another namespace are verified by %s", monitor)
	}
	deployment := convert[appsv1.Deployment](t, objects["Deployment elsewhere/notafter-controller-manager"])
	pod := deployment.Spec.Template
	container := pod.Spec.Containers[0]
	got := map[string]any{
		"replicas": *deployment.Spec.Replicas, "image": container.Image, "pullPolicy": container.ImagePullPolicy,
		"pullSecrets": pod.Spec.ImagePullSecrets, "args": container.Args[3:], "cpu": container.Resources.Requests.Cpu().String(),
		"limits": len(container.Resources.Limits), "nodeSelector": pod.Spec.NodeSelector, "toleration": pod.Spec.Tolerations[0].Key,
		"priority": pod.Spec.PriorityClassName, "annotation": pod.Annotations["a"], "label": pod.Labels["l"],
	}
	want := map[string]any{
		"replicas": int32(1), "image": "registry.example:5000/notafter:v9@" + digest, "pullPolicy": corev1.PullAlways,
		"pullSecrets": []corev1.LocalObjectReference{{Name: "registry"}},
		"args": []string{
			"--kubelet-reader-service-account=elsewhere/notafter-kubelet-reader", "--metrics-cert-dir=/var/run/metrics", "--log-level=debug",
		},
		"cpu": "1", "limits": 1, "nodeSelector": map[string]string{"pool": "system"}, "toleration": "dedicated",
		"priority": "system-cluster-critical", "annotation": "1", "label": "2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, object := range template(t, "elsewhere", "crds.keep=false") {
		if policy := object.GetAnnotations()["helm.sh/resource-policy"]; policy != "" {
			t.Errorf("%s has the resource policy %q although crds.keep is false", object.GetName(), policy)
		}
	}
}

// Whatever affinity one wants, the image runs on some platforms only.
func TestChartAffinity(t *testing.T) {
	const zones = `[{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {"matchFields": [{"key": "metadata.name", ` +
		`"operator": "In", "values": ["a"]}]}]`
	affinity := convert[appsv1.Deployment](t, template(t, "notafter-system", `affinity={
		"nodeAffinity": {
			"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": `+zones+`},
			"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [
				{"key": "pool", "operator": "In", "values": ["system"]}]}}]
		},
		"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}
	}`)["Deployment notafter-system/notafter-controller-manager"]).Spec.Template.Spec.Affinity
	platform := convert[appsv1.Deployment](t, objects(t, "manager/deployment.yaml")[0]).Spec.Template.Spec.Affinity.NodeAffinity.
		RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions
	want := &corev1.Affinity{
		NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: append(slices.Clone(platform), corev1.NodeSelectorRequirement{
					Key: "zone", Operator: corev1.NodeSelectorOpExists,
				})},
				{MatchExpressions: platform, MatchFields: []corev1.NodeSelectorRequirement{{
					Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"},
				}}},
			}},
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: "pool", Operator: corev1.NodeSelectorOpIn, Values: []string{"system"},
				}}},
			}},
		},
		PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname,
		}}},
	}
	if diff := cmp.Diff(want, affinity); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A misspelt or misunderstood value is an error, and not a surprise.
func TestChartRefuses(t *testing.T) {
	for _, value := range []string{
		`replica=1`, `image.name="x"`, `replicas="2"`, `replicas=-1`, `image.tag="a b"`, `image.digest="latest"`,
		`image.pullPolicy="Sometimes"`, `bootstrapTokens.enabled="yes"`, `bootstrapTokens.enable=true`, `args=["log-level=debug"]`,
		`imagePullSecrets=["registry"]`, `podLabels={"app.kubernetes.io/name": "other"}`, `crds.installs=true`, `resources.limit={}`,
		`affinity.nodeAfinity={}`, `serviceAccount.annotation={}`, `prometheus.labels={"app.kubernetes.io/name": "other"}`,
		`metrics.certificateSecret="A b"`,
	} {
		_, err := helm(t, "template", "notafter", "chart", "--set-json", value)
		if err == nil || !strings.Contains(err.Error(), "values don't meet the specifications of the schema") {
			t.Errorf("%s: %v: want it refused by the schema", value, err)
		}
	}
}

// The release process changes them together.
func TestVersionsAgree(t *testing.T) {
	chart := objects(t, "chart/Chart.yaml")[0].Object
	for _, object := range objects(t, "manager/kustomization.yaml") {
		images, _, err := unstructured.NestedSlice(object.Object, "images")
		if err != nil {
			t.Fatal(err)
		}
		tag := images[0].(map[string]any)["newTag"]
		if chart["appVersion"] != tag || fmt.Sprintf("v%s", chart["version"]) != tag {
			t.Errorf("the chart has version %s and appVersion %s, the kustomization %s", chart["version"], chart["appVersion"], tag)
		}
	}
}

// Whoever reads what Kubernetes it takes reads the same everywhere.
func TestKubernetesVersionsAgree(t *testing.T) {
	wants, _ := objects(t, "chart/Chart.yaml")[0].Object["kubeVersion"].(string)
	version := strings.TrimSuffix(strings.TrimPrefix(wants, ">="), ".0-0") // also what platforms append to it
	for _, document := range []string{"../README.md", "../docs/guide.md", "chart/README.md"} {
		if !bytes.Contains(read(t, document), []byte("Kubernetes "+version+" or newer")) {
			t.Errorf("%s does not say that it needs Kubernetes %s or newer, as kubeVersion %q does", document, version, wants)
		}
	}
}

// Installed, upgraded and removed by Helm itself, on a real API server.
func TestChartOnAnAPIServer(t *testing.T) {
	c := cluster.StartForTest(t, cluster.Options{Log: t.Output()})
	run := func(args ...string) {
		t.Helper()
		if _, err := helm(t, append(args, "--kubeconfig", c.KubeconfigPath(), "--namespace", "notafter-system")...); err != nil {
			t.Fatal(err)
		}
	}
	crds, err := client.New(c.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition",
	})
	get := func() error {
		return crds.Get(t.Context(), client.ObjectKey{Name: "certificatepolicies.notafter.dev"}, definition)
	}
	older := filepath.Join(t.TempDir(), "chart")
	if err := os.CopyFS(older, os.DirFS("chart")); err != nil {
		t.Fatal(err)
	}
	versioned := bytes.Replace(read(t, "chart/Chart.yaml"), []byte("\nversion: "), []byte("\nversion: 0.0.1-before-"), 1)
	if err := os.WriteFile(filepath.Join(older, "Chart.yaml"), versioned, 0o600); err != nil {
		t.Fatal(err)
	}
	run("install", "notafter", older, "--create-namespace")
	if err := get(); err != nil || !strings.HasPrefix(definition.Labels["helm.sh/chart"], "notafter-0.0.1-before") {
		t.Fatalf("the older chart's definition has labels %v: %v", definition.Labels, err)
	}
	run("upgrade", "notafter", "chart", "--set", "bootstrapTokens.enabled=true,replicas=1")
	if err := get(); err != nil || strings.HasPrefix(definition.Labels["helm.sh/chart"], "notafter-0.0.1-before") {
		t.Errorf("after an upgrade, the definition has labels %v: %v", definition.Labels, err)
	}
	run("uninstall", "notafter")
	if err := get(); err != nil {
		t.Errorf("after the release was uninstalled, the definition is gone: %v", err)
	}
	run("install", "notafter", "chart", "--set", "crds.keep=false")
	run("uninstall", "notafter")
	if err := get(); err == nil && definition.DeletionTimestamp == nil || err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("the definition is still there although crds.keep was false: %v", err)
	}
}

// The README's table of values is generated, and hack/chart checks values.yaml against the schema's top. This checks the rest:
// nothing is allowed that is not described.
func TestValuesSchemaIsStrict(t *testing.T) {
	var check func(path string, value map[string]any)
	check = func(path string, value map[string]any) {
		properties, _ := value["properties"].(map[string]any)
		if properties != nil && value["additionalProperties"] != false {
			t.Errorf("%s allows properties that are not there", path)
		}
		for name, property := range properties {
			check(path+"."+name, property.(map[string]any))
		}
	}
	values := map[string]any{}
	if err := json.Unmarshal(read(t, "chart/values.schema.json"), &values); err != nil {
		t.Fatal(err)
	}
	check("values", values)
}
