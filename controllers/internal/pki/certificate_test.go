// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/x509"
	"math"
	"math/big"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func TestLifetimeAt(t *testing.T) {
	start := pkitest.Start()
	day := 24 * time.Hour
	hundredDays := pki.Lifetime{NotBefore: start, NotAfter: start.Add(100 * day)}
	for name, tc := range map[string]struct {
		lifetime pki.Lifetime
		percent  int32
		want     time.Time
	}{
		"start":                {hundredDays, 0, start},
		"eighty percent":       {hundredDays, 80, start.Add(80 * day)},
		"end":                  {hundredDays, 100, start.Add(100 * day)},
		"below zero is start":  {hundredDays, -5, start},
		"above hundred is end": {hundredDays, math.MaxInt32, start.Add(100 * day)},
		"three minutes, to the millisecond": {
			pki.Lifetime{NotBefore: start, NotAfter: start.Add(61 * time.Second)}, 90, start.Add(54900 * time.Millisecond),
		},
		"below a second": {
			pki.Lifetime{NotBefore: start.Add(999 * time.Millisecond), NotAfter: start.Add(1999 * time.Millisecond)}, 50,
			start.Add(1499 * time.Millisecond),
		},
		"a CA of thirty years": {
			pki.Lifetime{NotBefore: start, NotAfter: start.Add(30 * 365 * day)}, 80, start.Add(24 * 365 * day),
		},
		"longer than a time.Duration holds": {
			pki.Lifetime{NotBefore: start, NotAfter: start.AddDate(7973, 11, 30)}, 50,
			time.Unix((start.Unix()+start.AddDate(7973, 11, 30).Unix())/2, 0).UTC(),
		},
		"eight thousand years": {
			pki.Lifetime{NotBefore: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(8000, 1, 1, 0, 0, 0, 0, time.UTC)},
			75, time.Date(6000, 1, 1, 0, 0, 0, 0, time.UTC),
		},
		"ends before it starts": {pki.Lifetime{NotBefore: start, NotAfter: start.Add(-day)}, 50, start.Add(-day)},
		"ends as it starts":     {pki.Lifetime{NotBefore: start, NotAfter: start}, 50, start},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.lifetime.At(tc.percent)); diff != "" {
				t.Errorf("At(%d) (-want +got):\n%s", tc.percent, diff)
			}
		})
	}
}

func TestLifetimeDuration(t *testing.T) {
	start := pkitest.Start()
	for name, tc := range map[string]struct {
		notAfter time.Time
		want     time.Duration
	}{
		"a day":                  {start.Add(24 * time.Hour), 24 * time.Hour},
		"ends before it starts":  {start.Add(-time.Hour), 0},
		"without expiry":         {time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), math.MaxInt64},
		"of a built certificate": {pkitest.NewCA("ca").Leaf().X509.NotAfter, pkitest.LeafLifetime},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, pki.Lifetime{NotBefore: start, NotAfter: tc.notAfter}.Duration()); diff != "" {
				t.Errorf("Duration() (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzLifetimeAt looks for a threshold outside of the lifetime, or one that a higher percentage reaches earlier.
func FuzzLifetimeAt(f *testing.F) {
	f.Add(int64(0), int64(3600), int32(80))
	f.Add(int64(-62135596800), int64(253402300799), int32(99))
	f.Add(int64(5), int64(4), int32(-1))
	f.Fuzz(func(t *testing.T, notBefore, notAfter int64, percent int32) {
		// What ASN.1 can encode: the years 0 to 9999.
		const first, last = -62167219200, 253402300799
		if min(notBefore, notAfter) < first || max(notBefore, notAfter) > last {
			t.Skip()
		}
		lifetime := pki.Lifetime{NotBefore: time.Unix(notBefore, 0), NotAfter: time.Unix(notAfter, 0)}
		at := lifetime.At(percent)
		if at.After(lifetime.NotAfter) || (notBefore <= notAfter && at.Before(lifetime.NotBefore)) {
			t.Errorf("At(%d) = %s is outside of %s to %s", percent, at, lifetime.NotBefore, lifetime.NotAfter)
		}
		if percent < math.MaxInt32 && lifetime.At(percent+1).Before(at) {
			t.Errorf("At(%d) = %s is before At(%d) = %s", percent+1, lifetime.At(percent+1), percent, at)
		}
	})
}

func TestSerialNumber(t *testing.T) {
	for name, tc := range map[string]struct {
		serial *big.Int
		want   string
	}{
		"lower case":          {big.NewInt(0xABCDEF), "abcdef"},
		"zero":                {big.NewInt(0), "0"},
		"negative":            {big.NewInt(-255), "ff"},
		"absent":              {nil, ""},
		"longer than allowed": {new(big.Int).Lsh(big.NewInt(0xA), 1<<20), "a" + strings.Repeat("0", pki.MaxSerialNumberLength-1)},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, pki.SerialNumber(&x509.Certificate{SerialNumber: tc.serial})); diff != "" {
				t.Errorf("SerialNumber() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFingerprintIsWhatOpenSSLPrints(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	cert := pkitest.NewCA("cluster-ca")
	command := exec.CommandContext(t.Context(), "openssl", "x509", "-noout", "-fingerprint", "-sha256")
	command.Stdin = strings.NewReader(string(cert.PEM()))
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(strings.TrimSpace(string(output)), "=")
	want = strings.ToLower(strings.ReplaceAll(want, ":", ""))
	if diff := cmp.Diff(want, pki.Fingerprint(cert.X509)); diff != "" {
		t.Errorf("Fingerprint() (-openssl +got):\n%s", diff)
	}
}

func TestCoversAddress(t *testing.T) {
	ca := pkitest.NewCA("cluster-ca")
	named := ca.Leaf(
		pkitest.CommonName("10.0.0.9"), pkitest.DNSNames("10.0.0.8", "node-1"), pkitest.IPAddresses("10.0.0.1", "fd00::1"))
	for name, tc := range map[string]struct {
		address string
		want    bool
	}{
		"IPv4":                          {"10.0.0.1", true},
		"IPv6":                          {"fd00::1", true},
		"IPv4 mapped into IPv6":         {"::ffff:10.0.0.1", true},
		"IPv6 with a zone":              {"fd00::1%eth0", true},
		"another address":               {"10.0.0.2", false},
		"a DNS name like an address":    {"10.0.0.8", false},
		"a common name like an address": {"10.0.0.9", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := pki.CoversAddress(named.X509, netip.MustParseAddr(tc.address)); got != tc.want {
				t.Errorf("CoversAddress(%s) = %t, want %t", tc.address, got, tc.want)
			}
		})
	}
	if pki.CoversAddress(named.X509, netip.Addr{}) {
		t.Error("CoversAddress of no address = true, want false")
	}
	mapped := &x509.Certificate{IPAddresses: []net.IP{netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()}}
	if !pki.CoversAddress(mapped, netip.MustParseAddr("10.0.0.1")) {
		t.Error("CoversAddress with an IPv4-mapped SAN = false, want true")
	}
	odd := &x509.Certificate{IPAddresses: []net.IP{{10, 0, 0}, nil}}
	if pki.CoversAddress(odd, netip.MustParseAddr("10.0.0.0")) {
		t.Error("CoversAddress with a SAN of three bytes = true, want false")
	}
}
