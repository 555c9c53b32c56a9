// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests notafter as its users run it: as a pod, from its image and its manifests, in a cluster of real kubelets
// that lose their certificates. Nobody approves their requests, or somebody denies them; nothing signs what was approved; their
// configuration does not renew client certificates, or requests no serving ones; a client certificate runs out; or the Cluster CA
// is replaced without them. `make e2e` runs it.
package e2e
