#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a development tool, building it from its pinned module first if it was not built yet:
#   $(hack/tools/install.sh controller-gen) --help
# A module with several tools is given with the one that is meant:
#   $(hack/tools/install.sh prometheus promtool) --help
# The path is keyed by what the tool is built from, so a changed version is built anew and nothing is ever stale. The file
# build-tags of a module, if there is one, holds the build tags, separated by commas.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name=${1:?usage: hack/tools/install.sh NAME [TOOL], a folder of hack/tools}
tool=${2:-$name}
module=$root/hack/tools/$name
if [[ ! -f $module/go.mod ]]; then
  echo "hack/tools/install.sh: no tool $name: hack/tools/$name/go.mod does not exist" >&2
  exit 1
fi

sources=("$module/go.mod" "$module/go.sum")
for file in "$module"/*.go "$module/build-tags"; do
  if [[ -f $file ]]; then sources+=("$file"); fi
done
key=$({ go env GOVERSION GOOS GOARCH && cat "${sources[@]}"; } | git hash-object --stdin | cut -c1-16)
folder=$root/.cache/tools/$name-$key
binary=$folder/$tool

if [[ ! -x $binary ]]; then
  tags=''
  if [[ -f $module/build-tags ]]; then tags=$(<"$module/build-tags"); fi
  echo "building $name (once; kept in .cache/tools)" >&2
  mkdir -p "$folder"
  staging=$(mktemp -d "$folder/build.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  # The host's platform, whatever the caller builds for.
  GOOS='' GOARCH='' GOFLAGS='' CGO_ENABLED=0 go -C "$module" build -trimpath -buildvcs=false -tags "$tags" -o "$staging/" tool >&2
  mv -f "$staging"/* "$folder/"
fi
echo "$binary"
