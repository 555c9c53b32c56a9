// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	badRangeMessage = "must be a range in CIDR notation with no bit set after the prefix, like 10.0.0.0/8 or 2001:db8::/32"
	noRangesMessage = "signingRequestApproval.allowedIPRanges must be given in mode Approve; to allow any address, say so with " +
		"0.0.0.0/0 and ::/0"
)

// longestRange has as many characters as a range can have.
const longestRange = "2001:0db8:0000:0000:0000:0000:0000:0001/128"

func distinctRange(i int) any { return fmt.Sprintf("10.0.%d.0/24", i) }

func distinctSuffix(i int) any { return fmt.Sprintf("zone-%d.example.com", i) }

// longSuffix is a DNS name of that many characters.
func longSuffix(length int) string { return strings.Repeat("a.", length/2) + text(length%2) }

// approvalFields are the fields of a SigningRequestApprovalSpec.
var approvalFields = []field{
	{path: "spec.signingRequestApproval",
		accepted: []any{
			map[string]any{}, map[string]any{"mode": "Observe"}, missing,
			map[string]any{"mode": "Approve", "allowedIPRanges": []any{"0.0.0.0/0", "::/0"}},
		},
		refused: map[string]any{noRangesMessage: map[string]any{"mode": "Approve", "allowedIPRanges": []any{}}}},
	{path: "spec.signingRequestApproval.mode",
		accepted: []any{"Observe", "Approve", missing},
		refused:  map[string]any{"enum": "Deny"}},
	{path: "spec.signingRequestApproval.onViolation",
		accepted: []any{"Ignore", "Deny", missing},
		refused:  map[string]any{"enum": "Delete"}},
	{path: "spec.signingRequestApproval.allowedIPRanges",
		accepted: []any{list(64, distinctRange)},
		refused:  map[string]any{"maxItems": list(65, distinctRange)}},
	{path: "spec.signingRequestApproval.allowedIPRanges[0]",
		accepted: []any{"0.0.0.0/0", "10.1.2.3/32", "::/0", "2001:db8::/32", longestRange},
		refused: map[string]any{
			"minLength": "::/", "maxLength": longestRange + "0", badRangeMessage: "10.0.0.1/8",
		}},
	{path: "spec.signingRequestApproval.allowedDNSSuffixes",
		accepted: []any{list(64, distinctSuffix), []any{}, missing},
		refused:  map[string]any{"maxItems": list(65, distinctSuffix)}},
	{path: "spec.signingRequestApproval.allowedDNSSuffixes[0]",
		accepted: []any{"internal", "a-1.example.com", longSuffix(253)},
		refused:  map[string]any{"minLength": "", "maxLength": longSuffix(255), "pattern": ".example.com"}},
	{path: "spec.signingRequestApproval.dnsResolution",
		accepted: []any{"Ignored", "Required", missing},
		refused:  map[string]any{"enum": "Optional"}},
	{path: "spec.signingRequestApproval.dnsTimeout",
		accepted: []any{"100ms", "30s", missing},
		refused: map[string]any{
			"pattern": "5", "maxLength": overlong,
			"signingRequestApproval.dnsTimeout must be between 100ms and 30s": "31s",
		}},
	{path: "spec.signingRequestApproval.maximumDuration",
		accepted: []any{"10m", "87600h", missing},
		refused: map[string]any{
			"pattern": "1y", "maxLength": overlong,
			"signingRequestApproval.maximumDuration must be between 10m and 87600h (ten years)": "599s",
		}},
	{path: "spec.signingRequestApproval.maximumDecisionsPerNode",
		accepted: []any{int64(1), int64(1000), missing},
		refused:  map[string]any{"minimum": int64(0), "maximum": int64(1001)}},
	{path: "spec.signingRequestApproval.maximumPendingNodes",
		accepted: []any{int64(1), int64(100_000), missing},
		refused:  map[string]any{"minimum": int64(0), "maximum": int64(100_001)}},
}

var _ = Describe("The approval of signing requests", func() {
	It("is not spoken of by a policy that leaves it out", func(ctx SpecContext) {
		created := policy("no-say", `{}`)
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })
		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		Expect(got.Spec.SigningRequestApproval).To(BeNil())
	})

	It("approves and denies nothing by default", func(ctx SpecContext) {
		created := policy("rehearsal", `{signingRequestApproval: {}}`)
		Expect(k8sClient.Create(ctx, created)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8sClient.Delete(ctx, created)).To(Succeed()) })
		var got v1alpha1.CertificatePolicy
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(created), &got)).To(Succeed())
		approval := got.Spec.SigningRequestApproval
		Expect(approval).NotTo(BeNil())
		Expect(approval.Mode).To(Equal(v1alpha1.ApprovalObserve))
		Expect(approval.OnViolation).To(Equal(v1alpha1.ViolationIgnore))
		Expect(approval.DNSResolution).To(Equal(v1alpha1.DNSResolutionIgnored))
		Expect(duration(approval.DNSTimeout)).To(Equal(v1alpha1.DefaultDNSTimeout))
		Expect(approval.MaximumDecisionsPerNode).To(Equal(v1alpha1.DefaultMaximumDecisionsPerNode))
		Expect(approval.MaximumPendingNodes).To(BeZero())
		Expect(approval.MaximumDuration).To(BeNil())
	})

	DescribeTable("takes no range that could be misread", func(ctx SpecContext, value string) {
		created := policy("misread", `{signingRequestApproval: {mode: Approve, allowedIPRanges: ["`+value+`"]}}`)
		said := refusals(k8sClient.Create(ctx, created, client.DryRunAll))
		Expect(said).To(ContainElement(ContainSubstring(badRangeMessage)))
	},
		Entry("bits set after the prefix", "2001:db8::1/32"),
		Entry("an address without a prefix", "10.0.0.1"),
		Entry("an IPv4 address in IPv6 clothes", "::ffff:10.0.0.0/104"),
		Entry("octal numbers", "010.0.0.0/8"),
	)
})
