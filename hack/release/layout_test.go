// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// descriptor, manifest and config are what is used here of the OCI image format:
// https://github.com/opencontainers/image-spec
type descriptor struct {
	MediaType, ArtifactType, Digest string
	Size                            int
	Platform                        struct{ OS, Architecture string }
	Annotations                     map[string]string
}

type manifest struct {
	MediaType   string
	Config      descriptor
	Layers      []descriptor
	Manifests   []descriptor
	Annotations map[string]string
}

type containerConfig struct {
	User, WorkingDir string
	Entrypoint       []string
	Labels           map[string]string
}

type config struct {
	OS, Architecture string
	Created          time.Time
	Config           containerConfig
}

type image struct {
	platform struct{ OS, Architecture string }
	manifest manifest
	config   config
}

// layout is an OCI image layout, read without the library that wrote it.
type layout struct {
	files map[string][]byte
	index manifest
}

func readLayout(t *testing.T, path string) layout {
	t.Helper()
	l := layout{files: map[string][]byte{}}
	reader := tar.NewReader(bytes.NewReader(read(t, path)))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Uname != "" || header.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: of user %d %q, %v: want nothing of this machine", header.Name, header.Uid, header.Uname, header.ModTime)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			l.files[header.Name] = content
		}
	}
	if want := `{"imageLayoutVersion":"1.0.0"}`; strings.Join(strings.Fields(string(l.files["oci-layout"])), "") != want {
		t.Errorf("oci-layout: %s, want %s", l.files["oci-layout"], want)
	}
	decode(t, l.files["index.json"], &l.index)
	if len(l.index.Manifests) != 1 {
		t.Fatalf("index.json names %d images, want 1", len(l.index.Manifests))
	}
	return l
}

// blob returns what a descriptor points at, which must be what it says.
func (l layout) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	digest, ok := strings.CutPrefix(d.Digest, "sha256:")
	content := l.files["blobs/sha256/"+digest]
	if sum := sha256.Sum256(content); !ok || hex.EncodeToString(sum[:]) != digest || len(content) != d.Size {
		t.Fatalf("the blob of %s does not match its digest and size %d", d.Digest, d.Size)
	}
	return content
}

// images returns what the index leads to.
func (l layout) images(t *testing.T) []image {
	t.Helper()
	var index manifest
	decode(t, l.blob(t, l.index.Manifests[0]), &index)
	if index.MediaType != "application/vnd.oci.image.index.v1+json" {
		t.Fatalf("media type %q, want an OCI index", index.MediaType)
	}
	var images []image
	for _, d := range index.Manifests {
		if d.ArtifactType != "" {
			t.Errorf("the index calls the image an artifact of type %s", d.ArtifactType)
		}
		i := image{platform: d.Platform}
		decode(t, l.blob(t, d), &i.manifest)
		decode(t, l.blob(t, i.manifest.Config), &i.config)
		for _, layer := range i.manifest.Layers {
			l.blob(t, layer)
		}
		images = append(images, i)
	}
	return images
}

// dockerfile is the last stage of the Dockerfile, as built with this test's arguments.
type dockerfile struct {
	base, files string
	config      containerConfig
}

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	joined := strings.ReplaceAll(string(read(t, root+"/Dockerfile")), "\\\n", " ")
	joined = strings.NewReplacer("$VERSION", version, "$REVISION", revision).Replace(joined)
	lines := strings.Split(joined, "\n")
	last := 0
	for i, line := range lines {
		if strings.HasPrefix(line, "FROM ") {
			last = i
		}
	}
	label := regexp.MustCompile(`([\w.]+)=("[^"]*"|\S+)`)
	d := dockerfile{config: containerConfig{Labels: map[string]string{}}}
	for _, line := range lines[last:] {
		instruction, rest, _ := strings.Cut(line, " ")
		switch instruction {
		case "FROM":
			d.base = rest
		case "COPY":
			d.files = strings.TrimPrefix(rest, "--from=build ")
		case "USER":
			d.config.User = rest
		case "WORKDIR":
			d.config.WorkingDir = rest
		case "ENTRYPOINT":
			decode(t, []byte(rest), &d.config.Entrypoint)
		case "LABEL":
			for _, match := range label.FindAllStringSubmatch(rest, -1) {
				d.config.Labels[match[1]] = strings.Trim(match[2], `"`)
			}
		}
		if known := []string{"", "#", "FROM", "ARG", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "LABEL"}; !slices.Contains(known, instruction) {
			t.Errorf("the Dockerfile has an instruction %s, which make image knows nothing of", instruction)
		}
	}
	return d
}
