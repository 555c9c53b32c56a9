// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/notafter/notafter/controllers/internal/text"
)

// defaultKubeletPort is where a kubelet serves that does not say so.
const defaultKubeletPort = 10250

// metadataServices are where clouds give out credentials to whoever asks from the right machine, other than at a link-local
// address: AWS by IPv6, Alibaba Cloud, and Azure.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"),
}

// kubeletAddress is where the node's kubelet serves: its first usable InternalIP, or else ExternalIP, and its port. The node
// writes both itself, so they are not taken at face value: it could have the manager connect to itself, or to what only its own
// machine may reach, such as the cloud's metadata service. Loopback addresses are for clusters that run on one machine.
func kubeletAddress(node *corev1.Node, loopback bool) (netip.AddrPort, error) {
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
			address, err := parseAddress(candidate.Address, loopback)
			if err == nil {
				return netip.AddrPortFrom(address, uint16(port)), nil
			}
			reason = fmt.Errorf("status.addresses of the Node: %s %q %w", kind, text.Field(candidate.Address, 64), err)
		}
	}
	return netip.AddrPort{}, reason
}

func parseAddress(name string, loopback bool) (netip.Addr, error) {
	address, err := netip.ParseAddr(name)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("is not an IP address")
	case address.Zone() != "":
		return netip.Addr{}, errors.New("has a zone, which means nothing on another machine")
	}
	address = address.Unmap()
	switch {
	case address.IsUnspecified():
		return netip.Addr{}, errors.New("is the unspecified address")
	case address.IsMulticast():
		return netip.Addr{}, errors.New("is a multicast address")
	case address.IsLinkLocalUnicast():
		return netip.Addr{}, errors.New("is a link-local address, which stands for something else on every machine")
	case slices.Contains(metadataServices, address):
		return netip.Addr{}, errors.New("is the address of a cloud's metadata service")
	case address.IsLoopback() && !loopback:
		return netip.Addr{}, errors.New("is a loopback address, which is the manager's own and not the node's: " +
			"it is connected to with --probe-loopback only")
	}
	return address, nil
}
