// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"log"

	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func encoded(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func tlsConfig(certificate *pkitest.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate.TLS()}}
}

// quiet is for servers whose clients are expected to refuse them.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// withSubject gives a certificate exactly this name.
func withSubject(name pkix.Name) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject = name }
}
