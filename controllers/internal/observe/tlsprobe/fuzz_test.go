// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package tlsprobe

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/notafter/notafter/api/v1alpha1"
)

// answer is a peer that says the same whatever it is told.
type answer struct{ *bytes.Reader }

func (answer) Write(b []byte) (int, error)      { return len(b), nil }
func (answer) Close() error                     { return nil }
func (answer) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (answer) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (answer) SetDeadline(time.Time) error      { return nil }
func (answer) SetReadDeadline(time.Time) error  { return nil }
func (answer) SetWriteDeadline(time.Time) error { return nil }

func FuzzHandshake(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 80})
	f.Add([]byte{21, 3, 3, 0, 2, 2, 200})
	f.Add([]byte{22, 3, 3, 0, 4, 2, 0xfe, 0xfe, 0xfe})
	f.Add([]byte{22, 3, 3, 0, 6, 2, 0, 0, 2, 3, 3})
	target := Target{Address: netip.MustParseAddrPort("192.0.2.1:10250")}
	f.Fuzz(func(t *testing.T, data []byte) {
		result := handshake(t.Context(), answer{bytes.NewReader(data)}, target)
		switch result.Outcome {
		case v1alpha1.ProbeNoCertificate, v1alpha1.ProbeHandshakeFailed:
		default:
			t.Errorf("outcome = %q", result.Outcome)
		}
		if result.Message == "" || !utf8.ValidString(result.Message) || utf8.RuneCountInString(result.Message) > maxMessage {
			t.Errorf("message = %q", result.Message)
		}
	})
}
