// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command chart writes those templates of the Helm chart that follow from the kustomizations, so that there is one source of
// both. The Deployment has values, and is written by hand; a test compares what Helm and kustomize make of it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	cache     = ".cache"
	templates = "config/chart/templates"
	namespace = "notafter-system"
	manager   = "notafter-controller-manager"
)

// components are the folders of config/components that are in the chart, and the value that switches each on.
var components = []component{
	{folder: "approval", value: "approval.enabled"},
	{folder: "bootstrap-tokens", value: "bootstrapTokens.enabled"},
	{folder: "grafana", value: "grafana.enabled"},
	{folder: "network-policy", value: "networkPolicy.enabled"},
	{folder: "pod-disruption-budget", value: "podDisruptionBudget.enabled"},
	{folder: "priority-class", value: "priorityClass.enabled"},
	{folder: "prometheus", value: "prometheus.enabled"},
	{folder: "topology-spread", value: "topologySpread.enabled"},
}

type component struct{ folder, value string }

// objects are by kind, namespace and name, in kustomize's order.
type objects struct {
	keys  []string
	byKey map[string]*unstructured.Unstructured
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	base, err := build(ctx, "")
	if err != nil {
		return err
	}
	files := map[string][]*unstructured.Unstructured{}
	for _, key := range base.keys {
		object := base.byKey[key]
		switch object.GetKind() {
		case "Namespace", "Deployment":
			// Helm makes the one, and deployment.yaml is the other.
		case "CustomResourceDefinition":
			files["crds"] = append(files["crds"], object)
		case "Service":
			files["service"] = append(files["service"], object)
		default:
			files["rbac"] = append(files["rbac"], object)
		}
	}
	for file, list := range files {
		value := ""
		if file == "crds" {
			value = "crds.install"
		}
		if err := write(file, value, list); err != nil {
			return err
		}
	}
	for _, c := range components {
		with, err := build(ctx, c.folder)
		if err != nil {
			return err
		}
		added, err := with.beyond(base)
		if err != nil {
			return fmt.Errorf("component %s: %w", c.folder, err)
		}
		if err := write(c.folder, c.value, added); err != nil {
			return err
		}
	}
	return writeReadme()
}

// build runs kustomize over config/default and a component, if it is named.
func build(ctx context.Context, folder string) (built *objects, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(cache, "chart-") // kustomize takes relative paths only
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	kustomization := "resources: [../../config/default]\n"
	if folder != "" {
		kustomization += "components: [../../config/components/" + folder + "]\n"
	}
	if err := os.WriteFile(filepath.Join(scratch, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		return nil, err
	}
	kustomize, err := exec.CommandContext(ctx, "hack/tools/install.sh", "kustomize").Output()
	if err != nil {
		return nil, fmt.Errorf("building kustomize: %w", err)
	}
	command := exec.CommandContext(ctx, strings.TrimSpace(string(kustomize)), "build", scratch)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("kustomize build: %w", err)
	}
	return parse(output)
}

func parse(manifests []byte) (*objects, error) {
	all := &objects{byKey: map[string]*unstructured.Unstructured{}}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("reading what kustomize built: %w", err)
		}
		key := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		all.keys = append(all.keys, key)
		all.byKey[key] = object
	}
}

// beyond returns what a component adds. It may change the Deployment too: deployment.yaml has to do the same.
func (o *objects) beyond(base *objects) ([]*unstructured.Unstructured, error) {
	var added []*unstructured.Unstructured
	for _, key := range o.keys {
		was, found := base.byKey[key]
		switch {
		case !found:
			added = append(added, o.byKey[key])
		case !reflect.DeepEqual(was.Object, o.byKey[key].Object) && was.GetKind() != "Deployment":
			return nil, fmt.Errorf("it changes %s: in the chart it can only add objects and change the Deployment", key)
		}
	}
	return added, nil
}

// Where a line of a template is not YAML, the object has one of these in the line's place.
const (
	labelsMark      = "zz-labels"
	keepMark        = "zz-keep"
	annotationsMark = "zz-annotations"
	selectMark      = "zz-select"
	tlsMark         = "zz-tls"
)

// replaced are the lines that stand in a template for those with a mark.
var replaced = strings.NewReplacer(
	"{{", `{{ "{{" }}`,
	namespace, "{{ .Release.Namespace }}",
	"    "+labelsMark+`: ""`, `    {{- include "notafter.labels" . | nindent 4 }}`,
	"    "+keepMark+`: ""`, "    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}",
	"  annotations:\n    "+annotationsMark+`: ""`,
	"  {{- with .Values.serviceAccount.annotations }}\n  annotations:\n    {{- toYaml . | nindent 4 }}\n  {{- end }}",
	"    "+selectMark+`: ""`, "    {{- with .Values.prometheus.labels }}\n    {{- toYaml . | nindent 4 }}\n    {{- end }}",
	"      "+tlsMark+`: ""`, `      {{- with .Values.metrics.certificateSecret }}
      ca:
        secret:
          key: ca.crt
          name: {{ . }}
      serverName: notafter-metrics.{{ $.Release.Namespace }}.svc
      {{- else }}
      insecureSkipVerify: true
      {{- end }}`,
)

// write writes a template of the objects, which are there if the value is true.
func write(file, value string, list []*unstructured.Unstructured) error {
	if len(list) == 0 {
		return nil // it changes the Deployment only
	}
	var out strings.Builder
	out.WriteString("{{- /* Generated by make manifests from the kustomizations. DO NOT EDIT. */ -}}\n")
	if value != "" {
		fmt.Fprintf(&out, "{{- if .Values.%s }}\n", value)
	}
	for _, object := range list {
		text, err := template(object)
		if err != nil {
			return err
		}
		out.WriteString("---\n" + text)
	}
	if value != "" {
		out.WriteString("{{- end }}\n")
	}
	return os.WriteFile(filepath.Join(templates, file+".yaml"), []byte(out.String()), 0o644)
}

func template(object *unstructured.Unstructured) (string, error) {
	object = object.DeepCopy()
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelsMark] = ""
	switch object.GetKind() {
	case "CustomResourceDefinition":
		annotations := object.GetAnnotations()
		annotations[keepMark] = ""
		object.SetAnnotations(annotations)
	case "ServiceAccount":
		if object.GetName() == manager {
			object.SetAnnotations(map[string]string{annotationsMark: ""})
		}
	case "PrometheusRule":
		labels[selectMark] = ""
	case "ServiceMonitor":
		labels[selectMark] = ""
		if err := markTLS(object); err != nil {
			return "", err
		}
	}
	object.SetLabels(labels)
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		return "", err
	}
	return replaced.Replace(string(text)), nil
}

// markTLS puts a mark into the place of what a ServiceMonitor says of the endpoint's certificate.
func markTLS(object *unstructured.Unstructured) error {
	endpoints, _, err := unstructured.NestedSlice(object.Object, "spec", "endpoints")
	if err != nil {
		return err
	}
	for _, endpoint := range endpoints {
		unverified := map[string]any{"insecureSkipVerify": true}
		if settings, _ := endpoint.(map[string]any); reflect.DeepEqual(settings["tlsConfig"], unverified) {
			settings["tlsConfig"] = map[string]any{tlsMark: ""}
			continue
		}
		return fmt.Errorf("ServiceMonitor %s: the template knows another tlsConfig than that of %v", object.GetName(), endpoint)
	}
	return unstructured.SetNestedSlice(object.Object, endpoints, "spec", "endpoints")
}
