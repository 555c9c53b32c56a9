// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// IsOf says whether this is what is known of the Node with this UID, and not of one that had its name before.
func (n *NodeCertificates) IsOf(node types.UID) bool {
	return slices.ContainsFunc(n.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == node })
}
