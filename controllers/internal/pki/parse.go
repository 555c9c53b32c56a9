// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// MaxPEMBytes is how much PEM ParseCertificates reads: the most that a ConfigMap holds.
	MaxPEMBytes = 1 << 20
	// MaxCertificates is how many certificates ParseCertificates reads. The bundle of all public CAs has about 150.
	MaxCertificates = 512
)

const certificateBlock = "CERTIFICATE"

// beginLine and endLine enclose a PEM block's content.
var beginLine, endLine = []byte("-----BEGIN "), []byte("-----END ")

// ParseCertificates reads a bundle of certificates: one or more PEM blocks of type CERTIFICATE with one certificate
// each. Text that explains a block may stand before it, as RFC 7468 section 5.2 allows, and text may follow the last one,
// which whoever loads the bundle passes over. Everything else is an error that names the block, because a certificate left
// out silently changes what a bundle trusts: a block of another type, a broken block (which encoding/pem skips), more than
// MaxPEMBytes or MaxCertificates.
func ParseCertificates(pemData []byte) ([]*x509.Certificate, error) {
	if len(pemData) > MaxPEMBytes {
		return nil, fmt.Errorf("PEM data of %d bytes is larger than the %d bytes that are read", len(pemData), MaxPEMBytes)
	}
	var certs []*x509.Certificate
	for rest := pemData; bytes.Contains(rest, beginLine) || bytes.Contains(rest, endLine); {
		number := len(certs) + 1
		if number > MaxCertificates {
			return nil, fmt.Errorf("PEM data has more than the %d CERTIFICATE blocks that are read", MaxCertificates)
		}
		block, next := pem.Decode(rest)
		consumed := rest
		if block != nil {
			consumed = rest[:len(rest)-len(next)]
		}
		if err := checkBlock(block, consumed, number); err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d is not an X.509 certificate: %w", number, bound(err))
		}
		certs, rest = append(certs, cert), next
	}
	switch {
	case len(certs) > 0:
		return certs, nil
	case len(bytes.TrimSpace(pemData)) == 0:
		return nil, errors.New("PEM data has no CERTIFICATE block: it is empty")
	}
	return nil, errors.New("PEM data has no CERTIFICATE block")
}

// checkBlock judges what pem.Decode made of the text it consumed, which is all there was when it found no block.
func checkBlock(block *pem.Block, consumed []byte, number int) error {
	begins, ends := bytes.Count(consumed, beginLine), bytes.Count(consumed, endLine)
	switch {
	case block == nil || begins != 1 || ends != 1:
		// More than one of each: pem.Decode skipped a damaged block to get to the next.
		return fmt.Errorf("PEM block %d is broken: its BEGIN line, END line or base64 content is damaged", number)
	case block.Type != certificateBlock:
		return fmt.Errorf("PEM block %d has the type %s, want %s", number, quote(block.Type), certificateBlock)
	case len(block.Headers) > 0:
		return fmt.Errorf("PEM block %d has headers, which no certificate has", number)
	}
	return nil
}
