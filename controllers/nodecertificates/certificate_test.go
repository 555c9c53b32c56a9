// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func TestCertificateStatus(t *testing.T) {
	ca := pkitest.NewCA("cluster-ca")
	leaf := ca.Leaf(pkitest.Node("one"), pkitest.IPAddresses("10.0.0.1", "fd00::1"), pkitest.DNSNames("one.example"))
	got := certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, leaf.X509)
	want := v1alpha1.CertificateStatus{
		Purpose:      v1alpha1.PurposeKubeletServing,
		Source:       v1alpha1.SourceHandshake,
		Subject:      "CN=system:node:one,O=system:nodes",
		Issuer:       "CN=cluster-ca",
		SerialNumber: pki.SerialNumber(leaf.X509),
		SHA256:       pki.Fingerprint(leaf.X509),
		NotBefore:    metav1.NewTime(pkitest.Start()),
		NotAfter:     metav1.NewTime(pkitest.Start().Add(pkitest.LeafLifetime)),
		DNSNames:     []string{"one.example"},
		IPAddresses:  []string{"10.0.0.1", "fd00::1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// absurd is a certificate that breaks every limit of the API at once.
func absurd(options ...pkitest.Option) *pkitest.Certificate {
	return pkitest.SelfSigned(append([]pkitest.Option{pkitest.Template(func(c *x509.Certificate) {
		c.Subject.CommonName = "\x00\x1b[31m\u202e" + strings.Repeat("é漢", 3000)
		c.Subject.Organization = []string{"line\nfeed", strings.Repeat("o", 5000)}
		c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 4000)
		for i := range 150 {
			c.DNSNames = append(c.DNSNames, strings.Repeat("a", 300+i), "\x7f\x01", "*")
			address := net.ParseIP("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff")
			c.IPAddresses = append(c.IPAddresses, address, address)
		}
		c.NotBefore = time.Date(0, time.January, 1, 0, 0, 0, 0, time.UTC)
		c.NotAfter = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	})}, options...)...)
}

func TestCertificateStatusIsBounded(t *testing.T) {
	status := certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, absurd().X509)
	for field, text := range map[string]struct {
		value string
		limit int
	}{
		"subject": {status.Subject, 256}, "issuer": {status.Issuer, 256}, "serialNumber": {status.SerialNumber, 64},
		"dnsNames[0]": {status.DNSNames[0], 253}, "dnsNames[1]": {status.DNSNames[1], 253},
		"ipAddresses[0]": {status.IPAddresses[0], 45},
	} {
		length := utf8.RuneCountInString(text.value)
		if length == 0 || length > text.limit || !utf8.ValidString(text.value) || strings.ContainsAny(text.value, "\x00\x1b\n\u202e\x7f") {
			t.Errorf("%s = %q, %d runes", field, text.value, length)
		}
	}
	if len(status.IPAddresses) != 256 {
		t.Errorf("%d IP addresses, want 256", len(status.IPAddresses))
	}
	if got := len(strings.Join(status.DNSNames, "")); got > 4<<10 || got < 3<<10 {
		t.Errorf("%d bytes of DNS names, want up to 4096", got)
	}
	encoded, err := json.Marshal(status)
	if err != nil || len(encoded) > 20<<10 {
		t.Errorf("%d bytes in all, want at most 20480; %v", len(encoded), err)
	}
	if !status.NotBefore.Equal(&metav1.Time{Time: time.Unix(0, 0)}) || status.NotAfter.Year() != 9999 {
		t.Errorf("from %v to %v", status.NotBefore, status.NotAfter)
	}
}

// What a node was issued a certificate for is its own, whoever claims it. So all of what can be approved has to be known.
func TestCertificateStatusHasAllThatIsApproved(t *testing.T) {
	for name, test := range map[string]struct {
		count   int
		name    func(i int) string
		address func(i int) string
	}{
		"20 of each":     {20, func(i int) string { return fmt.Sprint("node-1.", i, ".example.com") }, func(i int) string { return fmt.Sprint("10.0.0.", i) }},
		"128 short ones": {128, func(i int) string { return fmt.Sprint("n", i) }, func(i int) string { return fmt.Sprint("10.0.1.", i) }},
		"long ones": {14, func(i int) string { return strings.Repeat("a.", 115) + fmt.Sprint(i) },
			func(i int) string { return fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x", 0x6000+i) }},
	} {
		t.Run(name, func(t *testing.T) {
			var names, addresses []string
			for i := range test.count {
				names, addresses = append(names, test.name(i)), append(addresses, test.address(i))
			}
			request := pkitest.Request(pkitest.Node("node-1"), pkitest.DNSNames(names...), pkitest.IPAddresses(addresses...))
			if _, err := csr.Parse(request); err != nil {
				t.Fatalf("the request is none that is approved: %v", err)
			}
			status := certificateStatus(
				v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, pkitest.NewCA("cluster-ca").SignRequest(request).X509)
			if diff := cmp.Diff([][]string{names, addresses}, [][]string{status.DNSNames, status.IPAddresses}); diff != "" {
				t.Errorf("names and addresses (-requested +known):\n%s", diff)
			}
		})
	}
}

func TestBoundedTime(t *testing.T) {
	zone := time.FixedZone("west", -12*3600)
	for _, test := range []struct{ in, want time.Time }{
		// The zero time would be taken for an absent one.
		{time.Time{}, time.Unix(0, 0)},
		{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, zone), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{time.Date(2026, 5, 1, 10, 0, 0, 999, zone), time.Date(2026, 5, 1, 22, 0, 0, 0, time.UTC)},
	} {
		if got := boundedTime(test.in); !got.Time.Equal(test.want) || got.Location() != time.UTC {
			t.Errorf("boundedTime(%v) = %v, want %v", test.in, got, test.want)
		}
	}
}
