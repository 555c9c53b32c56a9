// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for _, tc := range []struct {
		text  string
		limit int
		want  string
	}{
		{"plain", 10, "plain"},
		{"exactly 10", 10, "exactly 10"},
		{"eleven long", 10, "eleven …"},
		{"two\nlines\ttab", 20, "two lines tab"},
		{"\x1b[2J\x00bell\a", 20, "?[2J?bell?"},
		{"right\u202eleft\u200b", 20, "right?left?"},
		{"bad \xff\xfe", 20, "bad ??"},
		{"ééééé", 10, "ééééé"},
		{"éééééé", 10, "ééé…"},
		{strings.Repeat(" ", 50) + "x", 10, "…"},
		{"", 10, ""},
	} {
		if got := printable(tc.text, tc.limit); got != tc.want {
			t.Errorf("printable(%q, %d) = %q, want %q", tc.text, tc.limit, got, tc.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("two\nlines\x1b[0m\u202e\xff", uint16(5))
	f.Fuzz(func(t *testing.T, text string, limit uint16) {
		size := 3 + int(limit)%2000
		got := printable(text, size)
		if len(got) > size || !utf8.ValidString(got) {
			t.Errorf("printable(%q, %d) = %q: %d bytes", text, size, got, len(got))
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("printable(%q, %d) = %q: not printable at %d", text, size, got, i)
		}
	})
}
