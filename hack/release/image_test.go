// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// imageRuns checks that every image holds the manager and nothing else, linked so that it needs nothing else, and runs the one
// for this machine.
func imageRuns(t *testing.T, path string) {
	t.Helper()
	l := readLayout(t, path)
	ran := false
	for _, image := range l.images(t) {
		if len(image.manifest.Layers) != 1 {
			t.Fatalf("%d layers, want 1", len(image.manifest.Layers))
		}
		manager := onlyFile(t, l.blob(t, image.manifest.Layers[0]))
		binary, err := elf.NewFile(bytes.NewReader(manager))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("the manager needs %v (%v), and the image has no library", libraries, err)
		}
		if image.config.OS != runtime.GOOS || image.config.Architecture != runtime.GOARCH {
			continue
		}
		ran = true
		file := filepath.Join(t.TempDir(), "manager")
		if err := os.WriteFile(file, manager, 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), file, "--version").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != version {
			t.Errorf("manager --version: %q (%v), want %s", out, err, version)
		}
	}
	if !ran {
		t.Skip("no image is for this machine: none was run")
	}
}

// onlyFile returns the one file that a layer holds, the manager.
func onlyFile(t *testing.T, blob []byte) []byte {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	layer := tar.NewReader(unzipped)
	header, err := layer.Next()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{header.Name, header.Mode, header.Uid, header.Gid, header.ModTime.UTC()}
	if diff := cmp.Diff([]any{"manager", int64(0o755), 0, 0, time.Unix(1700000000, 0).UTC()}, got); diff != "" {
		t.Errorf("the file in the image (-want +got):\n%s", diff)
	}
	content, err := io.ReadAll(layer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more than the manager in the image (%v)", err)
	}
	return content
}

func materialsAreListed(t *testing.T, path string) {
	t.Helper()
	var materials struct {
		Format   string `json:"bomFormat"`
		Metadata struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	decode(t, read(t, path), &materials)
	if materials.Format != "CycloneDX" {
		t.Errorf("format %q, want CycloneDX", materials.Format)
	}
	main := materials.Metadata.Component
	if main.Name != "github.com/notafter/notafter" || main.Version != version {
		t.Errorf("it is of %s %s, want github.com/notafter/notafter %s", main.Name, main.Version, version)
	}
	listed := map[string]string{}
	for _, component := range materials.Components {
		listed[component.Name] = component.Version
	}
	modules := string(read(t, filepath.Join(root, "go.mod")))
	for _, module := range []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"} {
		if v := listed[module]; v == "" || !strings.Contains(modules, module+" "+v+"\n") {
			t.Errorf("%s is listed as %q, unlike in go.mod", module, v)
		}
	}
	if listed["std"] == "" {
		t.Error("Go's standard library is not listed")
	}
}

// Who runs the image, and what it says of itself, is the same whichever of make image and the Dockerfile built it; and the
// Deployment runs it as that user.
func TestDockerfileAgrees(t *testing.T) {
	o := options()
	o.pack(t, "linux/amd64="+tiny(t, "amd64", "0"))
	image := readLayout(t, o.output).images(t)[0]
	dockerfile := readDockerfile(t)
	if diff := cmp.Diff(image.config.Config, dockerfile.config); diff != "" {
		t.Errorf("config (-make image +Dockerfile):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"scratch", "/out/manager /manager"}, []string{dockerfile.base, dockerfile.files}); diff != "" {
		t.Errorf("content (-make image +Dockerfile):\n%s", diff)
	}
	uid, _, _ := strings.Cut(image.config.Config.User, ":")
	if deployment := string(read(t, root+"/config/manager/deployment.yaml")); !strings.Contains(deployment, "runAsUser: "+uid+"\n") {
		t.Errorf("config/manager/deployment.yaml does not run the image as its user %s", uid)
	}
	build := regexp.MustCompile(`go build (.*) -o`)
	script := build.FindSubmatch(read(t, "image.sh"))
	if script == nil || !bytes.Equal(script[1], build.FindSubmatch(read(t, root+"/Dockerfile"))[1]) {
		t.Errorf("the Dockerfile does not build like image.sh: %s", script)
	}
}

func TestImageForSeveralPlatforms(t *testing.T) {
	o := options()
	digest := o.pack(t, "linux/amd64="+tiny(t, "amd64", "0"), "linux/arm64="+tiny(t, "arm64", "0"))
	l := readLayout(t, o.output)
	if top := l.index.Manifests[0]; digest != name+":"+version+"@"+top.Digest+"\n" {
		t.Errorf("printed %q, want the name and %s", digest, top.Digest)
	}
	if diff := cmp.Diff(map[string]string{
		"io.containerd.image.name": name + ":" + version, "org.opencontainers.image.ref.name": version,
	}, l.index.Manifests[0].Annotations); diff != "" {
		t.Errorf("annotations for who imports it (-want +got):\n%s", diff)
	}
	var architectures []string
	for _, image := range l.images(t) {
		architectures = append(architectures, image.config.Architecture)
		if p := image.platform; p.OS != image.config.OS || p.Architecture != image.config.Architecture {
			t.Errorf("platform %v in the index, %s/%s in the image", p, image.config.OS, image.config.Architecture)
		}
		if !maps.Equal(image.manifest.Annotations, image.config.Config.Labels) || len(image.manifest.Annotations) == 0 {
			t.Errorf("annotations %v, labels %v: want the same", image.manifest.Annotations, image.config.Config.Labels)
		}
	}
	if diff := cmp.Diff([]string{"amd64", "arm64"}, architectures); diff != "" {
		t.Errorf("architectures (-want +got):\n%s", diff)
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, l.files["manifest.json"], &docker)
	var tags []string
	for _, entry := range docker {
		tags = append(tags, entry.RepoTags...)
		for _, path := range append(entry.Layers, entry.Config) {
			if l.files[path] == nil {
				t.Errorf("manifest.json names %s, which is not there", path)
			}
		}
	}
	if diff := cmp.Diff([]string{name + ":" + version + "-amd64", name + ":" + version + "-arm64"}, tags); diff != "" {
		t.Errorf("what Docker loads (-want +got):\n%s", diff)
	}
}

func TestImageRefuses(t *testing.T) {
	amd64, cgo := tiny(t, "amd64", "0"), tiny(t, "amd64", "1")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		edit func(*packing)
		args []string
		want string
	}{
		{"another platform's", nil, []string{"linux/arm64=" + amd64}, "was built for linux/amd64, not for linux/arm64"},
		{"with cgo", nil, []string{"linux/amd64=" + cgo}, "build it with CGO_ENABLED=0"},
		{"not Go's", nil, []string{"linux/amd64=" + text}, "is not what `go build` made"},
		{"no platform", nil, []string{amd64}, "want OS/ARCHITECTURE=FILE"},
		{"nothing", nil, nil, "no binaries"},
		{"no registry", func(o *packing) { o.name = "notafter:v1" }, []string{"linux/amd64=" + amd64}, "-name"},
		{"no tag", func(o *packing) { o.name = name }, []string{"linux/amd64=" + amd64}, "-name"},
		{"no time", func(o *packing) { o.created = "" }, []string{"linux/amd64=" + amd64}, "-created"},
		{"no folder", func(o *packing) { o.output = "/none/image.tar" }, []string{"linux/amd64=" + amd64}, "writing /none/image.tar"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := options()
			o.output = filepath.Join(t.TempDir(), "image.tar")
			if test.edit != nil {
				test.edit(&o)
			}
			out, err := o.run(t, test.args...)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("%v, %q: want an error with %q", err, out, test.want)
			}
			left, err := os.ReadDir(filepath.Dir(o.output))
			if err == nil && len(left) > 0 {
				t.Errorf("%v was left behind", left)
			}
		})
	}
}

// packing is one run of hack/tools/image.
type packing struct{ name, created, output string }

func options() packing { return packing{name: name + ":" + version, created: epoch} }

func (o *packing) pack(t *testing.T, binaries ...string) string {
	t.Helper()
	o.output = filepath.Join(t.TempDir(), "image.tar")
	out, err := o.run(t, binaries...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (o *packing) run(t *testing.T, binaries ...string) (string, error) {
	t.Helper()
	tool, err := exec.CommandContext(t.Context(), root+"/hack/tools/install.sh", "image").Output()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-name", o.name, "-version", version, "-revision", revision, "-created", o.created, "-output", o.output}
	out, err := exec.CommandContext(t.Context(), strings.TrimSpace(string(tool)), append(args, binaries...)...).CombinedOutput()
	return string(out), err
}

// tiny builds a program that does nothing, which takes less time than the manager.
func tiny(t *testing.T, architecture, cgo string) string {
	t.Helper()
	folder := t.TempDir()
	for file, content := range map[string]string{"go.mod": "module tiny\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", "tiny", ".")
	build.Dir = folder
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+architecture, "CGO_ENABLED="+cgo, "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return filepath.Join(folder, "tiny")
}
