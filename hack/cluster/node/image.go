// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

// PauseImage is the image of a pod that does nothing. It is on every node.
const PauseImage = "notafter.dev/pause:local"

// buildPause compiles the program of PauseImage and returns its path.
func buildPause(ctx context.Context) (string, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path,
		"./hack/cluster/node/pause")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=", "GOARCH=")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the pause program: %w\n%s", err, output)
	}
	return path, nil
}

// writeImage writes an image with a single file, the program, as `docker save` would, for a node to import.
func writeImage(path, name, program string, uid int) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	base := filepath.Base(program)
	layer, err := archive(map[string][]byte{base: content}, []string{base})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + base}, "User": fmt.Sprintf("%d:%d", uid, uid)},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	manifest, err := json.Marshal([]map[string]any{
		{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}},
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	image, err := archive(map[string][]byte{"config.json": config, "layer.tar": layer, "manifest.json": manifest},
		[]string{"config.json", "layer.tar", "manifest.json"})
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	if err := os.WriteFile(path, image, 0o644); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

// archive makes a tar archive of files that all may read and execute.
func archive(files map[string][]byte, order []string) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, name := range order {
		header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.Copy(writer, bytes.NewReader(files[name])); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}
