// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubelet runs simulated kubelets, from one to thousands in a process, for tests, the demo and development.
//
// What is real: each kubelet bootstraps with a bootstrap token and renews through client-go's certificate manager, the
// code that real kubelets run, against whatever API server and signer it is pointed at. Its CertificateSigningRequests,
// its certificate files, its Node, its Lease and their authorization by the API server (Node authorizer,
// NodeRestriction) are real. Its TLS endpoint is real, and so is the authentication and authorization in front of it
// (client certificates, TokenReview, SubjectAccessReview).
//
// What is simulated: there are no pods, no container runtime, no cAdvisor, no volumes and no cgroups. Nothing can be
// scheduled, logged or executed. The endpoint answers only /healthz, /metrics and /configz, and these only with what
// concerns certificates. Kubelet version, node image and operating system are what the caller says, and static and
// self-signed certificates have ECDSA keys, where a real kubelet and AKS make RSA ones. No time is faked.
//
// Linux is needed: every kubelet listens on a 127.x.y.z address of its own.
package kubelet
