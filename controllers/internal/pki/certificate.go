// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"net/netip"
	"time"
)

// MaxSerialNumberLength is the length, in characters, at which SerialNumber cuts off. RFC 5280 section 4.1.2.2 allows
// 40, but a node can present what it likes.
const MaxSerialNumberLength = 64

// Fingerprint is the SHA-256 of the certificate's DER encoding in lower-case hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// SerialNumber is the certificate's serial number in lower-case hexadecimal without leading zeros, cut off after
// MaxSerialNumberLength characters. Use Fingerprint to tell certificates apart.
func SerialNumber(cert *x509.Certificate) string {
	if cert.SerialNumber == nil {
		return ""
	}
	text := new(big.Int).Abs(cert.SerialNumber).Text(16)
	return text[:min(len(text), MaxSerialNumberLength)]
}

// CoversAddress says whether one of the certificate's IP subject alternative names is the address. DNS names and the
// common name do not count: clients that connect to an IP address do not look at them (RFC 6125 section 1.7.2, RFC
// 9525 section 3). An IPv4 address and its IPv4-mapped IPv6 form are the same, and a zone is ignored.
func CoversAddress(leaf *x509.Certificate, address netip.Addr) bool {
	if !address.IsValid() {
		return false
	}
	address = address.Unmap().WithZone("")
	for _, ip := range leaf.IPAddresses {
		if name, ok := netip.AddrFromSlice(ip); ok && name.Unmap() == address {
			return true
		}
	}
	return false
}

// Lifetime is the time from a certificate's notBefore to its notAfter.
type Lifetime struct{ NotBefore, NotAfter time.Time }

// LifetimeOf is the lifetime of a certificate.
func LifetimeOf(cert *x509.Certificate) Lifetime {
	return Lifetime{NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
}

// Duration is how long the lifetime is: zero when it ends before it starts, and at most what a time.Duration can
// hold, which is 292 years (a certificate "without" expiry ends in the year 9999).
func (l Lifetime) Duration() time.Duration {
	return max(0, l.NotAfter.Sub(l.NotBefore))
}

// At is the instant at which this percentage of the lifetime is over: notBefore at 0, notAfter at 100. Percentages
// outside of that count as the nearest of the two. It is exact for a lifetime of any length. A lifetime that ends
// before it starts is over from the start: its At is always notAfter.
func (l Lifetime) At(percent int32) time.Time {
	if percent >= 100 || !l.NotBefore.Before(l.NotAfter) {
		return l.NotAfter
	}
	// In seconds and nanoseconds apart, since nanoseconds alone overflow an int64 after 292 years (and times 100, after
	// three).
	share := int64(max(0, percent))
	seconds := (l.NotAfter.Unix() - l.NotBefore.Unix()) * share
	nanoseconds := int64(l.NotAfter.Nanosecond()-l.NotBefore.Nanosecond())*share + seconds%100*int64(time.Second)
	whole := time.Unix(l.NotBefore.Unix()+seconds/100, int64(l.NotBefore.Nanosecond())+nanoseconds/100)
	return whole.In(l.NotBefore.Location())
}
