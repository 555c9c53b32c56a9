#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs `go mod tidy` in every module of this repository: the operator's, the tools' and the local cluster's. It leaves out the
# folders in $EXCEPT, such as "hack/tools/flux hack/tools/prometheus".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

git ls-files --cached --others --exclude-standard --deduplicate -- go.mod '*/go.mod' | while IFS= read -r file; do
  folder=$(dirname "$file")
  if [[ -f $file && " ${EXCEPT:-} " != *" $folder "* ]]; then
    (cd "$folder" && go mod tidy)
  fi
done
