// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests notafter as its users run it: as a pod, from its image and its manifests, in a cluster of real kubelets
// that lose their certificates in every way of the mission. `make e2e` runs it.
package e2e
