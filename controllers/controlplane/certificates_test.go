// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func bundleOf(t *testing.T, certs ...*x509.Certificate) *pki.TrustBundle {
	t.Helper()
	bundle, err := pki.NewTrustBundle(pkitest.PEM(certs...))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func years(from, to int) pkitest.Option {
	return pkitest.Lifetime(pkitest.Start().AddDate(from, 0, 0), pkitest.Start().AddDate(to, 0, 0))
}

func TestStale(t *testing.T) {
	current := pkitest.NewCA("kubernetes", years(0, 10))
	old := pkitest.NewCA("kubernetes", years(-10, 1))
	stranger := pkitest.NewCA("webhook-ca")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		certs []*x509.Certificate
		want  bool
	}{
		"nothing":                          {nil, false},
		"current":                          {[]*x509.Certificate{current.X509}, false},
		"current, renewed with its key":    {[]*x509.Certificate{current.Renewed(years(-1, 2)).X509}, false},
		"old":                              {[]*x509.Certificate{old.X509}, true},
		"two old ones":                     {[]*x509.Certificate{old.X509, pkitest.NewCA("kubernetes", years(-20, 0)).X509}, true},
		"old and current":                  {[]*x509.Certificate{old.X509, current.X509}, false},
		"stranger":                         {[]*x509.Certificate{stranger.X509}, false},
		"old and stranger":                 {[]*x509.Certificate{old.X509, stranger.X509}, false},
		"same name, younger":               {[]*x509.Certificate{pkitest.NewCA("kubernetes", years(1, 2)).X509}, false},
		"same name, another kind of key":   {[]*x509.Certificate{pkitest.NewCA("kubernetes", years(-1, 2), pkitest.Key(rsaKey)).X509}, false},
		"same name, signed by a stranger":  {[]*x509.Certificate{stranger.Intermediate("kubernetes", years(-1, 2)).X509}, false},
		"same name, a self-signed no-CA":   {[]*x509.Certificate{pkitest.SelfSigned(pkitest.CommonName("kubernetes"), years(-1, 2)).X509}, false},
		"signed by current, not it itself": {[]*x509.Certificate{current.Leaf(pkitest.CommonName("webhook")).X509}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var cas clusterCAs
			cas.update(bundleOf(t, current.X509))
			if got := cas.stale(test.certs); got != test.want {
				t.Errorf("stale is %v, want %v", got, test.want)
			}
		})
	}
}

func TestStaleRemembersWhatWasReplaced(t *testing.T) {
	first, second := pkitest.NewCA("first"), pkitest.NewCA("second")
	var cas clusterCAs
	if cas.stale([]*x509.Certificate{first.X509}) {
		t.Error("something is stale before the Cluster CA is known")
	}
	cas.update(bundleOf(t, first.X509))
	cas.update(bundleOf(t, first.X509, second.X509))
	if cas.stale([]*x509.Certificate{first.X509}) {
		t.Error("the outgoing CA is stale while it is in the bundle")
	}
	cas.update(bundleOf(t, second.X509))
	if !cas.stale([]*x509.Certificate{first.X509}) || cas.stale([]*x509.Certificate{second.X509}) {
		t.Error("want the first stale, and the second not")
	}
	cas.update(bundleOf(t, first.X509))
	if cas.stale([]*x509.Certificate{first.X509}) || !cas.stale([]*x509.Certificate{second.X509}) {
		t.Error("after going back, want the second stale, and the first not")
	}
}

func TestIssuerNotAfter(t *testing.T) {
	root := pkitest.NewCA("root", years(0, 3))
	intermediate := root.Intermediate("intermediate", years(0, 2))
	renewed := root.Renewed(years(1, 8))
	end := func(years int) time.Time { return pkitest.Start().AddDate(years, 0, 0) }
	for name, test := range map[string]struct {
		trusted []*x509.Certificate
		chain   []*x509.Certificate
		want    time.Time
	}{
		"the root":                        {[]*x509.Certificate{root.X509}, root.Leaf(years(0, 9)).Chain(), end(3)},
		"an intermediate, which is first": {[]*x509.Certificate{root.X509}, intermediate.Leaf(years(0, 9)).Chain(), end(2)},
		"an intermediate that is trusted": {[]*x509.Certificate{intermediate.X509}, intermediate.Leaf(years(0, 9)).Chain(), end(2)},
		"renewed root, not valid at first": {
			[]*x509.Certificate{root.X509, renewed.X509}, root.Leaf(years(0, 9)).Chain(), end(8),
		},
		"a stranger":   {[]*x509.Certificate{root.X509}, pkitest.NewCA("other").Leaf(years(0, 9)).Chain(), time.Time{}},
		"no expiry":    {[]*x509.Certificate{pkitest.NewCA("root", years(0, 7900), pkitest.Key(root.Key)).X509}, root.Leaf(years(0, 9)).Chain(), end(7900)},
		"expired leaf": {[]*x509.Certificate{root.X509}, root.Leaf(years(0, 1)).Chain(), end(3)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := issuerNotAfter(bundleOf(t, test.trusted...), test.chain); !got.Equal(test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestDescribed(t *testing.T) {
	ca := pkitest.NewCA(strings.Repeat("ä\u202e", 300), pkitest.Lifetime(time.Unix(-10, 0), time.Unix(1e9, 0)))
	got := described("ClusterCA", "kube-system/ca", ca.X509)
	if n := len([]rune(got.Subject)); n != maxName || strings.Contains(got.Subject, "\u202e") {
		t.Errorf("subject of %d runes %q, want %d printable ones", n, got.Subject, maxName)
	}
	if got.NotBefore.IsZero() || got.NotBefore.Before(earliest) || got.SHA256 != pki.Fingerprint(ca.X509) {
		t.Errorf("got %+v", got)
	}
	if n := len(describedBundle("ClusterCA", "", []*x509.Certificate{ca.X509, ca.X509})); n != 1 {
		t.Errorf("a certificate that is in a bundle twice is described %d times", n)
	}
}

func TestSteady(t *testing.T) {
	for text, want := range map[string]string{
		"read tcp 10.0.0.1:45678->10.0.0.2:443: connection reset": "read tcp 10.0.0.1->10.0.0.2:443: connection reset",
		"expired: current time 2026-11-23T13:00:00Z is after 2026-01-01T00:00:00Z": "expired: current time is after " +
			"2026-01-01T00:00:00Z",
		"404 from https://10.0.0.2:443/apis": "404 from https://10.0.0.2:443/apis",
	} {
		if got := steady(text); got != want {
			t.Errorf("steady(%q) is %q, want %q", text, got, want)
		}
	}
}
