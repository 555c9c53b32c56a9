#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Everything that can be said about the code without running it: what is generated is up to date, and the linters and the
# vulnerability check find nothing. It compares the work tree with what it was before, so it may be dirty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# snapshot prints a line "hash path" for every file that git knows or would add.
snapshot() {
  git -c core.quotePath=false ls-files --cached --others --exclude-standard --deduplicate |
    while IFS= read -r file; do
      if [[ -f $file ]]; then printf '%s %s\n' "$(git hash-object -- "$file")" "$file"; fi
    done
}

before=$(mktemp) after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT

# Tidying these downloads gigabytes of what their tools can do without and is never built. Building them fails if their go.mod
# lacks anything, so what escapes this check is a requirement too many.
export EXCEPT='hack/tools/flux hack/tools/prometheus'

snapshot >"$before"
for target in tidy generate manifests api-docs lint lint-api lint-docs vuln; do
  start=$SECONDS
  echo "verify: $target"
  "${MAKE:-make}" --no-print-directory "$target"
  echo "verify: $target took $((SECONDS - start))s"
done
snapshot >"$after"

if ! changed=$(diff "$before" "$after"); then
  echo "verify: these files were not up to date, and are now; look at them and commit them:" >&2
  sed -n 's/^[<>] [0-9a-f]* /  /p' <<<"$changed" | sort -u >&2
  exit 1
fi
echo "verify: all up to date"
