#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds the manager for each of $PLATFORMS and packs it into one container image, an OCI layout in a tar file, with a bill of
# materials for each platform beside it:
#   VERSION=v0.1.0 REVISION=$(git rev-parse HEAD) SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
#     IMAGE=ghcr.io/notafter/notafter:v0.1.0 hack/release/image.sh dist/image.tar
# The same source, variables and version of Go give the same bytes, in whatever folder. `make image` sets the variables.
set -euo pipefail
output=${1:?usage: hack/release/image.sh OUTPUT.tar}
mkdir -p "$(dirname "$output")"
output=$(cd "$(dirname "$output")" && pwd)/$(basename "$output")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What else a machine's settings could change about a binary is set to Go's own defaults.
export CGO_ENABLED=0 GOFLAGS=-trimpath GOAMD64=v1 GOARM64=v8.0 GOFIPS140=off

image=$(hack/tools/install.sh image)
cyclonedx=$(hack/tools/install.sh cyclonedx-gomod)
binaries=()
IFS=, read -ra platforms <<<"${PLATFORMS:-linux/amd64,linux/arm64}"
for platform in "${platforms[@]}"; do
  name=${platform/\//-}
  binary=bin/$name/manager
  GOOS=${platform%/*} GOARCH=${platform#*/} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$binary" ./cmd/manager
  "$cyclonedx" bin -json -noserial -notimestamp -std -version "$VERSION" -output "${output%.tar}-$name.cdx.json" "$binary"
  binaries+=("$platform=$binary")
done
"$image" -name "$IMAGE" -version "$VERSION" -revision "$REVISION" -created "$SOURCE_DATE_EPOCH" -output "$output" \
  "${binaries[@]}"
