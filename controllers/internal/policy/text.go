// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bytes that text takes in a message. A finding's message becomes the note of an Event, which the API server limits to
// 1,024 bytes; the parts are bounded so that the fix, which comes last, is never what is cut off.
const (
	maxMessage = 1024
	maxName    = 128 // of a signing request; kubelets name theirs with 9 or 52 characters
	maxPhrase  = 200 // what a node, an approver or a signer wrote
	maxWord    = 64  // a version, an address, a serial number

	maxSubject   = 253 // of a finding's subject: the length of a Kubernetes name
	maxQualified = 317 // of one with a namespace

	maxDistinguished = 256 // of a certificate's subject or issuer, in status.controlPlane
)

// instant is a point in time as messages show it: absolute, so that it does not move.
func instant(t time.Time) string {
	return t.UTC().Format(time.RFC3339)
}

// timestamp is a point in time as a status stores it, in whole seconds, so that a stored finding equals a new one; nil
// for the zero time.
func timestamp(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}
