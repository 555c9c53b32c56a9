// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command image packs the manager, built for one or several platforms, into a container image, without a registry or a
// container engine:
//
//	image -name ghcr.io/notafter/notafter:v0.1.0 -version v0.1.0 -revision COMMIT -created SECONDS -output image.tar \
//	    linux/amd64=bin/linux-amd64/manager linux/arm64=bin/linux-arm64/manager
//
// The same arguments and binaries give the same bytes. The tar file is an OCI image layout, which containerd, Podman, skopeo
// and crane read, with the manifest.json that `docker load` wants. It prints the image's name and digest.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options are the command line, parsed and checked.
type options struct {
	name     name.Tag
	version  string
	revision string
	created  time.Time
	output   string
	binaries []binary
}

// binary is the manager, built for a platform.
type binary struct {
	platform v1.Platform
	path     string
}

func run(args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	images, err := o.images()
	if err != nil {
		return err
	}
	index := o.index(images)
	if err := o.write(index, images); err != nil {
		return fmt.Errorf("writing %s: %w", o.output, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("computing the digest of %s: %w", o.name, err)
	}
	_, err = fmt.Fprintf(stdout, "%s@%s\n", o.name, digest)
	return err
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	reference := flags.String("name", "", "the image's name, with registry and tag")
	flags.StringVar(&o.version, "version", "", "version for the labels")
	flags.StringVar(&o.revision, "revision", "", "commit for the labels")
	created := flags.String("created", "", "all timestamps, in seconds since 1970, such as $SOURCE_DATE_EPOCH")
	flags.StringVar(&o.output, "output", "", "tar file to write")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if o.name, err = name.NewTag(*reference, name.StrictValidation); err != nil {
		return nil, fmt.Errorf("-name: %w", err)
	}
	seconds, err := strconv.ParseInt(*created, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("-created %q: want seconds since 1970", *created)
	}
	o.created = time.Unix(seconds, 0).UTC()
	if o.version == "" || o.revision == "" || o.output == "" {
		return nil, errors.New("-version, -revision and -output are required")
	}
	if flags.NArg() == 0 {
		return nil, errors.New("no binaries: want arguments such as linux/amd64=bin/manager")
	}
	for _, argument := range flags.Args() {
		platform, path, ok := strings.Cut(argument, "=")
		system, architecture, complete := strings.Cut(platform, "/")
		if !ok || !complete || path == "" {
			return nil, fmt.Errorf("%q: want OS/ARCHITECTURE=FILE, such as linux/amd64=bin/manager", argument)
		}
		o.binaries = append(o.binaries, binary{platform: v1.Platform{OS: system, Architecture: architecture}, path: path})
	}
	return o, nil
}
