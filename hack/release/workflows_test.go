// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"io/fs"
	"maps"
	"path"
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
	Steps       []step
}

type step struct {
	Uses, Run string
	With      map[string]any
}

var (
	target = regexp.MustCompile(`\bmake ([a-z0-9-]+)`)
	// action is a line that uses one. A tag can be moved, a commit cannot.
	action = regexp.MustCompile(`^ +(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
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
			for line := range strings.Lines(string(read(t, file))) {
				if line = strings.TrimSuffix(line, "\n"); strings.Contains(line, "uses:") && !action.MatchString(line) {
					t.Errorf("%q is not pinned to a commit, with the version as comment", line)
				}
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

// The end-to-end tests need root, which .ci/run does not have on GitHub.
func TestEndToEndTestsRunAsRoot(t *testing.T) {
	var w workflow
	if err := yaml.Unmarshal(read(t, root+"/.github/workflows/ci.yaml"), &w); err != nil {
		t.Fatal(err)
	}
	var asRoot []string
	for _, step := range w.Jobs["e2e"].Steps {
		if command, found := strings.CutPrefix(step.Run, `sudo -E env "PATH=$PATH" `); found {
			asRoot = append(asRoot, command)
		}
	}
	if want := []string{"hack/e2e/prerequisites.sh install", "make e2e"}; !slices.Equal(asRoot, want) {
		t.Errorf("as root, the job e2e runs %q, want %q", asRoot, want)
	}
}

// What is in the registry can be traced to what built it, like the files of the release.
func TestImageIsAttested(t *testing.T) {
	var w workflow
	if err := yaml.Unmarshal(read(t, root+"/.github/workflows/release.yaml"), &w); err != nil {
		t.Fatal(err)
	}
	attested := slices.ContainsFunc(w.Jobs["publish"].Steps, func(s step) bool {
		return strings.HasPrefix(s.Uses, "actions/attest-build-provenance@") && s.With["push-to-registry"] == true &&
			s.With["subject-digest"] == "${{ steps.image.outputs.digest }}"
	})
	if !attested {
		t.Error("the image that it pushes is not attested")
	}
}

// Every module, and whatever else is pinned, is looked after.
func TestDependabotKnowsEveryModule(t *testing.T) {
	var config struct {
		Updates []struct {
			Ecosystem   string `json:"package-ecosystem"`
			Directory   string
			Directories []string
		}
	}
	if err := yaml.Unmarshal(read(t, root+"/.github/dependabot.yml"), &config); err != nil {
		t.Fatal(err)
	}
	watched := map[string][]string{}
	for _, update := range config.Updates {
		watched[update.Ecosystem] = append(update.Directories, update.Directory)
	}
	for _, ecosystem := range []string{"docker", "github-actions"} {
		if !slices.Contains(watched[ecosystem], "/") {
			t.Errorf("nothing looks after %s", ecosystem)
		}
	}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".cache":
			return filepath.SkipDir
		case entry.Name() != "go.mod":
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		folder = path.Join("/", filepath.ToSlash(folder))
		if !slices.ContainsFunc(watched["gomod"], func(pattern string) bool {
			matches, err := path.Match(pattern, folder)
			return err == nil && matches
		}) {
			t.Errorf("nothing looks after the module in %s", folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (j job) check(t *testing.T) {
	t.Helper()
	if j.Timeout == 0 {
		t.Error("it may run for six hours: want timeout-minutes")
	}
	makefile := string(read(t, root+"/Makefile"))
	for _, step := range j.Steps {
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
