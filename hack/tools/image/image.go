// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// user is neither root nor anybody else's: the "nonroot" of distroless images. The Dockerfile and the Deployment say the same.
	user = "65532:65532"
	// executable is all that the image holds. The manager verifies TLS against the cluster's own CAs, asks for no user name and
	// writes no file, so that there is no need of CA certificates, /etc/passwd or /tmp.
	executable = "manager"
)

// labels go on the image's config, for `docker inspect`, and as annotations on its manifests, for registries.
func (o *options) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "notafter",
		"org.opencontainers.image.description": "Watches the certificates that a Kubernetes cluster's own life depends on",
		"org.opencontainers.image.source":      "https://github.com/notafter/notafter",
		"org.opencontainers.image.revision":    o.revision,
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
}

// index returns the image for all platforms: which one is taken is up to whoever pulls it.
func (o *options) index(images []v1.Image) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, image := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: noArtifact{image}, Descriptor: v1.Descriptor{Platform: &o.binaries[i].platform},
		})
	}
	return mutate.Annotations(index, o.labels()).(v1.ImageIndex) // it returns the type that it is given
}

// noArtifact is an image that the index does not call an artifact. Older versions of skopeo leave that word out of what they
// copy, notice that this changes the digest, and give up.
type noArtifact struct{ v1.Image }

// ArtifactType is the word that goes into the index.
func (noArtifact) ArtifactType() (string, error) { return "", nil }

// images returns one image per binary, in their order.
func (o *options) images() ([]v1.Image, error) {
	var images []v1.Image
	for _, b := range o.binaries {
		if err := b.check(); err != nil {
			return nil, err
		}
		image, err := o.image(b)
		if err != nil {
			return nil, fmt.Errorf("packing %s: %w", b.path, err)
		}
		images = append(images, image)
	}
	return images, nil
}

// check refuses what would not run in the image.
func (b binary) check() error {
	info, err := buildinfo.ReadFile(b.path)
	if err != nil {
		return fmt.Errorf("%s is not what `go build` made: %w", b.path, err)
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	if built := settings["GOOS"] + "/" + settings["GOARCH"]; built != b.platform.String() {
		return fmt.Errorf("%s was built for %s, not for %s: set GOOS and GOARCH", b.path, built, b.platform)
	}
	if settings["CGO_ENABLED"] != "0" {
		return fmt.Errorf("%s was built with cgo, and the image has no C library: build it with CGO_ENABLED=0", b.path)
	}
	return nil
}

func (o *options) image(b binary) (v1.Image, error) {
	layer, err := o.layer(b.path)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS:           b.platform.OS,
		Architecture: b.platform.Architecture,
		Created:      v1.Time{Time: o.created},
		Config: v1.Config{
			User:       user,
			Entrypoint: []string{"/" + executable},
			WorkingDir: "/",
			Labels:     o.labels(),
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: o.created}, CreatedBy: "make image", Comment: "notafter " + o.version},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, o.labels()).(v1.Image), nil // it returns the type that it is given
}

// layer returns a layer with the executable and nothing else.
func (o *options) layer(path string) (v1.Layer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	if err := writer.WriteHeader(header(executable, tar.TypeReg, 0o755, int64(len(content)), o.created)); err != nil {
		return nil, err
	}
	if _, err := writer.Write(content); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}
