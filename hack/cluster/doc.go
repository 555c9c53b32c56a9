// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a Kubernetes control plane on this machine for tests, the demo and development: a real etcd,
// kube-apiserver and kube-controller-manager with the real certificate signer, and nothing else. There are no kubelets
// and no pods.
//
// It needs no root, listens on 127.0.0.1 only, and makes keys and certificates of its own for each cluster. Any number
// can run at once. None outlives the process that started it, unless that is asked for: see Up and Down.
package cluster
