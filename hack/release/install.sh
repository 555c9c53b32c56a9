#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints all of config/default as one file, running the given image:
#   hack/release/install.sh ghcr.io/notafter/notafter:v0.1.0 | kubectl apply --server-side -f -
set -euo pipefail
image=${1:?usage: hack/release/install.sh IMAGE}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

kustomize=$(hack/tools/install.sh kustomize)
mkdir -p .cache
scratch=$(mktemp -d .cache/install.XXXXXX) # kustomize takes relative paths only
trap 'rm -rf "$scratch"' EXIT
printf 'resources:\n  - ../../config/default\n' >"$scratch/kustomization.yaml"
(cd "$scratch" && "$kustomize" edit set image "ghcr.io/notafter/notafter=$image")
"$kustomize" build "$scratch"
