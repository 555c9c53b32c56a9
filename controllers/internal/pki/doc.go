// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki holds everything that is known about X.509 here: parsing, fingerprints, the arithmetic of lifetimes,
// and who signed a kubelet's serving certificate. It is pure: it reads no clock, file or network.
//
// What it is given may come from a node, and a node may be hostile. All input is bounded, and no text from a
// certificate gets into an error unquoted or at full length.
package pki
