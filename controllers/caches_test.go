// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"maps"
	"testing"
)

func TestSharedLabelsAreTheSame(t *testing.T) {
	labels := map[string]string{"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux", "empty": ""}
	if got := shared(labels, "node-1"); !maps.Equal(got, labels) {
		t.Errorf("got %v, want %v", got, labels)
	}
}
