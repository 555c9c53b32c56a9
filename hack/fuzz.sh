#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target for a while, one after the other: hack/fuzz.sh 30s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
duration=${1:?usage: hack/fuzz.sh DURATION}

targets=$(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' api cmd controllers | sort)
while IFS=: read -r file function; do
  name=${function#func }
  echo "fuzz: $name in $(dirname "$file") for $duration"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$duration" "./$(dirname "$file")"
done <<<"$targets"
