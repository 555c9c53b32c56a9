// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/util/cert"

	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

// exercise does whatever is done with certificates that parsed.
func exercise(t *testing.T, pemData []byte) {
	t.Helper()
	bundle, err := pki.NewTrustBundle(pemData)
	if err != nil {
		t.Fatal(err)
	}
	chain := bundle.Certificates()
	other, err := pki.NewTrustBundle(fuzzRoot.PEM())
	if err != nil {
		t.Fatal(err)
	}
	pki.SelfSigned(chain)
	for _, b := range []*pki.TrustBundle{bundle, other} {
		if err := b.VerifyServing(chain, pkitest.Start()); err != nil && len(err.Error()) > 1024 {
			t.Errorf("error has %d bytes", len(err.Error()))
		}
	}
	for _, cert := range chain {
		if serial := pki.SerialNumber(cert); serial == "" || len(serial) > pki.MaxSerialNumberLength {
			t.Errorf("serial number %q", serial)
		}
		pki.CoversAddress(cert, netip.IPv6Loopback())
		pki.LifetimeOf(cert).At(80)
	}
}

var fuzzRoot = pkitest.NewCA("cluster-ca")

func TestVerifyServing(t *testing.T) {
	day := 24 * time.Hour
	start := pkitest.Start()
	now := start.Add(10 * day)
	lifetime := func(from, to int) pkitest.Option {
		return pkitest.Lifetime(start.Add(time.Duration(from)*day), start.Add(time.Duration(to)*day))
	}

	cluster, other := pkitest.NewCA("cluster-ca"), pkitest.NewCA("other-ca")
	impostor := pkitest.NewCA("cluster-ca") // Same name, another key.
	expired := pkitest.NewCA("expired-ca", lifetime(0, 5))
	renewed := expired.Renewed(lifetime(0, 1000))
	future := pkitest.NewCA("future-ca", lifetime(20, 1000))
	lapsed := cluster.Intermediate("lapsed-intermediate", lifetime(0, 5))
	notCA := pkitest.NewCA("no-ca", pkitest.Template(func(c *x509.Certificate) { c.IsCA = false }))
	constrained := pkitest.NewCA("constrained-ca", pkitest.Template(func(c *x509.Certificate) {
		c.PermittedDNSDomains = []string{"example.com"}
	}))
	ordinary := cluster.Leaf(pkitest.Node("node-1"))
	viaIntermediate := cluster.Intermediate("issuing-ca").Leaf(pkitest.Node("node-1"))

	forClients := cluster.Leaf(pkitest.ExtKeyUsages(x509.ExtKeyUsageClientAuth))
	byLeaf := (&pkitest.CA{Certificate: *ordinary}).Leaf()

	for name, tc := range map[string]struct {
		bundle []*x509.Certificate
		chain  []*x509.Certificate
		err    string
		reason error
	}{
		"signed by the CA":                    {bundle: certs(cluster), chain: ordinary.Chain()},
		"signed by one of several CAs":        {bundle: certs(other, expired, cluster), chain: ordinary.Chain()},
		"signed by an intermediate presented": {bundle: certs(cluster), chain: viaIntermediate.Chain()},
		"the root presented as well":          {bundle: certs(cluster), chain: append(ordinary.Chain(), cluster.X509)},
		"any usage":                           {bundle: certs(cluster), chain: cluster.Leaf(pkitest.ExtKeyUsages()).Chain()},
		"without a name of any kind":          {bundle: certs(cluster), chain: cluster.Leaf().Chain()},
		"expired, signed by the CA":           {bundle: certs(cluster), chain: cluster.Leaf(lifetime(0, 5)).Chain()},
		"expired together with its CA":        {bundle: certs(expired), chain: expired.Leaf(lifetime(0, 5)).Chain()},
		"expired before its CA did":           {bundle: certs(expired), chain: expired.Leaf(lifetime(0, 4)).Chain()},
		"not yet valid, signed by the CA":     {bundle: certs(cluster), chain: cluster.Leaf(lifetime(20, 30)).Chain()},
		"the CA renewed with the same key":    {bundle: certs(expired, renewed), chain: expired.Leaf().Chain()},
		"the very certificate in the bundle":  {bundle: []*x509.Certificate{ordinary.X509}, chain: ordinary.Chain()},

		"nothing presented": {bundle: certs(cluster), err: "no certificate was presented"},
		"another CA": {
			bundle: certs(cluster), chain: other.Leaf().Chain(),
			err: `certificate of issuer "other-ca" does not verify: x509: certificate signed by unknown authority`,
		},
		"another CA, its root presented": {
			bundle: certs(cluster), chain: append(other.Leaf().Chain(), other.X509),
			err: `certificate of issuer "other-ca" does not verify: x509: certificate signed by unknown authority`,
		},
		"another CA of the same name": {
			bundle: certs(cluster), chain: append(impostor.Leaf().Chain(), impostor.X509),
			err: `certificate of issuer "cluster-ca" does not verify: x509: certificate signed by unknown authority (possibly because of`,
		},
		"an intermediate not presented": {
			bundle: certs(cluster), chain: viaIntermediate.Chain()[:1],
			err: `certificate of issuer "issuing-ca" does not verify: x509: certificate signed by unknown authority`,
		},
		"self-signed":           {bundle: certs(cluster), chain: pkitest.KubeletSelfSigned("node-1").Chain(), err: "unknown authority"},
		"signed by itself":      {bundle: certs(cluster), chain: pkitest.AKSSelfSigned("node-1").Chain(), err: "unknown authority"},
		"for clients only":      {bundle: certs(cluster), chain: forClients.Chain(), err: "incompatible key usage"},
		"signed by a leaf":      {bundle: certs(cluster), chain: append(byLeaf.Chain(), ordinary.X509), err: "unknown authority"},
		"the bundle's not a CA": {bundle: certs(notCA), chain: notCA.Leaf().Chain(), err: "unknown authority (possibly because of"},
		"name out of the CA's constraints": {
			bundle: certs(constrained), chain: constrained.Leaf(pkitest.DNSNames("node-1")).Chain(),
			err: "not authorized to sign for this name",
		},
		"never valid": {
			bundle: certs(cluster), chain: cluster.Leaf(pkitest.CommonName("never"), lifetime(30, 20)).Chain(),
			err: `certificate "never" is never valid: its notAfter is before its notBefore`,
		},

		"the CA has expired": {
			bundle: certs(cluster, expired), chain: expired.Leaf().Chain(), reason: pki.ErrCAExpired,
			err: `the trust bundle's CA "expired-ca" expired at 2026-01-06T00:00:00Z`,
		},
		"the CA has expired, the renewed one presented": {
			bundle: certs(expired), chain: append(expired.Leaf().Chain(), renewed.X509), reason: pki.ErrCAExpired,
			err: `the trust bundle's CA "expired-ca" expired at 2026-01-06T00:00:00Z`,
		},
		"the CA has expired, an intermediate has not": {
			bundle: certs(expired), chain: expired.Intermediate("issuing-ca").Leaf().Chain(), reason: pki.ErrCAExpired,
			err: `the trust bundle's CA "expired-ca" expired at 2026-01-06T00:00:00Z`,
		},
		"the CA is not yet valid": {
			bundle: certs(future), chain: future.Leaf().Chain(), reason: pki.ErrCAExpired,
			err: `the trust bundle's CA "future-ca" is not valid before 2026-01-21T00:00:00Z`,
		},
		"an intermediate has expired": {
			bundle: certs(cluster), chain: lapsed.Leaf().Chain(),
			err: `the intermediate CA "lapsed-intermediate" expired at 2026-01-06T00:00:00Z`,
		},
		"an expired CA of the same name did not sign": {
			bundle: certs(pkitest.NewCA("other-ca", lifetime(0, 5))), chain: other.Leaf().Chain(), err: "unknown authority",
		},

		"as long as is looked at": {
			bundle: certs(cluster), chain: append(ordinary.Chain(), slices.Repeat(certs(other), pki.MaxChainLength-1)...),
		},
		"longer than is looked at": {
			bundle: certs(cluster), chain: append(ordinary.Chain(), slices.Repeat(certs(other), 5000)...),
			err: "5001 certificates were presented, more than the 16 that are looked at",
		},
		"a giant RSA key": {
			bundle: certs(cluster), chain: append(ordinary.Chain(), withRSAKey(other.X509, 1<<16)),
			err: "presented certificate 2 has an RSA key of 65537 bits, more than the 8192 that are used",
		},
		"hostile names": {
			bundle: certs(cluster), chain: pkitest.NewCA("evil\n\x1b[2J" + strings.Repeat("x", 100_000)).Leaf().Chain(),
			err: `certificate of issuer "evil\n\x1b[2Jxxx`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bundle, err := pki.NewTrustBundle(pkitest.PEM(tc.bundle...))
			if err != nil {
				t.Fatal(err)
			}
			err = bundle.VerifyServing(tc.chain, now)
			wantError(t, err, tc.err)
			if expired := errors.Is(err, pki.ErrCAExpired); expired != (tc.reason != nil) {
				t.Errorf("errors.Is(%v, ErrCAExpired) = %t", err, expired)
			}
			if err == nil {
				return
			}
			if len(err.Error()) > 512 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
			later := bundle.VerifyServing(tc.chain, now.Add(time.Minute))
			if diff := cmp.Diff(err.Error(), later.Error()); diff != "" {
				t.Errorf("error moves with time (-now +later):\n%s", diff)
			}
		})
	}
}

func certs(cas ...*pkitest.CA) []*x509.Certificate {
	var result []*x509.Certificate
	for _, ca := range cas {
		result = append(result, ca.X509)
	}
	return result
}

func withRSAKey(cert *x509.Certificate, bits uint) *x509.Certificate {
	changed := *cert
	changed.PublicKey = &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits), E: 65537}
	return &changed
}

func TestVerifyServingKeepsTheCause(t *testing.T) {
	bundle, err := pki.NewTrustBundle(pkitest.NewCA("cluster-ca").PEM())
	if err != nil {
		t.Fatal(err)
	}
	err = bundle.VerifyServing(pkitest.NewCA("other-ca").Leaf().Chain(), pkitest.Start())
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("%v is no x509.UnknownAuthorityError", err)
	}
}

func TestTrustBundle(t *testing.T) {
	one, two := pkitest.NewCA("one"), pkitest.NewCA("two")
	parse := func(data []byte) *pki.TrustBundle {
		bundle, err := pki.NewTrustBundle(data)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	bundle := parse(pkitest.PEM(one.X509, two.X509))
	same := parse(slices.Concat([]byte("# reordered\n"), two.PEM(), one.PEM(), two.PEM(), []byte("\n")))

	if bundle.Fingerprint() != same.Fingerprint() || len(bundle.Fingerprint()) != 64 {
		t.Errorf("fingerprints of one set: %q and %q", bundle.Fingerprint(), same.Fingerprint())
	}
	if less := parse(one.PEM()); less.Fingerprint() == bundle.Fingerprint() {
		t.Error("fingerprint is the same with a CA less")
	}
	if got := len(same.Certificates()); got != 2 {
		t.Errorf("a bundle of 2 CAs, one of them twice, has %d certificates", got)
	}
	bundle.Certificates()[0] = two.X509
	if diff := cmp.Diff("one", bundle.Certificates()[0].Subject.CommonName); diff != "" {
		t.Errorf("a caller changed the bundle (-want +got):\n%s", diff)
	}

	_, err := pki.NewTrustBundle([]byte("hello"))
	wantError(t, err, "trust bundle: PEM data has no CERTIFICATE block")
}

func TestSelfSigned(t *testing.T) {
	cluster := pkitest.NewCA("cluster-ca")
	kubelet := pkitest.KubeletSelfSigned("node-1")
	named := func(issuer, subject string) []*x509.Certificate {
		return pkitest.NewCA(issuer).Leaf(pkitest.CommonName(subject)).Chain()
	}
	sameName := cluster.Leaf(pkitest.CommonName("cluster-ca"))

	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		want  bool
	}{
		"by the kubelet":                          {kubelet.Chain(), true},
		"by the kubelet, its CA not presented":    {kubelet.Chain()[:1], true},
		"by the kubelet, a host with an @":        {named("a@b-ca@1735689600", "a@b@1735689601"), true},
		"by the kubelet, an address for a host":   {named("10.0.0.1-ca@1735689600", "10.0.0.1@1735689601"), true},
		"by itself, as on AKS":                    {pkitest.AKSSelfSigned("node-1").Chain(), true},
		"by itself, not a CA":                     {pkitest.SelfSigned(pkitest.CommonName("node-1")).Chain(), true},
		"by the Cluster CA":                       {cluster.Leaf(pkitest.Node("node-1")).Chain(), false},
		"by another CA, its root presented":       {append(cluster.Leaf().Chain(), cluster.X509), false},
		"by a CA of the same name as the subject": {sameName.Chain(), false},
		"issuer of another host":                  {named("node-2-ca@1735689600", "node-1@1735689600"), false},
		"issuer without a time":                   {named("node-1-ca@", "node-1@1735689600"), false},
		"subject without a time":                  {named("node-1-ca@1735689600", "node-1@now"), false},
		"no host":                                 {named("-ca@1735689600", "@1735689600"), false},
		"nothing presented":                       {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := pki.SelfSigned(tc.chain); got != tc.want {
				t.Errorf("SelfSigned() = %t, want %t", got, tc.want)
			}
		})
	}
}

func TestSelfSignedKnowsWhatKubeletsMake(t *testing.T) {
	data, _, err := cert.GenerateSelfSignedCertKey("node-1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	if !pki.SelfSigned(chain) {
		t.Errorf("SelfSigned() = false for subject %s, issuer %s", chain[0].Subject, chain[0].Issuer)
	}
}

func TestHostileCertificates(t *testing.T) {
	var names []string
	for range 5000 {
		names = append(names, strings.Repeat("n", 60)+".example")
	}
	for name, options := range map[string][]pkitest.Option{
		"thousands of names": {pkitest.DNSNames(names...)},
		"a serial of 8 KiB":  {pkitest.SerialNumber(new(big.Int).Lsh(big.NewInt(1), 65_535))},
		"an unknown critical extension": {pkitest.Template(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})},
	} {
		t.Run(name, func(t *testing.T) { exercise(t, fuzzRoot.Leaf(options...).PEM()) })
	}
}

func BenchmarkVerifyServing(b *testing.B) {
	ca := pkitest.NewCA("cluster-ca")
	chain := ca.Leaf(pkitest.Node("node-1"), pkitest.IPAddresses("10.0.0.1")).Chain()
	bundle, err := pki.NewTrustBundle(ca.PEM())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("TrustBundle.VerifyServing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := bundle.VerifyServing(chain, pkitest.Start()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("x509.Certificate.Verify", func(b *testing.B) {
		roots := x509.NewCertPool()
		roots.AddCert(ca.X509)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: pkitest.Start()}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
