// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type workflow struct {
	Permissions map[string]string
	Jobs        map[string]job
}

type job struct {
	Timeout     int `json:"timeout-minutes"`
	Permissions map[string]string
	Steps       []struct {
		Uses, Run string
		With      map[string]any
	}
}

var (
	target = regexp.MustCompile(`\bmake ([a-z0-9-]+)`)
	action = regexp.MustCompile(`^[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})$`)
)

// Workflows run what anybody can run, and may do no more than they need.
func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob(root + "/.github/workflows/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var w workflow
			if err := yaml.Unmarshal(read(t, file), &w); err != nil {
				t.Fatal(err)
			}
			if w.Permissions == nil || slices.Contains(slices.Collect(maps.Values(w.Permissions)), "write") {
				t.Errorf("every job has permissions %v: grant each what it needs", w.Permissions)
			}
			for name, j := range w.Jobs {
				t.Run(name, func(t *testing.T) { j.check(t) })
			}
		})
	}
}

func (j job) check(t *testing.T) {
	t.Helper()
	if j.Timeout == 0 {
		t.Error("it may run for six hours: want timeout-minutes")
	}
	makefile := string(read(t, root+"/Makefile"))
	for _, step := range j.Steps {
		if step.Uses != "" && !action.MatchString(step.Uses) {
			t.Errorf("it uses %s, which is not pinned", step.Uses)
		}
		if strings.HasPrefix(step.Uses, "actions/checkout@") {
			if step.With["persist-credentials"] != false {
				t.Error("it leaves its token to everything that it runs")
			}
			if slices.Contains(slices.Collect(maps.Values(j.Permissions)), "write") {
				t.Errorf("it runs the repository's code, with permissions %v", j.Permissions)
			}
		}
		for _, match := range target.FindAllStringSubmatch(step.Run, -1) {
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("it runs make %s, which is not there", match[1])
			}
		}
	}
}
