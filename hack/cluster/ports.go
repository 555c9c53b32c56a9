// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// FreeAddresses returns as many addresses of 127.0.0.1 that nothing listens on. All have different ports.
func FreeAddresses(ctx context.Context, count int) (addresses []netip.AddrPort, err error) {
	for range count {
		listener, failed := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if failed != nil {
			return nil, fmt.Errorf("finding a free port: %w", failed)
		}
		defer func() { err = errors.Join(err, listener.Close()) }() // only then, so that they differ
		addresses = append(addresses, listener.Addr().(*net.TCPAddr).AddrPort())
	}
	return addresses, nil
}
