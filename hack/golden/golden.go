// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package golden keeps objects that controllers wrote in files: the suites of the controllers record them, and tests that
// need such objects but no controller read them. With UPDATE=1 in the environment the files are written anew.
package golden

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// updateEnv names the environment variable with which the files are written instead of compared.
const updateEnv = "UPDATE"

// passing is what differs from run to run, and what stands for it in the files.
var passing = []struct {
	pattern     *regexp.Regexp
	replacement string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "2026-01-01T00:00:00Z"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "0000000000000000000000000000000000000000000000000000000000000000"},
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "00000000-0000-0000-0000-000000000000"},
	{regexp.MustCompile(`\b127\.\d+\.\d+\.\d+\b`), "127.0.0.1"},
	{regexp.MustCompile(`serialNumber: .*`), "serialNumber: 1f"},
	{regexp.MustCompile(`\b(csr|node-csr)-[-_0-9A-Za-z]+`), "$1-a"},
}

// Compare compares the object with the one in the file, but for what differs from run to run: times, keys, addresses. The
// error shows the difference and says how to update the file.
func Compare(path string, object *unstructured.Unstructured) error {
	text, err := marshal(object)
	if err != nil {
		return fmt.Errorf("golden object %s: %w", path, err)
	}
	if os.Getenv(updateEnv) != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("golden object %s: %w", path, err)
		}
		return os.WriteFile(path, text, 0o644)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("golden object: run the test with %s=1 to record it: %w", updateEnv, err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		return fmt.Errorf("%s is not what was written (+); if that is right, run the test with %s=1:\n%s", path, updateEnv, diff)
	}
	return nil
}

// marshal writes the object without what the API server adds for itself.
func marshal(object *unstructured.Unstructured) ([]byte, error) {
	object = object.DeepCopy()
	object.SetManagedFields(nil)
	object.SetResourceVersion("")
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		return nil, err
	}
	for _, p := range passing {
		text = p.pattern.ReplaceAll(text, []byte(p.replacement))
	}
	return text, nil
}

// Read reads the objects in the files of a folder, by file name without extension.
func Read(dir string) (map[string]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	objects := map[string]*unstructured.Unstructured{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("golden object: %w", err)
		}
		// JSON gives whole numbers the type int64, as a client gets them from an API server.
		data, err := yaml.YAMLToJSON(bytes.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("golden object %s: %w", file, err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(data); err != nil {
			return nil, fmt.Errorf("golden object %s: %w", file, err)
		}
		name := filepath.Base(file)
		objects[name[:len(name)-len(filepath.Ext(name))]] = object
	}
	return objects, nil
}
