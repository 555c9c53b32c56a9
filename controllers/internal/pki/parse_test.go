// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"bytes"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func TestParseCertificates(t *testing.T) {
	one, two := pkitest.NewCA("one"), pkitest.NewCA("two")
	onePEM, twoPEM := string(one.PEM()), string(two.PEM())
	broken := "PEM block 2 is broken: its BEGIN line, END line or base64 content is damaged"
	block := func(kind string, headers map[string]string, content []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: content}))
	}
	for name, tc := range map[string]struct {
		pem  string
		want []string // common names
		err  string
	}{
		"one":                      {pem: onePEM, want: []string{"one"}},
		"several, with repetition": {pem: onePEM + twoPEM + onePEM, want: []string{"one", "two", "one"}},
		"white space around":       {pem: "\n \t\n" + onePEM + "\r\n\n", want: []string{"one"}},
		"Windows line ends":        {pem: strings.ReplaceAll(onePEM+twoPEM, "\n", "\r\n"), want: []string{"one", "two"}},
		"explained":                {pem: "# One\n--------\n" + onePEM + "\n# Two\n" + twoPEM, want: []string{"one", "two"}},
		"text at end":              {pem: onePEM + twoPEM + "# This is all.\n-----\n", want: []string{"one", "two"}},

		"empty":           {err: "PEM data has no CERTIFICATE block: it is empty"},
		"white space":     {pem: " \n", err: "PEM data has no CERTIFICATE block: it is empty"},
		"not PEM":         {pem: "hello", err: "PEM data has no CERTIFICATE block"},
		"END line at end": {pem: onePEM + "hello\n-----END CERTIFICATE-----\n", err: broken},
		"cut off":         {pem: onePEM + twoPEM[:len(twoPEM)/2], err: broken},
		"damaged in the middle": {
			pem: onePEM + strings.Replace(twoPEM, "M", "!", 1) + onePEM,
			err: broken,
		},
		"indented": {pem: "  " + onePEM, err: "PEM block 1 is broken: its BEGIN line, END line or base64 content is damaged"},
		"BEGIN line lost in the middle": {
			pem: onePEM + strings.TrimPrefix(twoPEM, "-----BEGIN CERTIFICATE-----") + onePEM,
			err: broken,
		},
		"a private key": {
			pem: onePEM + string(two.KeyPEM()),
			err: `PEM block 2 has the type "PRIVATE KEY", want CERTIFICATE`,
		},
		"headers": {
			pem: block("CERTIFICATE", map[string]string{"A": "b"}, one.X509.Raw),
			err: "PEM block 1 has headers, which no certificate has",
		},
		"empty block": {pem: block("CERTIFICATE", nil, nil), err: "PEM block 1 is not an X.509 certificate: x509: malformed"},
		"garbage": {
			pem: onePEM + block("CERTIFICATE", nil, []byte("garbage")),
			err: "PEM block 2 is not an X.509 certificate: x509: malformed certificate",
		},
		"two in one block": {
			pem: block("CERTIFICATE", nil, slices.Concat(one.X509.Raw, two.X509.Raw)),
			err: "PEM block 1 is not an X.509 certificate: x509: trailing data",
		},
		"a type without end": {
			pem: block(strings.Repeat("X", 4096), nil, nil),
			err: `PEM block 1 has the type "` + strings.Repeat("X", 127) + `…", want CERTIFICATE`,
		},
		"as many as are read": {
			pem: strings.Repeat(onePEM, pki.MaxCertificates), want: slices.Repeat([]string{"one"}, pki.MaxCertificates),
		},
		"more than are read": {
			pem: strings.Repeat(onePEM, pki.MaxCertificates+1),
			err: "PEM data has more than the 512 CERTIFICATE blocks that are read",
		},
		"larger than is read": {
			pem: onePEM + strings.Repeat("\n", pki.MaxPEMBytes),
			err: "larger than the 1048576 bytes that are read",
		},
	} {
		t.Run(name, func(t *testing.T) {
			certs, err := pki.ParseCertificates([]byte(tc.pem))
			wantError(t, err, tc.err)
			var names []string
			for _, cert := range certs {
				names = append(names, cert.Subject.CommonName)
			}
			if diff := cmp.Diff(tc.want, names); diff != "" {
				t.Errorf("common names (-want +got):\n%s", diff)
			}
		})
	}
}

// wantError wants an error that contains text, or none if text is empty.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Fatalf("got error %q, want none", err)
	case text != "" && err == nil:
		t.Fatalf("got no error, want %q", text)
	case text != "" && !strings.Contains(err.Error(), text):
		t.Fatalf("got error %q, want %q in it", err, text)
	}
}

// FuzzParseCertificates looks for input that makes the parser or what reads its results panic, that gives
// certificates and an error or neither, or whose error is long.
func FuzzParseCertificates(f *testing.F) {
	ca := pkitest.NewCA("cluster-ca")
	leaf := ca.Leaf(pkitest.Node("node-1"), pkitest.IPAddresses("127.0.0.1"), pkitest.DNSNames("node-1"))
	f.Add(leaf.PEM())
	f.Add(slices.Concat(leaf.PEM(), []byte("text\n"), ca.PEM()))
	f.Add(pkitest.KubeletSelfSigned("node-1").ChainPEM())
	f.Add(pkitest.AKSSelfSigned("node-1").PEM()[:300])
	f.Add(ca.KeyPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add(slices.Concat([]byte("-----BEGIN CERTIFICATE-----\nMII\n"), ca.PEM()))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := pki.ParseCertificates(data)
		if (err == nil) == (len(certs) == 0) {
			t.Fatalf("got %d certificates and error %v", len(certs), err)
		}
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
			return
		}
		if len(certs) != bytes.Count(data, []byte("-----BEGIN ")) {
			t.Errorf("got %d certificates of %d blocks", len(certs), bytes.Count(data, []byte("-----BEGIN ")))
		}
		exercise(t, data)
	})
}

// FuzzPresentedCertificate does with a certificate that a node presents whatever is done with one, without the PEM
// that a fuzzer finds hard to keep intact.
func FuzzPresentedCertificate(f *testing.F) {
	ca := pkitest.NewCA("cluster-ca")
	f.Add(ca.X509.Raw)
	f.Add(ca.Leaf(pkitest.Node("node-1"), pkitest.IPAddresses("127.0.0.1", "fd00::1")).X509.Raw)
	f.Add(pkitest.KubeletSelfSigned("node-1").X509.Raw)
	f.Add(pkitest.AKSSelfSigned("node-1").X509.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if _, err := pki.ParseCertificates(data); err == nil {
			exercise(t, data)
		}
	})
}
