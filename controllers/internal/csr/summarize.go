// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"cmp"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// Summarize is what the requests of one node to one signer amount to. requests are those that still exist; previous
// is what was last recorded, and what remembers the others: Kubernetes deletes requests an hour after their end and
// undecided ones after a day
// (https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/controller/certificates/cleaner/cleaner.go). It returns
// nil when there never was a request, changes neither argument, and returns what it was given when nothing changed,
// whatever now is.
//
//   - The newest request, by creation and then by name, is described. It may be one that is gone: as it was if it had
//     ended, else as StageDeleted.
//   - issued is when the newest issued request was first seen to be. For one that was already issued when it was
//     first seen, so after a restart, it is when it was approved.
//   - pending counts the undecided requests that are newer than the newest issued one. pendingSince is when the
//     oldest of them was created. When Kubernetes deleted that one for its age and others wait still, it stays.
//   - approvedSince is when the oldest approved request was approved, of those that have no certificate and are newer
//     than the newest issued one. A kubelet that gives up on it and asks again does not start the clock anew, and nor does
//     Kubernetes by deleting it for its age while others wait still.
//   - refusal is the latest denial or failure of a request that is newer than the newest issued one. It is remembered
//     until another is issued.
func Summarize(
	signerName string,
	previous *v1alpha1.SigningRequestStatus,
	requests []*certificatesv1.CertificateSigningRequest,
	now time.Time,
) *v1alpha1.SigningRequestStatus {
	s := newSummary(previous, requests, now)
	result := s.newest()
	if result == nil {
		return nil
	}
	result.SignerName = text.Field(signerName, maxSignerName)
	result.Issued = s.issued()
	result.Pending, result.PendingSince = s.pending()
	result.ApprovedSince = s.approvedSince()
	result.Refusal = s.refusal(result.Issued)
	return result
}

// summary is what Summarize knows.
type summary struct {
	// previous is empty, not nil, when nothing was recorded.
	previous v1alpha1.SigningRequestStatus
	// requests are in order, oldest first.
	requests []*certificatesv1.CertificateSigningRequest
	now      time.Time

	// lastIssued is the newest issued request that still exists, or nil.
	lastIssued *certificatesv1.CertificateSigningRequest
	// open are the requests that are newer than the newest issued one, whether that still exists or not.
	open []*certificatesv1.CertificateSigningRequest
}

func newSummary(
	previous *v1alpha1.SigningRequestStatus, requests []*certificatesv1.CertificateSigningRequest, now time.Time,
) *summary {
	s := &summary{requests: slices.Clone(requests), now: now.Truncate(time.Second)}
	if previous != nil {
		previous.DeepCopyInto(&s.previous)
	}
	slices.SortFunc(s.requests, compareTurn)
	for _, req := range s.requests {
		if Stage(req) == v1alpha1.StageIssued {
			s.lastIssued, s.open = req, nil
		} else if s.lastIssued != nil && s.isPrevious(s.lastIssued) || s.newerThanRemembered(req) {
			s.open = append(s.open, req)
		}
	}
	return s
}

// compareTurn is CompareAge for requests of one kubelet. The API tells time in seconds, and a kubelet that is restarted may ask
// twice in one: it does so only after the first request came to its end.
func compareTurn(a, b *certificatesv1.CertificateSigningRequest) int {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return cmp.Or(compareEnd(Stage(a), Stage(b)), CompareAge(a, b))
	}
	return CompareAge(a, b)
}

// compareEnd is negative when a came to its end and b did not.
func compareEnd(a, b v1alpha1.SigningStage) int {
	switch endedA, endedB := !unfinished(a), !unfinished(b); {
	case endedA == endedB:
		return 0
	case endedA:
		return -1
	}
	return 1
}

// newerThanRemembered says whether a request can be newer than an issued one that is gone, from what was recorded
// while that was there: the newest request, and the oldest of those that waited, for a decision or for a certificate, and were
// newer than the issued one.
func (s *summary) newerThanRemembered(req *certificatesv1.CertificateSigningRequest) bool {
	switch {
	case s.previous.Issued == nil:
		return true
	case s.previous.Stage == v1alpha1.StageIssued:
		return s.previousOrder(req) <= 0 // Itself as well, should it have failed after it was issued.
	case s.wasApproved(req):
		return true
	case s.previous.PendingSince != nil:
		return !req.CreationTimestamp.Before(s.previous.PendingSince)
	default:
		return !req.CreationTimestamp.Before(&s.previous.Created)
	}
}

// previousOrder is negative when the request last recorded is older than this one, and positive when it is newer.
func (s *summary) previousOrder(req *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(
		s.previous.Created.Compare(req.CreationTimestamp.Time), cmp.Compare(s.previous.Name, text.Field(req.Name, maxName)))
}

// newest describes the newest request, or returns nil when there never was one.
func (s *summary) newest() *v1alpha1.SigningRequestStatus {
	if s.previousIsNewest() {
		result := &v1alpha1.SigningRequestStatus{
			Name: s.previous.Name, Stage: s.previous.Stage, Created: s.previous.Created, Decided: s.previous.Decided,
			Malformed: s.previous.Malformed,
		}
		if unfinished(result.Stage) {
			result.Stage = v1alpha1.StageDeleted
		}
		return result
	}
	if len(s.requests) == 0 {
		return nil
	}
	req := s.requests[len(s.requests)-1]
	result := &v1alpha1.SigningRequestStatus{
		Name: text.Field(req.Name, maxName), Stage: Stage(req), Created: req.CreationTimestamp,
	}
	if decided := Decided(req); !decided.IsZero() {
		result.Decided = new(metav1.NewTime(decided))
	}
	if result.Stage != v1alpha1.StageIssued {
		result.Malformed = Malformed(req)
	}
	return result
}

// previousIsNewest says whether the request last recorded is gone, and none is newer.
func (s *summary) previousIsNewest() bool {
	if s.previous.Name == "" || slices.ContainsFunc(s.requests, s.isPrevious) {
		return false
	}
	return len(s.requests) == 0 || s.previousOrder(s.requests[len(s.requests)-1]) > 0
}

// isPrevious says whether a request is the one last recorded. The name alone does not tell: a kubelet that bootstraps
// anew with the same key asks under the same name.
func (s *summary) isPrevious(req *certificatesv1.CertificateSigningRequest) bool {
	return text.Field(req.Name, maxName) == s.previous.Name && req.CreationTimestamp.Equal(&s.previous.Created)
}

// issued is when the newest issued request was first seen to be.
func (s *summary) issued() *metav1.Time {
	if s.lastIssued == nil {
		return s.previous.Issued
	}
	approved := Decided(s.lastIssued)
	switch {
	case s.isPrevious(s.lastIssued) && unfinished(s.previous.Stage):
		if s.now.After(approved) {
			return new(metav1.NewTime(s.now))
		}
		// The API server's clock is ahead. Were this earlier than the approval, the next case would not know it again.
		return new(metav1.NewTime(approved))
	case s.previous.Issued != nil && !s.previous.Issued.Time.Before(approved):
		return s.previous.Issued
	default:
		return new(metav1.NewTime(approved))
	}
}

// pendingExpiration is how long after its creation Kubernetes deletes a request that nobody decided on, and how long after its
// approval one that got no certificate.
const pendingExpiration = 24 * time.Hour

// pending counts the requests that still wait, and says since when one does.
func (s *summary) pending() (count int32, since *metav1.Time) {
	for _, req := range s.open {
		if Stage(req) != v1alpha1.StagePending {
			continue
		}
		if count++; since == nil {
			since = new(req.CreationTimestamp)
		}
	}
	recorded := s.previous.PendingSince
	if count > 0 && s.waitedBefore(recorded, since, func(req *certificatesv1.CertificateSigningRequest) bool {
		return req.CreationTimestamp.Equal(recorded)
	}) {
		since = recorded
	}
	return count, since
}

// approvedSince is when the oldest request that is approved and not issued was approved.
func (s *summary) approvedSince() *metav1.Time {
	var since *metav1.Time
	for _, req := range s.open {
		if Stage(req) != v1alpha1.StageApproved {
			continue
		}
		if approved := metav1.NewTime(Decided(req)); since == nil || approved.Before(since) {
			since = &approved
		}
	}
	recorded := s.previous.ApprovedSince
	if since != nil && s.waitedBefore(recorded, since, func(req *certificatesv1.CertificateSigningRequest) bool {
		return Stage(req) != v1alpha1.StagePending && Decided(req).Equal(recorded.Time)
	}) {
		return recorded
	}
	return since
}

// wasApproved says whether a request can be the one that was recorded as approved and without a certificate, or one that was
// approved after it.
func (s *summary) wasApproved(req *certificatesv1.CertificateSigningRequest) bool {
	since := s.previous.ApprovedSince
	return since != nil && Stage(req) == v1alpha1.StageApproved && !Decided(req).Before(since.Time)
}

// waitedBefore says whether the request that was recorded as the oldest that waits was deleted for its age, so that
// the node has been waiting since then and not only since the oldest that is left.
func (s *summary) waitedBefore(
	recorded, oldest *metav1.Time, isRecorded func(*certificatesv1.CertificateSigningRequest) bool,
) bool {
	if recorded == nil || !recorded.Before(oldest) {
		return false
	}
	if s.lastIssued != nil && recorded.Before(&s.lastIssued.CreationTimestamp) {
		return false
	}
	return !slices.ContainsFunc(s.requests, isRecorded) && s.now.Sub(recorded.Time) >= pendingExpiration
}

// refusal is the newest refusal of a request that is newer than the newest issued one, which is the one issued at the
// given time.
func (s *summary) refusal(issued *metav1.Time) *v1alpha1.SigningRefusal {
	result := s.previous.Refusal
	issuedSince := issued != nil && (s.previous.Issued == nil || s.previous.Issued.Before(issued))
	// What was issued since is newer, unless the newest of all is gone and was refused.
	refusedLast := refused(s.previous.Stage) && s.previousIsNewest()
	if issuedSince && !refusedLast {
		result = nil
	}
	for _, req := range s.open {
		stage, decided := Stage(req), metav1.NewTime(Decided(req))
		if !refused(stage) || (result != nil && decided.Before(&result.Time)) {
			continue
		}
		reason, message := Refusal(req)
		result = &v1alpha1.SigningRefusal{
			Name: text.Field(req.Name, maxName), Stage: stage, Reason: reason, Message: message, Time: decided,
		}
	}
	return result
}
