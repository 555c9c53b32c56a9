// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// anyKey stands for the keys of a map in the path of a constraint, as [] stands for the indexes of a list.
const anyKey = "tier"

// builtIn are the constraints of OpenAPI, each with what the API server says when one is violated.
var builtIn = map[string]string{
	"enum":          "Unsupported value",
	"maxItems":      "Too many",
	"maxLength":     "Too long",
	"maxProperties": "Too many",
	"maximum":       "should be less than or equal to",
	"minItems":      "should have at least",
	"minLength":     "should be at least",
	"minimum":       "should be greater than or equal to",
	"pattern":       "should match",
	"required":      "Required value",
}

// Every constraint of the CRDs has a case: one that is added, or changed in its kind, without one fails here.
func TestEveryConstraintHasACase(t *testing.T) {
	for file, fields := range map[string][]field{
		"notafter.dev_certificatepolicies.yaml": slices.Concat(specFields, policyStatusFields),
		"notafter.dev_nodecertificates.yaml":    nodeStatusFields,
	} {
		covered := map[string]bool{}
		for _, f := range fields {
			for constraint := range f.refused {
				covered[schemaPath(f.path)+": "+constraint] = true
			}
		}
		declared := constraintsOf(t, filepath.Join(crds, file))
		for _, constraint := range slices.Sorted(maps.Keys(declared)) {
			if !covered[constraint] {
				t.Errorf("%s: no test refuses a violation of %q", file, constraint)
			}
		}
		for _, constraint := range slices.Sorted(maps.Keys(covered)) {
			if !declared[constraint] {
				t.Errorf("%s: a test expects %q, which it does not declare", file, constraint)
			}
		}
	}
}

// schemaPath turns the path of a value into that of its schema.
func schemaPath(path string) string {
	return regexp.MustCompile(`\[\d+\]`).ReplaceAllString(path, "[]")
}

// constraintsOf returns the constraints of a CRD's spec and status, each as "path: constraint". That of a CEL rule is its
// message.
func constraintsOf(t *testing.T, path string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &crd); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	root := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	for _, part := range []string{"spec", "status"} {
		if schema, ok := root.Properties[part]; ok {
			collect(&schema, part, found)
		}
	}
	return found
}

func collect(schema *apiextensionsv1.JSONSchemaProps, path string, found map[string]bool) {
	for name, present := range map[string]bool{
		"enum":          schema.Enum != nil,
		"maxItems":      schema.MaxItems != nil,
		"maxLength":     schema.MaxLength != nil,
		"maxProperties": schema.MaxProperties != nil,
		"maximum":       schema.Maximum != nil,
		"minItems":      schema.MinItems != nil && *schema.MinItems > 0,
		"minLength":     schema.MinLength != nil && *schema.MinLength > 0,
		"minimum":       schema.Minimum != nil,
		"pattern":       schema.Pattern != "",
	} {
		if present {
			found[path+": "+name] = true
		}
	}
	for _, rule := range schema.XValidations {
		found[path+": "+rule.Message] = true
	}
	for _, name := range schema.Required {
		found[path+"."+name+": required"] = true
	}
	if strings.HasSuffix(path, ".conditions") {
		return // Kubernetes' own type, and its own tests
	}
	for name := range schema.Properties {
		property := schema.Properties[name]
		collect(&property, path+"."+name, found)
	}
	if schema.Items != nil {
		collect(schema.Items.Schema, path+"[]", found)
	}
	if schema.AdditionalProperties != nil {
		collect(schema.AdditionalProperties.Schema, path+"."+anyKey, found)
	}
}

// set returns a copy of the object with the value at the path, or with nothing there where the value is missing.
func set(object map[string]any, path string, value any) (map[string]any, error) {
	changed, err := change(object, segments(path), value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return changed.(map[string]any), nil
}

// segments splits a path into keys and, as numbers, indexes.
func segments(path string) []any {
	var parts []any
	for _, match := range regexp.MustCompile(`[^.\[\]]+`).FindAllString(path, -1) {
		if index, err := strconv.Atoi(match); err == nil {
			parts = append(parts, index)
		} else {
			parts = append(parts, match)
		}
	}
	return parts
}

func change(in any, path []any, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	switch in := in.(type) {
	case map[string]any:
		key, out := path[0].(string), maps.Clone(in)
		if len(path) == 1 && value == missing {
			delete(out, key)
			return out, nil
		}
		changed, err := change(in[key], path[1:], value)
		out[key] = changed
		return out, err
	case []any:
		index, out := path[0].(int), slices.Clone(in)
		if index >= len(out) {
			return nil, fmt.Errorf("no index %d", index)
		}
		changed, err := change(in[index], path[1:], value)
		out[index] = changed
		return out, err
	default:
		return nil, fmt.Errorf("%v is not in the valid object", path[0])
	}
}
