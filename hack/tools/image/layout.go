// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// write writes the image as an OCI layout into one tar file.
func (o *options) write(index v1.ImageIndex, images []v1.Image) (err error) {
	folder, err := os.MkdirTemp("", "notafter-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()

	outer := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{
		// By the first, containerd names what it imports. The second is OCI's, for tools that look for a tag.
		Annotations: map[string]string{
			"io.containerd.image.name":          o.name.Name(),
			"org.opencontainers.image.ref.name": o.name.TagStr(),
		},
	}})
	if _, err := layout.Write(folder, outer); err != nil {
		return err
	}
	manifest, err := o.dockerManifest(images)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "manifest.json"), manifest, 0o644); err != nil {
		return err
	}
	return o.archive(folder)
}

// dockerManifest is for Docker without containerd's image store, which knows nothing of OCI layouts, nor of images for several
// platforms: it loads each under a tag of its own, such as v0.1.0-arm64.
func (o *options) dockerManifest(images []v1.Image) ([]byte, error) {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	blob := func(hash v1.Hash) string { return "blobs/" + hash.Algorithm + "/" + hash.Hex }
	var entries []entry
	for i, image := range images {
		manifest, err := image.Manifest()
		if err != nil {
			return nil, err
		}
		tag := o.name.Name()
		if len(images) > 1 {
			tag += "-" + o.binaries[i].platform.Architecture
		}
		e := entry{Config: blob(manifest.Config.Digest), RepoTags: []string{tag}}
		for _, layer := range manifest.Layers {
			e.Layers = append(e.Layers, blob(layer.Digest))
		}
		entries = append(entries, e)
	}
	return json.Marshal(entries)
}

// archive packs the folder into the output file, which is complete or not there.
func (o *options) archive(folder string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(o.output), "."+filepath.Base(o.output)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	writer := tar.NewWriter(file)
	// In lexical order, whatever the file system's.
	err = filepath.WalkDir(folder, func(path string, item fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		return o.add(writer, path, filepath.ToSlash(relative), item)
	})
	if err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), o.output); err != nil {
		return err
	}
	return file.Close()
}

func (o *options) add(writer *tar.Writer, path, name string, item fs.DirEntry) error {
	if item.IsDir() {
		return writer.WriteHeader(header(name+"/", tar.TypeDir, 0o755, 0, o.created))
	}
	info, err := item.Info()
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := writer.WriteHeader(header(name, tar.TypeReg, 0o644, info.Size(), o.created)); err != nil {
		return errors.Join(err, file.Close())
	}
	_, err = io.Copy(writer, file)
	return errors.Join(err, file.Close())
}

// header tells nothing of the machine that the file is on: root's, and as old as the source.
func header(name string, kind byte, mode, size int64, modified time.Time) *tar.Header {
	return &tar.Header{Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: modified, Format: tar.FormatUSTAR}
}
