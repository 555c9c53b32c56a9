// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func address(kind corev1.NodeAddressType, value string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: kind, Address: value}
}

func TestKubeletAddress(t *testing.T) {
	internal := func(value string) corev1.NodeAddress { return address(corev1.NodeInternalIP, value) }
	external := func(value string) corev1.NodeAddress { return address(corev1.NodeExternalIP, value) }
	for name, test := range map[string]struct {
		addresses []corev1.NodeAddress
		port      int32
		want      string
		err       string
	}{
		"the internal one first": {[]corev1.NodeAddress{external("192.0.2.1"), internal("10.0.0.1")}, 10251, "10.0.0.1:10251", ""},
		"default port":           {[]corev1.NodeAddress{internal("10.0.0.1")}, 0, "10.0.0.1:10250", ""},
		"IPv6":                   {[]corev1.NodeAddress{internal("fd00::1"), internal("10.0.0.1")}, 0, "[fd00::1]:10250", ""},
		"IPv4 as IPv6":           {[]corev1.NodeAddress{internal("::ffff:10.0.0.1")}, 0, "10.0.0.1:10250", ""},
		"external only":          {[]corev1.NodeAddress{address(corev1.NodeHostName, "one"), external("192.0.2.1")}, 0, "192.0.2.1:10250", ""},
		"the usable one":         {[]corev1.NodeAddress{internal("0.0.0.0"), internal("10.0.0.2")}, 0, "10.0.0.2:10250", ""},

		"none":             {nil, 0, "", "no InternalIP and no ExternalIP"},
		"names only":       {[]corev1.NodeAddress{address(corev1.NodeInternalDNS, "one")}, 0, "", "no InternalIP and no ExternalIP"},
		"a name as IP":     {[]corev1.NodeAddress{internal("kubernetes.default")}, 0, "", `InternalIP "kubernetes.default" is not an IP address`},
		"not printable":    {[]corev1.NodeAddress{internal("\x1b[31m" + strings.Repeat("a", 9000))}, 0, "", "is not an IP address"},
		"unspecified":      {[]corev1.NodeAddress{internal("::")}, 0, "", "is the unspecified address"},
		"unspecified IPv4": {[]corev1.NodeAddress{internal("::ffff:0.0.0.0")}, 0, "", "is the unspecified address"},
		"multicast":        {[]corev1.NodeAddress{internal("224.0.0.1")}, 0, "", "is a multicast address"},
		"multicast IPv6":   {[]corev1.NodeAddress{external("ff02::1")}, 0, "", `ExternalIP "ff02::1" is a multicast address`},
		"loopback":         {[]corev1.NodeAddress{internal("127.0.0.1")}, 0, "", "is a loopback address"},
		"loopback IPv6":    {[]corev1.NodeAddress{internal("::1")}, 0, "", "is a loopback address"},
		"loopback as IPv6": {[]corev1.NodeAddress{internal("::ffff:127.8.9.1")}, 0, "", "is a loopback address"},
		"metadata service": {[]corev1.NodeAddress{internal("169.254.169.254")}, 80, "", "is a link-local address"},
		"Azure's":          {[]corev1.NodeAddress{internal("168.63.129.16")}, 80, "", "is the address of a cloud's metadata service"},
		"Alibaba's":        {[]corev1.NodeAddress{internal("::ffff:100.100.100.200")}, 80, "", "is the address of a cloud's metadata service"},
		"AWS' IPv6":        {[]corev1.NodeAddress{internal("fd00:ec2:0::254")}, 80, "", "is the address of a cloud's metadata service"},
		"link-local":       {[]corev1.NodeAddress{internal("fe80::1")}, 0, "", "is a link-local address"},
		"zone":             {[]corev1.NodeAddress{internal("fe80::1%eth0")}, 0, "", "has a zone"},
		"port too large":   {[]corev1.NodeAddress{internal("10.0.0.1")}, 70000, "", "is 70000, not a port"},
		"negative port":    {[]corev1.NodeAddress{internal("10.0.0.1")}, -1, "", "is -1, not a port"},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{}
			node.Status.Addresses = test.addresses
			node.Status.DaemonEndpoints.KubeletEndpoint.Port = test.port
			got, err := kubeletAddress(node, false)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || len(err.Error()) > 300 ||
					strings.Contains(err.Error(), "\x1b") {
					t.Errorf("error = %v, want %q in it", err, test.err)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("address = %v, %v, want %s", got, err, test.want)
			}
		})
	}
}

func TestKubeletAddressOnOneMachine(t *testing.T) {
	for name, want := range map[string]string{"127.0.0.1": "127.0.0.1:10250", "::1": "[::1]:10250", "169.254.169.254": ""} {
		node := &corev1.Node{}
		node.Status.Addresses = []corev1.NodeAddress{address(corev1.NodeInternalIP, name)}
		got, err := kubeletAddress(node, true)
		if (err == nil) != (want != "") || want != "" && got.String() != want {
			t.Errorf("address of %s = %v, %v, want %q", name, got, err, want)
		}
	}
}
