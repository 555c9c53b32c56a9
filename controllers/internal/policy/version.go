// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// comparison is the outcome of comparing a version with the lowest that will do.
type comparison string

const (
	// tooOld is a version below the limit.
	tooOld comparison = "TooOld"
	// sufficient is the limit or a version above it.
	sufficient comparison = "Sufficient"
	// notComparable is a version that is missing, that has another scheme than the limit, or a limit that is none.
	notComparable comparison = "NotComparable"
)

// compareKubelet compares a kubelet's version, like v1.31.4 or v1.30.2+k3s1, with a limit like 1.27 or v1.27.3. Only the
// numbers count: a pre-release or a distribution's build of 1.27.0 is as good as 1.27.0.
func compareKubelet(kubelet, limit string) comparison {
	have, err := version.ParseGeneric(head(kubelet))
	if err != nil {
		return notComparable
	}
	want, err := version.ParseGeneric(head(limit))
	if err != nil {
		return notComparable
	}
	if have.LessThan(want) {
		return tooOld
	}
	return sufficient
}

// head is the part of a version that is looked at: a node may report text of any length.
func head(text string) string {
	return text[:min(len(text), maxWord)]
}

// compareNodeImage compares the node image that AKS labels a node with to a limit like 202501.12.0. The label ends in
// the image's version (https://github.com/Azure/AgentBaker release notes):
//
//	AKSUbuntu-2204gen2containerd-202501.12.0             year and month, day, patch
//	AKSUbuntu-2204gen2containerd-202410.27.0-2024.12.01  the same, and the date of a security patch
//	AKSUbuntu-1804gen2containerd-2022.03.23              the date alone, up to 2023
//	AKSWindows-2022-containerd-20348.3207.250214         Windows build, revision, date: another scheme altogether
func compareNodeImage(image, limit string) comparison {
	want, ok := imageVersion(limit)
	if !ok {
		return notComparable
	}
	have, ok := nodeImageVersion(image)
	if !ok {
		return notComparable
	}
	if slices.Compare(have, want) < 0 {
		return tooOld
	}
	return sufficient
}

// nodeImageVersion finds the version in a node image's name. A patch date that follows it counts after it: the image
// stays the one that it was built as.
func nodeImageVersion(image string) ([]int, bool) {
	const maxLabelValue = 63
	if len(image) > maxLabelValue || strings.HasPrefix(strings.ToLower(image), "akswindows") {
		return nil, false
	}
	parts := strings.Split(image, "-")
	for i, part := range parts {
		built, ok := imageVersion(part)
		if !ok {
			continue
		}
		if i+1 < len(parts) {
			if patched, ok := imageDate(parts[i+1]); ok {
				built = append(built, patched...)
			}
		}
		return built, true
	}
	return imageDate(parts[len(parts)-1])
}

// imageVersion parses YYYYMM.D.P.
func imageVersion(text string) ([]int, bool) {
	numbers, ok := numberTuple(text)
	if !ok || numbers[0] < 200001 || numbers[0] > 999912 || !isMonth(numbers[0]%100) {
		return nil, false
	}
	return numbers, true
}

// imageDate parses YYYY.MM.DD into the form of imageVersion, with patch 0.
func imageDate(text string) ([]int, bool) {
	numbers, ok := numberTuple(text)
	if !ok || numbers[0] < 2000 || numbers[0] > 9999 || !isMonth(numbers[1]) {
		return nil, false
	}
	return []int{numbers[0]*100 + numbers[1], numbers[2], 0}, true
}

func isMonth(number int) bool {
	return number >= 1 && number <= 12
}

// numberTuple parses three numbers with dots between them.
func numberTuple(text string) ([]int, bool) {
	const maxDigits = 6
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, false
	}
	numbers := make([]int, 0, 6)
	for _, part := range parts {
		number, err := strconv.ParseUint(part, 10, 31)
		if err != nil || len(part) > maxDigits {
			return nil, false
		}
		numbers = append(numbers, int(number))
	}
	return numbers, true
}
