#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Says what this machine lacks for the end-to-end tests, and how to get it. With the argument `install` it first installs the
# packages that are missing, on Debian and what is like it. It succeeds when nothing is missing.
set -euo pipefail

# The programs that the nodes need from the distribution, each with its package.
needed=(ip:iproute2 mount:mount nft:nftables nsenter:util-linux runc:runc)

# lacking prints the packages of the programs that are missing.
lacking() {
  local pair
  for pair in "${needed[@]}"; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null; then echo "${pair#*:}"; fi
  done
}

# cgroups succeeds when cgroups can be made, and given controllers.
cgroups() {
  local hierarchy=/sys/fs/cgroup
  if [[ -f $hierarchy/cgroup.controllers ]]; then # version 2
    { echo +memory >"$hierarchy/cgroup.subtree_control"; } 2>/dev/null || return
  else
    hierarchy=$hierarchy/memory
  fi
  mkdir "$hierarchy/notafter-check" 2>/dev/null && rmdir "$hierarchy/notafter-check"
}

if [[ -n ${E2E_KUBECONFIG:-} ]]; then exit 0; fi # a cluster is there: see hack/e2e/README.md
if [[ $(uname -s) != Linux ]]; then
  echo "e2e: needs Linux; elsewhere, set E2E_KUBECONFIG to use a cluster that is there" >&2
  exit 1
fi
if [[ $(id -u) != 0 ]]; then
  echo "e2e: needs root for kubelets, namespaces and cgroups (sudo -E make e2e); or set E2E_KUBECONFIG to use a cluster that is there" >&2
  exit 1
fi

mapfile -t packages < <(lacking)
if [[ ${1:-} == install && ${#packages[@]} -gt 0 ]] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2; then
    mapfile -t packages < <(lacking)
  fi
fi
if [[ ${#packages[@]} -gt 0 ]]; then
  echo "e2e: lacks what is in these packages: ${packages[*]} (hack/e2e/prerequisites.sh install)" >&2
  exit 1
fi
if ! cgroups; then
  echo "e2e: cannot make cgroups under /sys/fs/cgroup; a container needs --privileged" >&2
  exit 1
fi
if ! unshare --fork --pid --mount --net --uts --ipc true 2>/dev/null; then
  echo "e2e: cannot make namespaces; a container needs --privileged" >&2
  exit 1
fi
