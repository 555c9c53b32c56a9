// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package node adds real nodes to a cluster of hack/cluster: a kubelet that bootstraps over TLS, containerd, kube-proxy and
// a pod network, each node with mounts, a network and a host name of its own. It works as root, inside hack/cluster/sandbox.
package node
