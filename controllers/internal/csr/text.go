// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The bounds that the schema of SigningRequestStatus sets, in characters.
const (
	maxSignerName = 128
	maxName       = 253
	maxReason     = 128
	maxMessage    = 512
)

const (
	maxCause  = 256
	maxQuoted = 128
)

// bound cuts text to a number of characters, the last of which is then an ellipsis. What is not UTF-8 is replaced,
// since the API server does not store it.
func bound(text string, length int) string {
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text) <= length || utf8.RuneCountInString(text) <= length {
		return text
	}
	for i := range text {
		if length--; length == 0 {
			return text[:i] + "…"
		}
	}
	return text
}

// quote makes text that a node wrote fit for a message: printable, on one line, short.
func quote(text string) string { return strconv.Quote(bound(text, maxQuoted)) }
