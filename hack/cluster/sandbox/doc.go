// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs a program in Linux namespaces of its own: processes, mounts, network, host name. Whatever it starts,
// mounts or configures in there is gone when it ends, however it ends; only cgroups and files are left for the next run to
// remove. It needs root.
package sandbox
