// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build requirement

// Package crds is never built. It keeps the requirement of the module whose folder has the CustomResourceDefinitions of the
// Prometheus Operator, which the manifests are tested against.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil" // a small one
