// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestNodeCertificatesAreOfTheirOwner(t *testing.T) {
	ownedBy := func(uids ...types.UID) *v1alpha1.NodeCertificates {
		known := &v1alpha1.NodeCertificates{}
		for _, uid := range uids {
			known.OwnerReferences = append(known.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", UID: uid})
		}
		return known
	}
	for name, test := range map[string]struct {
		known *v1alpha1.NodeCertificates
		want  bool
	}{
		"its own":                        {ownedBy("a"), true},
		"one of two":                     {ownedBy("b", "a"), true},
		"a former Node of the same name": {ownedBy("b"), false},
		"nobody's":                       {ownedBy(), false},
	} {
		if got := test.known.IsOf("a"); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
