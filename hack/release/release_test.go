// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package release tests the scripts of this folder by what they build.
package release

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

const (
	root     = "../.."
	name     = "ghcr.io/notafter/notafter"
	version  = "v1.2.3-test"
	revision = "0123456789abcdef0123456789abcdef01234567"
	epoch    = "1700000000"
)

// A release depends on the source alone: not on the folder, the files' times and modes, nor on what else a machine is set to.
// $PLATFORMS makes it that of several platforms, which takes minutes where nothing was built for them yet.
func TestReleaseIsReproducible(t *testing.T) {
	first := release(t, "umask 022", "TZ=UTC")
	second := release(t, "umask 077", "TZ=Asia/Tokyo", "LC_ALL=C", "GOFLAGS=-tags=other", "GOAMD64=v3", "GOARM64=v8.1")
	files := listing(t, first)
	if diff := gocmp.Diff(files, listing(t, second)); diff != "" {
		t.Errorf("the files of two releases (-first +second):\n%s", diff)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(read(t, filepath.Join(first, "SHA256SUMS")))) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[file] = sum
	}
	delete(files, "SHA256SUMS")
	if diff := gocmp.Diff(files, sums); diff != "" {
		t.Errorf("SHA256SUMS (-want +got):\n%s", diff)
	}
	image := filepath.Join(first, "notafter-"+version+"-image")
	t.Run("image", func(t *testing.T) { imageRuns(t, image+".tar") })
	t.Run("bill of materials", func(t *testing.T) { materialsAreListed(t, image+"-linux-"+runtime.GOARCH+".cdx.json") })
	t.Run("manifests", func(t *testing.T) {
		if manifests := read(t, filepath.Join(first, "install.yaml")); bytes.Count(manifests, []byte("image: "+name+":"+version+"\n")) != 1 {
			t.Errorf("install.yaml does not run the image once")
		}
	})
	t.Run("chart", func(t *testing.T) { chartIsVersioned(t, filepath.Join(first, "notafter-"+version[1:]+".tgz")) })
}

// release makes a release from a copy of the source, and returns the folder that it is in.
func release(t *testing.T, before string, env ...string) string {
	t.Helper()
	source, output := t.TempDir(), filepath.Join(t.TempDir(), "release")
	for _, folder := range []string{"api", "cmd", "config", "controllers", "hack/release", "hack/tools"} {
		if err := os.CopyFS(filepath.Join(source, folder), os.DirFS(filepath.Join(root, folder))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(source, file), read(t, filepath.Join(root, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The tools are built once for all.
	tools, err := filepath.Abs(filepath.Join(root, ".cache/tools"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(tools, 0o755), os.Mkdir(filepath.Join(source, ".cache"), 0o755),
		os.Symlink(tools, filepath.Join(source, ".cache/tools"))); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "bash", "-c", before+` && exec hack/release/release.sh "$0"`, output)
	command.Dir = source
	command.Env = append(append(os.Environ(), "VERSION="+version, "REVISION="+revision, "SOURCE_DATE_EPOCH="+epoch,
		"IMAGE="+name+":"+version, "PLATFORMS="+cmp.Or(os.Getenv("PLATFORMS"), "linux/"+runtime.GOARCH)), env...)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("hack/release/release.sh: %v\n%s", err, out)
	}
	return output
}

// listing returns the checksums of the files in the folder.
func listing(t *testing.T, folder string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		sum := sha256.Sum256(read(t, filepath.Join(folder, entry.Name())))
		files[entry.Name()] = hex.EncodeToString(sum[:])
	}
	return files
}

func chartIsVersioned(t *testing.T, path string) {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for reader := tar.NewReader(unzipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(content)
	}
	for _, line := range []string{"version: " + version[1:], "appVersion: " + version} {
		if !strings.Contains("\n"+files["notafter/Chart.yaml"], "\n"+line+"\n") {
			t.Errorf("Chart.yaml does not say %s:\n%s", line, files["notafter/Chart.yaml"])
		}
	}
	for _, file := range []string{"values.yaml", "values.schema.json", "README.md", "templates/crds.yaml", "templates/deployment.yaml"} {
		if files["notafter/"+file] == "" {
			t.Errorf("the chart has no %s", file)
		}
	}
}

func TestVersion(t *testing.T) {
	const changelog = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-12-01\n\n- New.\n\n## [1.2.2] - 2026-11-01\n\n- Old.\n"
	const kustomization = "images:\n  - name: notafter\n    newTag: v1.2.3\n"
	const chart = "version: 1.2.3\nappVersion: v1.2.3\n"
	tests := []struct {
		name                            string
		changelog, kustomization, chart string
		tag                             string
		want                            string
	}{
		{name: "all agree", want: "v1.2.3\n"},
		{name: "with its tag", tag: "v1.2.3", want: "v1.2.3\n"},
		{name: "another tag", tag: "v1.2.4", want: "the tag is v1.2.4, CHANGELOG.md names v1.2.3"},
		{name: "never released", changelog: "## [Unreleased]\n\n- New.\n", want: "CHANGELOG.md names no version"},
		{name: "unreleased changes", changelog: strings.Replace(changelog, "[Unreleased]\n", "[Unreleased]\n\n- Newer.\n", 1),
			want: "CHANGELOG.md has 1 changes under Unreleased"},
		{name: "manifests", kustomization: "    newTag: v1.2.2\n", want: "config/manager/kustomization.yaml names v1.2.2"},
		{name: "chart", chart: "version: 1.2.2\nappVersion: v1.2.3\n", want: "config/chart/Chart.yaml has version 1.2.2"},
		{name: "chart's app", chart: "version: 1.2.3\nappVersion: v1.2.2\n", want: "config/chart/Chart.yaml has appVersion v1.2.2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			for file, content := range map[string]string{
				"CHANGELOG.md":                      cmp.Or(test.changelog, changelog),
				"config/manager/kustomization.yaml": cmp.Or(test.kustomization, kustomization),
				"config/chart/Chart.yaml":           cmp.Or(test.chart, chart),
				"hack/release/version.sh":           string(read(t, "version.sh")),
			} {
				path := filepath.Join(folder, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			command := exec.CommandContext(t.Context(), "bash", filepath.Join(folder, "hack/release/version.sh"))
			command.Env = append(os.Environ(), "GITHUB_REF_TYPE=", "GITHUB_REF_NAME=")
			if test.tag != "" {
				command.Env = append(command.Env, "GITHUB_REF_TYPE=tag", "GITHUB_REF_NAME="+test.tag)
			}
			out, err := command.CombinedOutput()
			if refused := strings.Contains(string(out), "hack/release/version.sh:"); refused != (err != nil) || !strings.Contains(string(out), test.want) {
				t.Errorf("%q (%v), want %q", out, err, test.want)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode(t *testing.T, content []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
}
