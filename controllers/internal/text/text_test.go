// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package text_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/notafter/notafter/controllers/internal/text"
)

func TestTexts(t *testing.T) {
	for _, tc := range []struct {
		in                   string
		limit                int
		field, phrase, quote string
	}{
		{"", 10, "", "", `""`},
		{"plain", 10, "plain", "plain", `"plain"`},
		{"exactly 10", 10, "exactly 10", "exactly 10", `"exactly 10"`},
		{"eleven long", 10, "eleven lo…", "eleven …", `"eleven lo…"`},
		{"two\nlines\ttab", 20, "two lines tab", "two lines tab", `"two\nlines\ttab"`},
		{" padded\r\n", 20, " padded  ", "padded", `" padded\r\n"`},
		{"  ", 10, "  ", "", `"  "`},
		{"\x1b[2J\x00bell\a", 30, "\ufffd[2J\ufffdbell\ufffd", "\ufffd[2J\ufffdbell\ufffd", `"\x1b[2J\x00bell\a"`},
		{"right\u202eleft\u200b", 30, "right\ufffdleft\ufffd", "right\ufffdleft\ufffd", `"right\u202eleft\u200b"`},
		{"bad \xff\xfe", 20, "bad \ufffd\ufffd", "bad \ufffd\ufffd", `"bad \xff\xfe"`},
		{"ééééé", 10, "ééééé", "ééééé", `"ééééé"`},
		{"éééééé", 10, "éééééé", "ééé…", `"éééééé"`},
		{"éééééé", 5, "éééé…", "é…", `"éééé…"`},
		{"漢漢漢", 2, "漢…", "…", `"漢…"`},
		{"\xff\xff\xff", 2, "\ufffd…", "…", `"\xff…"`},
		{strings.Repeat("x", 1<<20), 4, "xxx…", "x…", `"xxx…"`},
	} {
		for name, each := range map[string]struct {
			of   func(string, int) string
			want string
		}{"Field": {text.Field, tc.field}, "Phrase": {text.Phrase, tc.phrase}, "Quote": {text.Quote, tc.quote}} {
			if got := each.of(tc.in, tc.limit); got != each.want {
				t.Errorf("%s(%.20q, %d) = %q, want %q", name, tc.in, tc.limit, got, each.want)
			}
		}
	}
}

func FuzzTexts(f *testing.F) {
	f.Add("two\nlines\x1b[0m\u202e\xff", 5)
	f.Add(strings.Repeat("é", 300), 256)
	f.Add(" 漢 ", 3)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		limit = 3 + (limit%1024+1024)%1024
		fits := func(name, got string, again func(string, int) string) {
			if bad := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); bad >= 0 || !utf8.ValidString(got) {
				t.Errorf("%s(%q, %d) = %q: not printable at %d", name, in, limit, got, bad)
			}
			if again != nil && again(got, limit) != got {
				t.Errorf("%s(%q, %d) = %q, and of that %q", name, in, limit, got, again(got, limit))
			}
		}
		field, phrase, quote := text.Field(in, limit), text.Phrase(in, limit), text.Quote(in, limit)
		fits("Field", field, text.Field)
		fits("Phrase", phrase, text.Phrase)
		fits("Quote", quote, nil)
		if n := utf8.RuneCountInString(field); n > limit || (in == "") != (field == "") {
			t.Errorf("Field(%q, %d) = %q: %d characters", in, limit, field, n)
		}
		if len(phrase) > limit {
			t.Errorf("Phrase(%q, %d) = %q: %d bytes", in, limit, phrase, len(phrase))
		}
		if most := len(`\U0010ffff`)*limit + 2; len(quote) > most {
			t.Errorf("Quote(%q, %d) has %d bytes", in, limit, len(quote))
		}
	})
}
