// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package argocd tests what teaches Argo CD the health of notafter's kinds.
package argocd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/golden"
)

// Argo CD's words for health.
const (
	healthy     = "Healthy"
	progressing = "Progressing"
	degraded    = "Degraded"
)

// meaning is what Argo CD should make of what kstatus says. Of an object that is being deleted it says Progressing by itself,
// without asking the script.
var meaning = map[status.Status]string{
	status.CurrentStatus: healthy, status.InProgressStatus: progressing, status.FailedStatus: degraded,
}

// health is what a script returns.
type health struct{ status, message string }

// scripts are the health checks in the ConfigMap, by kind.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("argocd-cm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var configMap corev1.ConfigMap
	if err := yaml.UnmarshalStrict(text, &configMap); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for key, script := range configMap.Data {
		kind, ok := strings.CutPrefix(key, "resource.customizations.health.notafter.dev_")
		if !ok {
			t.Errorf("argocd-cm.yaml: unexpected key %q", key)
		}
		found[kind] = script
	}
	return found
}

// run runs a health check under the limits of Argo CD (its util/lua): of Lua's libraries there are package, base, table and
// a part of os. It has a second there, and here what a busy machine may take.
func run(ctx context.Context, script string, object *unstructured.Unstructured) (health, error) {
	vm := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer vm.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		if err := vm.CallByParam(lua.P{Fn: vm.NewFunction(library.open), Protect: true}, lua.LString(library.name)); err != nil {
			return health{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	vm.SetContext(ctx)
	vm.SetGlobal("obj", luaValue(vm, object.Object))
	if err := vm.DoString(script); err != nil {
		return health{}, err
	}
	result, ok := vm.Get(-1).(*lua.LTable)
	if !ok {
		return health{}, fmt.Errorf("the script returned a %s, want a table", vm.Get(-1).Type())
	}
	return health{lua.LVAsString(result.RawGetString("status")), lua.LVAsString(result.RawGetString("message"))}, nil
}

// luaValue is a value of an object as a script sees it.
func luaValue(vm *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case json.Number:
		return lua.LString(value)
	case []any:
		list := vm.CreateTable(len(value), 0)
		for _, item := range value {
			list.Append(luaValue(vm, item))
		}
		return list
	case map[string]any:
		table := vm.CreateTable(0, len(value))
		for key, item := range value {
			table.RawSetString(key, luaValue(vm, item))
		}
		return table
	default:
		return lua.LNil
	}
}

// The states are those that the suites of the controllers recorded. Argo CD and Flux are of one mind about each.
func TestHealthOfEveryState(t *testing.T) {
	for kind, states := range map[string]map[string]health{
		"CertificatePolicy": {
			"unseen":       {progressing, "Waiting for notafter to evaluate the policy"},
			"changed":      {progressing, "Waiting for notafter to evaluate the policy"},
			"reconciling":  {progressing, "TrustBundleUnavailable: "},
			"stalled":      {degraded, "InvalidSpec: spec.nodes.selector.matchLabels: "},
			"compliant":    {healthy, "Compliant True, AsExpected: "},
			"rotation-due": {healthy, "Compliant True, AsExpected: "},
			"overdue":      {healthy, "Compliant False, RotationOverdue: "},
			"expired":      {healthy, "Compliant False, Expired: "},
			"unreachable":  {healthy, "Compliant Unknown, ProbeFailed: "},
			"no-nodes":     {healthy, "Compliant Unknown, NoNodesSelected: "},
			"deleted":      {healthy, "Compliant True, AsExpected: "},
		},
		"NodeCertificates": {
			"cluster-signed": {healthy, "Serving certificate: ClusterSigned"},
			"no-certificate": {healthy, "Serving certificate: None"},
			"unreachable":    {healthy, "Serving certificate: Unknown"},
			"deleted":        {healthy, "Serving certificate: ClusterSigned"},
		},
	} {
		script := scripts(t)[kind]
		objects, err := golden.Read(filepath.Join("testdata", strings.ToLower(kind)))
		if err != nil {
			t.Fatal(err)
		}
		for state := range objects {
			if _, found := states[state]; !found {
				t.Errorf("%s %s was recorded, and its health is not tested", kind, state)
			}
		}
		for state, want := range states {
			t.Run(kind+" "+state, func(t *testing.T) {
				object := objects[state]
				if object == nil {
					t.Fatalf("%s %s was not recorded", kind, state)
				}
				got, err := run(t.Context(), script, object)
				if err != nil {
					t.Fatal(err)
				}
				if got.status != want.status || !strings.HasPrefix(got.message, want.message) || got.message == "" {
					t.Errorf("health %q, want %q", got, want)
				}
				result, err := status.Compute(object)
				if err != nil {
					t.Fatal(err)
				}
				if result.Status != status.TerminatingStatus && meaning[result.Status] != got.status {
					t.Errorf("health %s, but kstatus says %s", got.status, result.Status)
				}
			})
		}
	}
}

// Whatever is in a status, or not, a script says something.
func TestHealthOfOddObjects(t *testing.T) {
	for name, object := range map[string]map[string]any{
		"no status":     {},
		"empty":         {"status": map[string]any{"observedGeneration": int64(1), "conditions": []any{}}},
		"no conditions": {"status": map[string]any{"observedGeneration": int64(1)}},
		"Ready alone": {"status": map[string]any{"observedGeneration": int64(1), "conditions": []any{
			map[string]any{"type": "Ready", "status": "True", "reason": "Evaluated", "message": "m"},
		}}},
		"not Ready": {"status": map[string]any{"observedGeneration": int64(1), "conditions": []any{
			map[string]any{"type": "Ready", "status": "False", "reason": "R", "message": "m"},
		}}},
	} {
		object["metadata"] = map[string]any{"name": "odd", "generation": int64(1)}
		for kind, script := range scripts(t) {
			got, err := run(t.Context(), script, &unstructured.Unstructured{Object: object})
			if err != nil {
				t.Errorf("%s, %s: %v", kind, name, err)
				continue
			}
			want := healthy
			if kind == "CertificatePolicy" && name != "Ready alone" {
				want = progressing
			}
			if got.status != want || got.message == "" {
				t.Errorf("%s, %s: health %q, want %s and a message", kind, name, got, want)
			}
		}
	}
}

// The component adds to the ConfigMap of an installation, in whatever namespace, and keeps what is there.
func TestComponent(t *testing.T) {
	found, err := binaries.Find(t.Context(), t.Output(), binaries.Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	component, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	// Kustomize takes relative paths only.
	dir := t.TempDir()
	if component, err = filepath.Rel(dir, component); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"kustomization.yaml": "resources: [cm.yaml]\ncomponents: [" + component + "]\n",
		"cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: argocd-cm, namespace: gitops}\n" +
			"data: {application.instanceLabelKey: example.com/app}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := exec.CommandContext(t.Context(), found[binaries.Kubectl], "kustomize", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var configMap corev1.ConfigMap
	if err := yaml.UnmarshalStrict(text, &configMap); err != nil {
		t.Fatal(err)
	}
	if configMap.Namespace != "gitops" || configMap.Data["application.instanceLabelKey"] != "example.com/app" {
		t.Errorf("the component changed what it should keep:\n%s", text)
	}
	for kind, script := range scripts(t) {
		if configMap.Data["resource.customizations.health.notafter.dev_"+kind] != script {
			t.Errorf("the health check of %s is missing:\n%s", kind, text)
		}
	}
}

// The guide shows the ConfigMap to copy.
func TestDocumented(t *testing.T) {
	shipped, err := os.ReadFile("argocd-cm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile(filepath.Join("..", "..", "docs", "gitops.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(guide), "```")
	if !slices.Contains(blocks, "yaml\n"+string(shipped)) {
		t.Error("docs/gitops.md does not show argocd-cm.yaml as it is")
	}
}
