// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import "github.com/notafter/notafter/controllers/internal/text"

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

// quoted is text that a node wrote, fit for a message.
func quoted(s string) string { return text.Quote(s, maxQuoted) }
