// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import . "github.com/onsi/ginkgo/v2"

// One container holds all specs, for their order matters: what is here further down leaves less of the cluster as it was.
var _ = Describe("notafter", Ordered, ContinueOnFailure, func() {
	Describe("as a pod", podSpecs)
	Describe("as a user of the API", accessSpecs)
	Describe("as an exporter of metrics", metricsSpecs)
	Describe("as one of two replicas", Ordered, replicaSpecs)
	Describe("as the approver of requests", Ordered, approvalSpecs)
	Describe("while kubelets fail", Ordered, failureSpecs)
	Describe("as the approver of requests, minutes later", Ordered, laterApprovalSpecs)
	Describe("while the Cluster CA is replaced", Ordered, caSpecs)
})
