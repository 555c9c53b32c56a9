// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package config tests the manifests of this folder.
package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/prometheus"
)

const manager = "system:serviceaccount:notafter-system:notafter-controller-manager"

// kubeletReader is whom kubelets are asked as.
const kubeletReader = "system:serviceaccount:notafter-system:notafter-kubelet-reader"

// objects reads the objects of a manifest.
func objects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	return decode(t, path, read(t, path))
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode(t *testing.T, path string, content []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := map[string]any{}
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%s: %v", path, err)
		case len(object) > 0:
			all = append(all, &unstructured.Unstructured{Object: object})
		}
	}
}

// convert turns an object into a typed one.
func convert[T any](t *testing.T, object *unstructured.Unstructured) T {
	t.Helper()
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return typed
}

// rulesOf returns the rules of every role in the folder, by "file kind namespace/name".
func rulesOf(t *testing.T) map[string][]rbacv1.PolicyRule {
	t.Helper()
	files, err := filepath.Glob("rbac/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]rbacv1.PolicyRule{}
	for _, file := range files {
		for _, object := range objects(t, file) {
			if kind := object.GetKind(); kind == "ClusterRole" || kind == "Role" {
				key := fmt.Sprintf("%s %s %s/%s", file, kind, object.GetNamespace(), object.GetName())
				rules[key] = convert[rbacv1.ClusterRole](t, object).Rules // a Role has the same rules
			}
		}
	}
	return rules
}

// permissions spells rules out, each as "verb resource.group" with the name where one is given.
func permissions(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, rule := range rules {
		for _, verb := range rule.Verbs {
			for _, url := range rule.NonResourceURLs {
				all = append(all, verb+" "+url)
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					what := strings.TrimSuffix(resource+"."+group, ".")
					if len(rule.ResourceNames) == 0 {
						all = append(all, verb+" "+what)
					}
					for _, name := range rule.ResourceNames {
						all = append(all, verb+" "+what+" "+name)
					}
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The operator is worth little to whoever takes it over. Whoever adds a permission that changes something adds it here.
func TestPermissionsAreFew(t *testing.T) {
	writes := map[string][]string{
		"rbac/role.yaml ClusterRole /manager-role": {
			// Delete is for setting an owner reference where OwnerReferencesPermissionEnforcement is on.
			"create nodecertificates.notafter.dev", "delete nodecertificates.notafter.dev", "update nodecertificates.notafter.dev",
			"update certificatepolicies.notafter.dev/status", "update nodecertificates.notafter.dev/status",
		},
		"rbac/role.yaml Role default/manager-role": {"create events.events.k8s.io"},
		// Of the account that kubelets are asked with, and that may do nothing else.
		"rbac/role.yaml Role notafter-system/manager-role": {"create serviceaccounts/token notafter-kubelet-reader"},
		"rbac/leader_election_role.yaml Role /leader-election": {
			"create events", "patch events", "create leases.coordination.k8s.io", "update leases.coordination.k8s.io notafter.dev",
		},
		"rbac/metrics_auth_role.yaml ClusterRole /metrics-auth": {
			"create tokenreviews.authentication.k8s.io", "create subjectaccessreviews.authorization.k8s.io",
		},
		"rbac/user_roles.yaml ClusterRole /editor": {
			"create certificatepolicies.notafter.dev", "delete certificatepolicies.notafter.dev",
			"deletecollection certificatepolicies.notafter.dev", "patch certificatepolicies.notafter.dev",
			"update certificatepolicies.notafter.dev",
		},
	}
	forbidden := regexp.MustCompile(`\*|secrets|nodes/(proxy|exec|log)|pods|/approval|signers|impersonate|escalate|bind`)
	roles := rulesOf(t)
	if len(roles) == 0 {
		t.Fatal("no roles found")
	}
	for role, rules := range roles {
		allowed := map[string]bool{}
		for _, permission := range writes[role] {
			verb, what, _ := strings.Cut(permission, " ")
			if resource, subresource, found := strings.Cut(what, "/"); found {
				kind, group, _ := strings.Cut(resource, ".")
				what = strings.TrimSuffix(kind+"/"+subresource+"."+group, ".")
			}
			allowed[verb+" "+what] = true
		}
		for _, permission := range permissions(rules) {
			verb, _, _ := strings.Cut(permission, " ")
			if forbidden.MatchString(permission) {
				t.Errorf("%s: %q is more than the operator may have", role, permission)
			}
			if !slices.Contains([]string{"get", "list", "watch"}, verb) && !allowed[permission] {
				t.Errorf("%s: %q changes something and is not expected", role, permission)
			}
			delete(allowed, permission)
		}
		for permission := range allowed {
			t.Errorf("%s: %q is expected and missing: are the markers at file level, outside doc comments?", role, permission)
		}
	}
	for role := range writes {
		if _, found := roles[role]; !found {
			t.Errorf("%s: expected and missing", role)
		}
	}
}

// Approving is what the component grants, and all that it does. That no other role has it, TestPermissionsAreFew says.
func TestApprovalComponent(t *testing.T) {
	var rules []rbacv1.PolicyRule
	for _, object := range objects(t, "components/approval/role.yaml") {
		if object.GetKind() == "ClusterRole" {
			rules = append(rules, convert[rbacv1.ClusterRole](t, object).Rules...)
			continue
		}
		binding := convert[rbacv1.ClusterRoleBinding](t, object)
		want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "notafter-controller-manager", Namespace: "notafter-system"}}
		if !slices.Equal(binding.Subjects, want) {
			t.Errorf("granted to %v, want %v", binding.Subjects, want)
		}
	}
	want := []string{
		"approve signers.certificates.k8s.io kubernetes.io/kubelet-serving",
		"update certificatesigningrequests/approval.certificates.k8s.io",
	}
	if got := permissions(rules); !slices.Equal(got, want) {
		t.Errorf("the component grants %q, want %q", got, want)
	}
}

// controller-gen reads markers at file level alone, and silently ignores those in doc comments and function bodies.
func TestEveryMarkerIsInTheRole(t *testing.T) {
	granted := map[string]bool{}
	for _, object := range objects(t, "rbac/role.yaml") {
		for _, permission := range permissions(convert[rbacv1.ClusterRole](t, object).Rules) {
			granted[object.GetNamespace()+": "+permission] = true
		}
	}
	marker := regexp.MustCompile(`(?m)^\s*// \+kubebuilder:rbac:(\S+)$`)
	markers := 0
	for _, folder := range []string{"../controllers", "../cmd"} {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" {
				return err
			}
			content, err := os.ReadFile(path)
			for _, match := range marker.FindAllStringSubmatch(string(content), -1) {
				markers++
				namespace, rule := parseMarker(match[1])
				for _, permission := range permissions([]rbacv1.PolicyRule{rule}) {
					if !granted[namespace+": "+permission] {
						t.Errorf("%s: the marker %q is not in config/rbac/role.yaml: move it to file level and run make manifests",
							path, match[1])
						break
					}
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if markers == 0 {
		t.Error("no markers found")
	}
}

func parseMarker(marker string) (namespace string, rule rbacv1.PolicyRule) {
	for part := range strings.SplitSeq(marker, ",") {
		name, value, _ := strings.Cut(part, "=")
		values := strings.Split(strings.Trim(value, `"`), ";")
		switch name {
		case "groups":
			rule.APIGroups = values
		case "resources":
			rule.Resources = values
		case "resourceNames":
			rule.ResourceNames = values
		case "verbs":
			rule.Verbs = values
		case "namespace":
			namespace = value
		}
	}
	return namespace, rule
}

func TestDeployment(t *testing.T) {
	deployment := convert[appsv1.Deployment](t, objects(t, "manager/deployment.yaml")[0])
	pod := deployment.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
		t.Error("the pod may run as root")
	}
	for _, container := range pod.Containers {
		if s := container.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s may write to its file system", container.Name)
		}
		if container.Resources.Requests.Cpu().IsZero() || container.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s has no CPU request or memory limit", container.Name)
		}
		checkMemoryLimit(t, &container)
	}
}

// checkMemoryLimit checks that Go's runtime is told the container's memory limit: in bytes, which a divisor would change.
func checkMemoryLimit(t *testing.T, container *corev1.Container) {
	t.Helper()
	for _, variable := range container.Env {
		if variable.Name != "GOMEMLIMIT" {
			continue
		}
		from := variable.ValueFrom
		if from == nil || from.ResourceFieldRef == nil || from.ResourceFieldRef.Resource != "limits.memory" ||
			!from.ResourceFieldRef.Divisor.IsZero() {
			t.Errorf("container %s: GOMEMLIMIT is not the memory limit in bytes", container.Name)
		}
		return
	}
	t.Errorf("container %s does not know its memory limit: set GOMEMLIMIT", container.Name)
}

// soon is how long anything may take on a busy machine.
const soon = time.Minute

// What is shipped works as it is: everything is accepted, without a warning, and the manager may do what it needs and no more.
func TestOnAnAPIServer(t *testing.T) {
	c := cluster.StartForTest(t, cluster.Options{Log: t.Output()})
	kubectl := func(t *testing.T, args ...string) string {
		t.Helper()
		output, err := c.RunKubectl(t.Context(), "", append([]string{"--warnings-as-errors"}, args...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return output
	}
	// kubectl diff fails where there is a difference: what the API server fills in must be none, nor a value that it writes in
	// another way, or GitOps tools would apply it over and over. Argo CD compares as in the first pair, Flux as in the second.
	kubectl(t, "apply", "-k", "default")
	kubectl(t, "wait", "--for=condition=Established", "--timeout=2m", "crd", "--all")
	kubectl(t, "diff", "-k", "default")
	kubectl(t, "apply", "--server-side", "-k", "default")
	kubectl(t, "diff", "--server-side", "-k", "default")

	samples, err := filepath.Glob("samples/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, sample := range samples {
		t.Run(filepath.Base(sample), func(t *testing.T) {
			kubectl(t, "apply", "-f", sample)
			kubectl(t, "diff", "-f", sample)
			kubectl(t, "apply", "--server-side", "-f", sample)
			kubectl(t, "diff", "--server-side", "-f", sample)
		})
	}

	t.Run("documents", func(t *testing.T) { testDocuments(t, kubectl) })

	reviews, err := client.New(c.Config(), client.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	for user, may := range map[string]map[bool][]authorizationv1.ResourceAttributes{
		manager: managerMay(), kubeletReader: kubeletReaderMay(),
	} {
		for want, permissions := range may {
			for _, p := range permissions {
				if got := allowed(t, reviews, user, p); got != want {
					t.Errorf("permission of %s, %+v: %t, want %t", user, p, got, want)
				}
			}
		}
	}
	for component, grants := range componentGrants() {
		t.Run(component, func(t *testing.T) {
			for _, p := range grants {
				if allowed(t, reviews, manager, p) {
					t.Errorf("the manager may %+v before it was granted that", p)
				}
			}
			kubectl(t, "apply", "--server-side", "-k", "components/"+component)
			for _, p := range grants {
				// It takes a moment to be in force.
				granted := func(context.Context) (bool, error) { return allowed(t, reviews, manager, p), nil }
				if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, soon, true, granted); err != nil {
					t.Errorf("the manager may not %+v after it was granted that: %v", p, err)
				}
			}
		})
	}
	t.Run("components", func(t *testing.T) { testComponents(t, reviews, kubectl) })
	t.Run("monitoring", func(t *testing.T) { testMonitoring(t, kubectl, reviews) })
	t.Run("remove", func(t *testing.T) { kubectl(t, "delete", "--wait=false", "-k", "default") })
}

// testDocuments checks that the API server accepts every policy in the documents, and that one with the name of a sample says
// what the sample says, defaults included.
func testDocuments(t *testing.T, kubectl func(t *testing.T, args ...string) string) {
	t.Helper()
	specs := func(path string) map[string]any {
		specs := map[string]any{}
		output := kubectl(t, "create", "--dry-run=server", "--output=yaml", "--filename", path)
		for _, policy := range decode(t, path, []byte(output)) {
			specs[policy.GetName()] = policy.Object["spec"]
		}
		return specs
	}
	kubectl(t, "delete", "certificatepolicies", "--all")
	samples, err := filepath.Glob("samples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{}
	for _, sample := range samples {
		maps.Copy(want, specs(sample))
	}
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, document := range append(documents, "../README.md") {
		for i, policy := range policiesIn(t, document) {
			path := filepath.Join(t.TempDir(), fmt.Sprintf("%d.yaml", i))
			if err := os.WriteFile(path, policy, 0o600); err != nil {
				t.Fatal(err)
			}
			for name, got := range specs(path) {
				if want[name] == nil {
					continue
				}
				compared++
				if diff := cmp.Diff(want[name], got); diff != "" {
					t.Errorf("the policy %s of the samples (-) and of %s (+):\n%s", name, document, diff)
				}
			}
		}
	}
	if compared == 0 {
		t.Error("no document has a policy of the samples")
	}
}

// policiesIn are the blocks of a document that are whole policies.
func policiesIn(t *testing.T, document string) [][]byte {
	t.Helper()
	var policies [][]byte
	for _, block := range strings.Split(string(read(t, document)), "\n```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "\n```")
		if strings.HasPrefix(text, "apiVersion: notafter.dev/v1alpha1\nkind: CertificatePolicy\n") {
			policies = append(policies, []byte(text+"\n"))
		}
	}
	return policies
}

// testMonitoring installs what docs/monitoring.md says, where the Prometheus Operator's own schemas are.
func testMonitoring(t *testing.T, kubectl func(t *testing.T, args ...string) string, reviews client.Client) {
	t.Helper()
	definitions, err := prometheus.OperatorCRDs(t.Context(), "servicemonitors", "prometheusrules")
	if err != nil {
		t.Fatal(err)
	}
	for _, definition := range definitions {
		kubectl(t, "apply", "--server-side", "-f", definition)
	}
	kubectl(t, "wait", "--for=condition=Established", "--timeout=2m", "crd", "--all")
	for _, kind := range []string{"ServiceMonitor", "PrometheusRule"} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: kind + "List"})
		served := func(ctx context.Context) (bool, error) { return reviews.List(ctx, list) == nil, nil } // it takes a moment
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, soon, true, served); err != nil {
			t.Fatalf("%s is not served: %v", kind, err)
		}
	}
	kubectl(t, "apply", "--server-side", "-k", "testdata/monitoring")
	for _, object := range []string{
		"servicemonitor/notafter-metrics", "prometheusrule/notafter", "secret/notafter-scraper", "configmap/notafter-dashboard",
	} {
		kubectl(t, "get", "-n", "notafter-system", object)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:                  "system:serviceaccount:notafter-system:notafter-scraper",
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"},
	}}
	granted := func(ctx context.Context) (bool, error) { // it takes a moment to be in force
		err := reviews.Create(ctx, review)
		return review.Status.Allowed, err
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, soon, true, granted); err != nil {
		t.Errorf("the scraper may not read metrics: %v, %v", review.Status, err)
	}
}

// allowed says whether the service account may do that.
func allowed(t *testing.T, reviews client.Client, user string, p authorizationv1.ResourceAttributes) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{"system:serviceaccounts", "system:authenticated"}, ResourceAttributes: &p,
	}}
	if err := reviews.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// componentGrants is what each of the opt-in components lets the manager do, besides.
func componentGrants() map[string][]authorizationv1.ResourceAttributes {
	const certificates = "certificates.k8s.io"
	return map[string][]authorizationv1.ResourceAttributes{
		"bootstrap-tokens": {{Verb: "list", Resource: "secrets", Namespace: "kube-system"}},
		"approval": {
			{Verb: "update", Group: certificates, Resource: "certificatesigningrequests", Subresource: "approval"},
			{Verb: "approve", Group: certificates, Resource: "signers", Name: "kubernetes.io/kubelet-serving"},
		},
	}
}

// kubeletReaderMay is like managerMay, for whom kubelets are asked as.
func kubeletReaderMay() map[bool][]authorizationv1.ResourceAttributes {
	return map[bool][]authorizationv1.ResourceAttributes{
		true: {
			{Verb: "get", Resource: "nodes", Subresource: "metrics", Name: "any"},
			{Verb: "get", Resource: "nodes", Subresource: "configz", Name: "any"},
		},
		false: {
			{Verb: "get", Resource: "nodes", Subresource: "proxy", Name: "any"},
			{Verb: "get", Resource: "nodes", Name: "any"},
			{Verb: "create", Resource: "nodes", Subresource: "metrics", Name: "any"},
			{Verb: "watch", Group: "notafter.dev", Resource: "certificatepolicies"},
			{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "notafter-system",
				Name: "notafter-kubelet-reader"},
		},
	}
}

// managerMay returns what the manager may do, under true, and what it must not, under false.
func managerMay() map[bool][]authorizationv1.ResourceAttributes {
	const own, certificates = "notafter.dev", "certificates.k8s.io"
	return map[bool][]authorizationv1.ResourceAttributes{
		true: {
			{Verb: "watch", Resource: "nodes"},
			{Verb: "watch", Group: "apps", Resource: "daemonsets"},
			{Verb: "list", Group: "apps", Resource: "deployments"},
			{Verb: "list", Group: "apps", Resource: "statefulsets"},
			{Verb: "watch", Group: certificates, Resource: "certificatesigningrequests"},
			{Verb: "watch", Group: own, Resource: "certificatepolicies"},
			{Verb: "update", Group: own, Resource: "certificatepolicies", Subresource: "status"},
			{Verb: "create", Group: own, Resource: "nodecertificates"},
			{Verb: "update", Group: own, Resource: "nodecertificates", Subresource: "status"},
			{Verb: "watch", Resource: "configmaps", Namespace: "kube-system", Name: "kube-root-ca.crt"},
			{Verb: "create", Group: "events.k8s.io", Resource: "events", Namespace: "default"},
			{Verb: "create", Group: "coordination.k8s.io", Resource: "leases", Namespace: "notafter-system"},
			{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "notafter-system", Name: "notafter.dev"},
			{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "notafter-system",
				Name: "notafter-kubelet-reader"},
			{Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"},
			{Verb: "create", Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
		},
		false: {
			{Verb: "get", Resource: "secrets", Namespace: "kube-system"},
			{Verb: "watch", Resource: "configmaps", Namespace: "kube-system", Name: "another"},
			{Verb: "get", Resource: "nodes", Subresource: "proxy"},
			{Verb: "get", Resource: "nodes", Subresource: "metrics"},
			{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "notafter-system",
				Name: "notafter-controller-manager"},
			{Verb: "update", Resource: "nodes"},
			{Verb: "update", Group: own, Resource: "certificatepolicies"},
			{Verb: "update", Group: certificates, Resource: "certificatesigningrequests", Subresource: "approval"},
			{Verb: "approve", Group: certificates, Resource: "signers", Name: "kubernetes.io/kubelet-serving"},
			{Verb: "create", Group: "events.k8s.io", Resource: "events", Namespace: "kube-system"},
			{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"},
		},
	}
}

// The image is named once for each way to install, so that one change is enough.
func TestImageIsNamedOnce(t *testing.T) {
	found := map[string]int{}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		content, err := os.ReadFile(path)
		if n := strings.Count(string(content), "ghcr.io/"); n > 0 {
			found[path] = n
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"manager/kustomization.yaml": 1, "chart/values.yaml": 1}; !maps.Equal(found, want) {
		t.Errorf("the image is named in %v, want %v", found, want)
	}
}
