// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// maxMessage is the length that the API allows a message, in runes.
const maxMessage = 512

var (
	errStatus   = errors.New("the kubelet answers with status")
	errAbsent   = fmt.Errorf("%w %d", errStatus, http.StatusNotFound)
	errEncoding = errors.New("the answer is compressed, though it was asked for as it is")
)

// AccessError is evidence that may not be read.
type AccessError struct {
	// Permission is what is missing: verb and resource.
	Permission string
	// Reason says who refuses what, and the fix.
	Reason string
}

// Error implements error.
func (e *AccessError) Error() string { return e.Reason }

// refused is the permission that is missing; empty when it is not that.
func refused(err error) (permission string) {
	if access, ok := errors.AsType[*AccessError](err); ok {
		return access.Permission
	}
	return ""
}

// outcome turns errors into a result: Read when there is none.
func outcome(errs ...error) Result {
	result := Result{Outcome: v1alpha1.KubeletRead}
	var parts []string
	for _, err := range errs {
		if err == nil {
			continue
		}
		parts = append(parts, cause(err))
		if permission := refused(err); permission != "" {
			result.Missing = append(result.Missing, permission)
		}
		result.TimedOut = result.TimedOut || timedOut(err)
		// Of two, the one that somebody has to act on.
		if result.Outcome != v1alpha1.KubeletAccessDenied {
			result.Outcome = outcomeOf(err)
		}
	}
	result.Message = text.Field(strings.Join(parts, "; "), maxMessage)
	return result
}

func outcomeOf(err error) v1alpha1.KubeletOutcome {
	switch {
	case refused(err) != "":
		return v1alpha1.KubeletAccessDenied
	case unverified(err):
		return v1alpha1.KubeletUnverified
	}
	return v1alpha1.KubeletFailed
}

// unverified says that the connection was given up because of the peer's certificate.
func unverified(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// tooLong says that there was more to read than the limit.
func tooLong(err error) bool {
	_, ok := errors.AsType[*http.MaxBytesError](err)
	return ok
}

func timedOut(err error) bool {
	netError, ok := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || ok && netError.Timeout()
}

// numbers are decimal numbers that stand alone in an error text: lengths, ephemeral ports and the like, which would make
// every message differ from the last.
var numbers = regexp.MustCompile(`\b[0-9]+\b`)

// cause says what failed, with nothing in it that differs between two equal failures. The errors begin with what was done.
func cause(err error) string {
	if access, ok := errors.AsType[*AccessError](err); ok {
		return access.Reason
	}
	doing, _, _ := strings.Cut(err.Error(), ": ")
	switch {
	case timedOut(err):
		return doing + ": timed out"
	case errors.Is(err, context.Canceled):
		return doing + ": canceled"
	case errors.Is(err, errStatus):
		return err.Error()
	case errors.Is(err, errHandshakeTooLong):
		return doing + ": " + errHandshakeTooLong.Error()
	case tooLong(err):
		return doing + ": the answer is too long"
	case unverified(err):
		return "its serving certificate does not verify: " + certificateCause(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		return doing + ": the peer closed the connection"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return doing + ": " + errno.Error()
	}
	return numbers.ReplaceAllString(err.Error(), "N")
}

// certificateCause leaves the present time out, which crypto/x509 names.
func certificateCause(err error) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "it, or its CA, has expired or is not valid yet"
	}
	if hostname, ok := errors.AsType[x509.HostnameError](err); ok {
		return "it does not name " + hostname.Host
	}
	if verification, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return verification.Err.Error()
	}
	return err.Error()
}
