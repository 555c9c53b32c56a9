// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	netutils "k8s.io/utils/net"
)

// CanonicalAddress is the one way to write an IP address or a DNS name, by which two of them are the same: an IPv4 address
// is no IPv6 address, and a name is in lower case, without the dot that may end it.
func CanonicalAddress(text string) string {
	// Kubelets read addresses so, too.
	if address, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text)); ok {
		return address.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(text, "."))
}

// NodeAddresses are the addresses and names that a Node reports, and its own name, each once and canonical. To be called like an
// address is not to have it.
func NodeAddresses(node *corev1.Node) []string {
	addresses := make([]string, 0, len(node.Status.Addresses)+1)
	if netutils.ParseIPSloppy(node.Name) == nil {
		addresses = append(addresses, CanonicalAddress(node.Name))
	}
	for i := range node.Status.Addresses {
		if text := node.Status.Addresses[i].Address; text != "" {
			addresses = append(addresses, CanonicalAddress(text))
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// neverNode says why a DNS name in canonical form must not be in a kubelet's certificate, whoever has it: "" if it may.
// The certificate is signed by a CA that Pods trust for the API server, and often for more.
func neverNode(name string) string {
	switch {
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		return "is not the name of a host"
	case netutils.ParseIPSloppy(name) != nil:
		return "is an IP address"
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return "means something else on every machine"
	case name == "kubernetes" || name == "kubernetes.default" || strings.HasPrefix(name, "kubernetes.default."):
		return "is the API server's"
	}
	for _, end := range clusterNames {
		if strings.HasSuffix(name, end) {
			return "is of the form of a Service's or a Pod's name"
		}
	}
	return ""
}

// clusterNames are how names of Services and Pods end, in the usual cluster domain and without one.
var clusterNames = []string{".svc", ".svc.cluster.local", ".pod.cluster.local"}

// serviceEnd is the end of a name from where it is of the form of a Service's in some cluster domain: svc.<domain> of
// <service>.<namespace>.svc.<domain>, with or without a Pod's name before that; "" if it is of no such form.
func serviceEnd(name string) string {
	labels := strings.Split(name, ".")
	for i := 2; i < min(4, len(labels)); i++ {
		if labels[i] == "svc" {
			return strings.Join(labels[i:], ".")
		}
	}
	return ""
}
