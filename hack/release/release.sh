#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes everything that a release consists of in a folder, and publishes nothing:
#   notafter-VERSION-image.tar, the image, and its bills of materials, notafter-VERSION-image-PLATFORM.cdx.json
#   install.yaml, the manifests in one file · notafter-VERSION.tgz, the chart · SHA256SUMS
# The same source, variables and version of Go give the same bytes. `make release` sets the variables that image.sh needs; the
# version is the changelog's, unless $VERSION is another.
set -euo pipefail
folder=${1:?usage: hack/release/release.sh FOLDER}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
version=${VERSION:-$("$root/hack/release/version.sh")}
export VERSION=$version IMAGE=${IMAGE:-ghcr.io/notafter/notafter:$version}
export SOURCE_DATE_EPOCH # Helm heeds it, too

rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$root"
hack/release/image.sh "$folder/notafter-$VERSION-image.tar"
hack/release/install.sh "$IMAGE" >"$folder/install.yaml"
helm=$(hack/tools/install.sh helm)
"$helm" package config/chart --version "${VERSION#v}" --app-version "$VERSION" --destination "$folder" >/dev/null

cd "$folder"
sum=(sha256sum)
command -v sha256sum >/dev/null || sum=(shasum -a 256) # macOS
"${sum[@]}" -- * >SHA256SUMS.part
mv SHA256SUMS.part SHA256SUMS
