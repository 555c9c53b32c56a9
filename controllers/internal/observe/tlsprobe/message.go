// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package tlsprobe

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"regexp"
	"syscall"

	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// opRemoteError is the net.OpError.Op of an alert that the peer sent.
	opRemoteError = "remote error"
	// maxMessage is the length that the API allows a probe's message, in runes.
	maxMessage = 512
)

// numbers are decimal numbers that stand alone in an error text. In the errors of crypto/tls they are lengths that the
// peer chose, so it could make every message differ from the last.
var numbers = regexp.MustCompile(`\b[0-9]+\b`)

func timedOut(err error) bool {
	var netError net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netError) && netError.Timeout()
}

// describe says in one line what failed, with nothing in it that differs between two equal failures: the errors of
// package net name the ephemeral port, and some of crypto/tls a number that the peer chose.
func describe(what string, err error) string {
	var (
		opError     *net.OpError
		recordError tls.RecordHeaderError
		errno       syscall.Errno
	)
	var cause string
	switch {
	case timedOut(err):
		return what + ": timed out"
	case errors.Is(err, context.Canceled):
		return what + ": canceled"
	case errors.Is(err, errTooManyBytes), errors.Is(err, errTooManyCertificates):
		cause = err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		cause = "the peer closed the connection"
	case errors.As(err, &recordError):
		cause = "the peer does not speak TLS"
	case errors.As(err, &errno):
		cause = errno.Error()
	case errors.As(err, &opError) && opError.Op == opRemoteError:
		cause = opRemoteError + ": " + opError.Err.Error()
	case errors.As(err, &opError) && opError.Err != nil:
		cause = numbers.ReplaceAllString(opError.Err.Error(), "N")
	default:
		cause = numbers.ReplaceAllString(err.Error(), "N")
	}
	return text.Field(what+": "+cause, maxMessage)
}
