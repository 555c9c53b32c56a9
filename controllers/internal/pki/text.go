// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/x509/pkix"

	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	maxQuoted = 128
	maxCause  = 320
)

// quote makes text from a certificate fit for a message.
func quote(s string) string { return text.Quote(s, maxQuoted) }

// quoteName names a certificate's subject or issuer: by its common name, which people know it by, else in full.
func quoteName(name pkix.Name) string {
	if name.CommonName != "" {
		return quote(name.CommonName)
	}
	return quote(name.String())
}

// boundedError is an error of crypto/x509, which may quote a certificate at length, with a bounded text.
type boundedError struct{ cause error }

func bound(err error) error { return boundedError{cause: err} }

func (e boundedError) Error() string { return text.Phrase(e.cause.Error(), maxCause) }

func (e boundedError) Unwrap() error { return e.cause }
