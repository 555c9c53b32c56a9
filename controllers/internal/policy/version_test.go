// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
)

func TestCompareKubelet(t *testing.T) {
	for _, tc := range []struct {
		kubelet, limit string
		want           comparison
	}{
		{"v1.27.0", "1.27", sufficient},
		{"v1.27.3", "v1.27.3", sufficient},
		{"v1.27.2", "1.27.3", tooOld},
		{"v1.26.15", "1.27", tooOld},
		{"v1.9.11", "1.27", tooOld},
		{"v1.100.0", "1.27", sufficient},
		{"1.31.4", "1.27", sufficient},
		{"v1.30.2+k3s1", "1.30.2", sufficient},
		{"v1.29.0-eks-5e0fdde", "1.29", sufficient},
		{"v1.28.5-gke.1217000", "1.29", tooOld},
		{"v1.27.0-alpha.1", "1.27", sufficient},
		{"v2.0.0", "1.27", sufficient},
		{"", "1.27", notComparable},
		{"unknown", "1.27", notComparable},
		{"v1", "1.27", notComparable},
		{"v1.99999999999999999999.0", "1.27", notComparable},
		{"v1.27.0", "", notComparable},
	} {
		if got := compareKubelet(tc.kubelet, tc.limit); got != tc.want {
			t.Errorf("compareKubelet(%q, %q) = %s, want %s", tc.kubelet, tc.limit, got, tc.want)
		}
	}
}

func TestCompareNodeImage(t *testing.T) {
	for _, tc := range []struct {
		image, limit string
		want         comparison
	}{
		{"AKSUbuntu-2204gen2containerd-202501.12.0", "202501.12.0", sufficient},
		{"AKSUbuntu-2204gen2containerd-202501.9.0", "202501.12.0", tooOld},
		{"AKSUbuntu-2204gen2containerd-202501.12.1", "202501.12.0", sufficient},
		{"AKSAzureLinux-V3gen2-202602.13.5", "202501.12.0", sufficient},
		{"AKSUbuntu-2204gen2containerd-202410.27.0-2024.12.01", "202501.12.0", tooOld},
		{"AKSUbuntu-2204gen2containerd-202410.27.0-2025.12.01", "202501.12.0", tooOld},
		{"AKSUbuntu-2204gen2containerd-202501.12.0-2025.02.01", "202501.12.0", sufficient},
		{"AKSUbuntu-1804gen2containerd-2022.03.23", "202501.12.0", tooOld},
		{"AKSUbuntu-1804gen2containerd-2022.03.23", "202203.23.0", sufficient},
		{"AKSUbuntu-1804gen2containerd-2022.03.23", "202203.23.1", tooOld},
		{"AKSWindows-2022-containerd-20348.3207.250214", "202501.12.0", notComparable},
		{"AKSWindows-2022-containerd-202503.12.0", "202501.12.0", notComparable},
		{"AKSUbuntu-2204gen2containerd-202513.12.0", "202501.12.0", notComparable},
		{"AKSUbuntu-2204gen2containerd-20250101.12.0", "202501.12.0", notComparable},
		{"AKSUbuntu-2204gen2containerd", "202501.12.0", notComparable},
		{"AKSUbuntu-2204gen2containerd-+202501.12.0", "202501.12.0", notComparable},
		{"", "202501.12.0", notComparable},
		{"AKSUbuntu-2204gen2containerd-202501.12.0", "", notComparable},
		{"AKSUbuntu-" + strings.Repeat("x-", 1000) + "202501.12.0", "202501.12.0", notComparable},
	} {
		if got := compareNodeImage(tc.image, tc.limit); got != tc.want {
			t.Errorf("compareNodeImage(%q, %q) = %s, want %s", tc.image, tc.limit, got, tc.want)
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("v1.27.3-eks-1", "AKSUbuntu-2204gen2containerd-202410.27.0-2024.12.01")
	f.Add("1.", "AKSWindows-2022-containerd-20348.3207.250214")
	f.Add("v..", "2022.03.23")
	f.Fuzz(func(t *testing.T, kubelet, image string) {
		compareKubelet(kubelet, "1.27")
		got := compareNodeImage(image, "202501.12.0")
		if got == tooOld && compareNodeImage(image, "200001.1.0") == notComparable {
			t.Errorf("%q compares with one limit and not with another", image)
		}
		if version, ok := nodeImageVersion(image); ok {
			for _, number := range version {
				if number < 0 {
					t.Errorf("%q has the version %v", image, version)
				}
			}
		}
	})
}
