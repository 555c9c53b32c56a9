// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package text makes fit for use what others wrote: nodes, signers, approvers, whoever made a certificate. None of it may
// be endless, end in the middle of a character, or move the cursor of the terminal that it is shown on.
package text

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ellipsis marks what was cut off.
const ellipsis = "…"

// Field returns the text as the field of an object holds it: one line of printable characters, at most limit of them, which is
// how the API counts. What is not empty does not become so.
func Field(s string, limit int) string {
	if len(s) <= limit && isPlain(s) {
		return s
	}
	return cut(printable(s, limit), limit)
}

// Phrase returns the text as part of a message: likewise, but at most limit bytes, which is how the API counts the notes of
// Events, and without space around it.
func Phrase(s string, limit int) string {
	if len(s) <= limit && isPlain(s) && !padded(s) {
		return s
	}
	s = printable(strings.TrimSpace(s), limit)
	if len(s) <= limit {
		return s
	}
	end := max(0, limit-len(ellipsis))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// Quote returns the first limit characters of the text in quotes, in which what is not printable is escaped.
func Quote(s string, limit int) string { return strconv.Quote(cut(s, limit)) }

// printable replaces what is not. Of an endless text it takes no more than is needed to cut it to limit characters.
func printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, s[:min(len(s), utf8.UTFMax*(limit+1))])
}

// cut cuts the text to limit characters, the last of which is then an ellipsis.
func cut(s string, limit int) string {
	characters, end := 0, 0
	for i := range s {
		if characters++; characters == limit {
			end = i
		}
		if characters > limit {
			return s[:end] + ellipsis
		}
	}
	return s
}

// isPlain says that nothing has to be done to the text, as to most: it is printable ASCII.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func padded(s string) bool { return s != "" && (s[0] == ' ' || s[len(s)-1] == ' ') }
