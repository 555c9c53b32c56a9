// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

// printable returns text that others wrote, fit for a terminal: one line, no control or invisible characters, valid
// UTF-8, at most limit bytes. What it leaves out at the end, it marks with an ellipsis.
func printable(text string, limit int) string {
	const ellipsis = "…"
	if len(text) <= limit && isPlain(text) {
		return text
	}
	cut := len(text) > 4*limit
	if cut { // bounds the work; four bytes hold any character
		text = text[:4*limit]
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if !cut && len(text) <= limit {
		return text
	}
	end := min(len(text), limit-len(ellipsis))
	for end > 0 && end < len(text) && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}

// isPlain says that nothing has to be done to the text: it is printable ASCII without a space around it. Most text is.
func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return text == "" || text[0] != ' ' && text[len(text)-1] != ' '
}

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
