// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/notafter/notafter/controllers/internal/text"
)

// defaultKubeletPort is where a kubelet serves that does not say so.
const defaultKubeletPort = 10250

// kubeletAddress is where the node's kubelet serves: its first usable InternalIP, or else ExternalIP, and its port. The node
// writes both itself, so they are not taken at face value.
func kubeletAddress(node *corev1.Node) (netip.AddrPort, error) {
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = defaultKubeletPort
	}
	if port < 0 || port > 65535 {
		return netip.AddrPort{}, fmt.Errorf("status.daemonEndpoints.kubeletEndpoint.Port of the Node is %d, not a port", port)
	}
	reason := errors.New("status.addresses of the Node has no InternalIP and no ExternalIP")
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, candidate := range node.Status.Addresses {
			if candidate.Type != kind {
				continue
			}
			address, err := parseAddress(candidate.Address)
			if err == nil {
				return netip.AddrPortFrom(address, uint16(port)), nil
			}
			reason = fmt.Errorf("status.addresses of the Node: %s %q %w", kind, text.Field(candidate.Address, 64), err)
		}
	}
	return netip.AddrPort{}, reason
}

func parseAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("is not an IP address")
	case address.Zone() != "":
		return netip.Addr{}, errors.New("has a zone, which means nothing on another machine")
	case address.IsUnspecified() || address.Unmap().IsUnspecified():
		return netip.Addr{}, errors.New("is the unspecified address")
	case address.IsMulticast() || address.Unmap().IsMulticast():
		return netip.Addr{}, errors.New("is a multicast address")
	}
	return address.Unmap(), nil
}
