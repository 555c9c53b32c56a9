#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints the version to release, the first that CHANGELOG.md names: v0.1.0. Fails when anything else that names the version
# names another: the manifests, the chart, and in a workflow that runs for a tag, the tag.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
  echo "hack/release/version.sh: $*; see docs/release.md" >&2
  exit 1
}

number=$(sed -n 's/^## \[\([0-9][^]]*\)\] - [0-9-]*$/\1/p' CHANGELOG.md | head -n 1)
[[ -n $number ]] || fail "CHANGELOG.md names no version: want a line such as '## [0.1.0] - 2026-12-01' above its changes"
unreleased=$(sed -n '/^## \[Unreleased\]/,/^## \[[0-9]/p' CHANGELOG.md | grep -c '^- ' || true)
[[ $unreleased -eq 0 ]] || fail "CHANGELOG.md has $unreleased changes under Unreleased: move them under the version"

version=v$number
manifests=$(sed -n 's/^ *newTag: //p' config/manager/kustomization.yaml)
[[ $manifests == "$version" ]] || fail "config/manager/kustomization.yaml names $manifests, CHANGELOG.md $version"
chart=$(sed -n 's/^version: //p' config/chart/Chart.yaml)
[[ v$chart == "$version" ]] || fail "config/chart/Chart.yaml has version $chart, CHANGELOG.md $version"
app=$(sed -n 's/^appVersion: //p' config/chart/Chart.yaml)
[[ $app == "$version" ]] || fail "config/chart/Chart.yaml has appVersion $app, CHANGELOG.md $version"
if [[ ${GITHUB_REF_TYPE:-} == tag && $GITHUB_REF_NAME != "$version" ]]; then
  fail "the tag is $GITHUB_REF_NAME, CHANGELOG.md names $version"
fi
echo "$version"
