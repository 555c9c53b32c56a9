// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// judgeDenied reports evidence that notafter may not read, once for each permission, however much depends on it.
func (e *evaluation) judgeDenied(denied []Denial) {
	wanted := slices.Clone(denied)
	wanted = slices.DeleteFunc(wanted, func(d Denial) bool { return !e.rules.wants(d.Purposes) })
	slices.SortFunc(wanted, func(a, b Denial) int {
		return cmp.Or(
			strings.Compare(a.Permission, b.Permission), strings.Compare(a.Reason, b.Reason),
			strings.Compare(a.Source, b.Source), strings.Compare(a.Message, b.Message),
		)
	})
	for len(wanted) > 0 {
		same := 1
		for same < len(wanted) && wanted[same].Permission == wanted[0].Permission {
			same++
		}
		e.addDenied(wanted[:same])
		wanted = wanted[same:]
	}
}

// addDenied reports one permission. What it is needed for, and which conditions that leaves open, comes from all that name it.
func (e *evaluation) addDenied(same []Denial) {
	var concerns concern
	var sources []string
	for i := range same {
		for j := range judged {
			if j != compliant && slices.Contains(same[i].Concerns, judged[j].condition) {
				concerns |= judged[j].concerns
			}
		}
		sources = append(sources, same[i].Source)
	}
	reason := cmp.Or(same[0].Reason, v1alpha1.ReasonAccessDenied)
	permission := text.Phrase(same[0].Permission, maxSubject)
	source := text.Phrase(strings.Join(slices.Compact(sources), "; "), maxPhrase)
	message := text.Phrase(same[0].Message, maxPhrase)
	said := fmt.Sprintf("notafter may not %s, which it needs for %s: %s. Grant its ServiceAccount that permission, as the roles "+
		"in config/rbac do: where it lists, it watches as well. It tries again by itself within a minute.",
		permission, source, message)
	if concerns == approval {
		said = fmt.Sprintf("notafter may not %s, which it needs for %s: %s. Install config/components/approval, which grants that, "+
			"or set spec.signingRequestApproval.mode to Observe. It tries again by itself within a minute.",
			permission, source, message)
	}
	if reason != v1alpha1.ReasonAccessDenied {
		said = fmt.Sprintf("What notafter needs for %s could not be read: %s. It tries again by itself within a minute; if this "+
			"stays, check that the API server answers kubectl get for it.", source, message)
	}
	first := len(e.found)
	// What is said to concern nothing in particular leaves everything open.
	e.addTo(cmp.Or(concerns, everything), v1alpha1.Finding{
		Reason: reason, Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectPermission, Name: permission}, Message: said,
	})
	e.tally.addOther(sourceGroup, e.found[first:])
}

// unread says whether the requests to the signer cannot be read, for whatever reason.
func (e *evaluation) unread(signerName string) bool {
	return slices.ContainsFunc(e.denied, func(d Denial) bool { return d.SignerName == signerName })
}

// withdrawn says whether the requests to the signer may not be read any more, so that what is known of them is of some time ago.
func (e *evaluation) withdrawn(signerName string) bool {
	return slices.ContainsFunc(e.denied, func(d Denial) bool {
		return d.SignerName == signerName && cmp.Or(d.Reason, v1alpha1.ReasonAccessDenied) == v1alpha1.ReasonAccessDenied
	})
}

// wants says whether certificates of any of the purposes are judged. Evidence for none in particular always is wanted.
func (r *rules) wants(purposes []v1alpha1.CertificatePurpose) bool {
	return len(purposes) == 0 || slices.ContainsFunc(purposes, func(purpose v1alpha1.CertificatePurpose) bool {
		switch purpose {
		case v1alpha1.PurposeKubeletServing:
			return r.rotation != v1alpha1.ServingRotationIgnored
		case v1alpha1.PurposeKubeletClient:
			return true
		default:
			return r.watched.purpose(purpose)
		}
	})
}
