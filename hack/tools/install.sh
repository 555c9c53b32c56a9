#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a development tool, building it from its pinned module first if it was not built yet:
#   $(hack/tools/install.sh controller-gen) --help
# The path is keyed by what the tool is built from, so a changed version is built anew and nothing is ever stale.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name=${1:?usage: hack/tools/install.sh NAME, a folder of hack/tools}
module=$root/hack/tools/$name
if [[ ! -f $module/go.mod ]]; then
  echo "hack/tools/install.sh: no tool $name: hack/tools/$name/go.mod does not exist" >&2
  exit 1
fi

sources=("$module/go.mod" "$module/go.sum")
for file in "$module"/*.go; do
  if [[ -f $file ]]; then sources+=("$file"); fi
done
key=$({ go env GOVERSION GOOS GOARCH && cat "${sources[@]}"; } | git hash-object --stdin | cut -c1-16)
folder=$root/.cache/tools/$name-$key
binary=$folder/$name

if [[ ! -x $binary ]]; then
  echo "building $name (once; kept in .cache/tools)" >&2
  mkdir -p "$folder"
  staging=$(mktemp -d "$folder/build.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  # The host's platform, whatever the caller builds for.
  GOOS='' GOARCH='' GOFLAGS='' CGO_ENABLED=0 go -C "$module" build -trimpath -buildvcs=false -o "$staging/" tool >&2
  mv -f "$staging/$name" "$binary"
fi
echo "$binary"
