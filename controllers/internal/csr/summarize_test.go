// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

const day = 24 * 60 // minutes

// step is one look at a node's requests, so many minutes after the start.
type step struct {
	minute   int
	requests []builder
	// want is the status in brief, see brief.
	want string
}

// brief writes a status as "name stage @created decided issued=.. pending=.. since=.. approved=.. refusal=..", times in minutes.
func brief(s *v1alpha1.SigningRequestStatus) string {
	if s == nil {
		return "none"
	}
	minutes := func(t *metav1.Time) string {
		if t == nil {
			return "-"
		}
		return fmt.Sprint(t.Sub(pkitest.Start()).Minutes())
	}
	text := fmt.Sprintf("%s %s @%s decided=%s issued=%s pending=%d since=%s",
		s.Name, s.Stage, minutes(&s.Created), minutes(s.Decided), minutes(s.Issued), s.Pending, minutes(s.PendingSince))
	if s.ApprovedSince != nil {
		text += " approved=" + minutes(s.ApprovedSince)
	}
	if s.Refusal != nil {
		text += fmt.Sprintf(" refusal=%s/%s/%s@%s", s.Refusal.Name, s.Refusal.Stage, s.Refusal.Reason, minutes(&s.Refusal.Time))
	}
	return text
}

func objects(builders []builder) []*certificatesv1.CertificateSigningRequest {
	var result []*certificatesv1.CertificateSigningRequest
	for _, b := range builders {
		result = append(result, b.Obj())
	}
	return result
}

func TestSummarize(t *testing.T) {
	all := func(builders ...builder) []builder { return builders }
	// Builders change the request they are called on, so each state is a new one.
	a, b, c, d := named("a"), named("b"), named("c"), named("d")

	for name, steps := range map[string][]step{
		"never a request": {{0, nil, "none"}, {day, nil, "none"}},
		"from filed to issued, then collected": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{1, all(a(0).Approved(1)), "a Approved @0 decided=1 issued=- pending=0 since=- approved=1"},
			{2, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=2 pending=0 since=-"},
			{30, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=2 pending=0 since=-"},
			{90, nil, "a Issued @0 decided=1 issued=2 pending=0 since=-"},
			{900 * day, nil, "a Issued @0 decided=1 issued=2 pending=0 since=-"},
		},
		"issued before it was ever seen: when it was approved": {
			{50, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=1 pending=0 since=-"},
		},
		"the API server's clock is ahead": {
			{0, all(a(5)), "a Pending @5 decided=- issued=- pending=1 since=5"},
			{1, all(a(5).Issued(6)), "a Issued @5 decided=6 issued=6 pending=0 since=-"},
			{2, all(a(5).Issued(6)), "a Issued @5 decided=6 issued=6 pending=0 since=-"},
		},
		"renewed, the old one collected": {
			{2, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=1 pending=0 since=-"},
			{100, all(b(100)), "b Pending @100 decided=- issued=1 pending=1 since=100"},
			{101, all(b(100).Issued(101)), "b Issued @100 decided=101 issued=101 pending=0 since=-"},
		},
		"renewed, seen only when both were issued": {
			{2, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=1 pending=0 since=-"},
			{200, all(a(0).Issued(1), b(100).Issued(101)), "b Issued @100 decided=101 issued=101 pending=0 since=-"},
		},
		"the newest is chosen by creation, then by name": {
			{9, all(b(3), a(3), d(1), c(2)), "b Pending @3 decided=- issued=- pending=4 since=1"},
		},
		"nobody approves: looping, for days": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{15, all(a(0), b(15)), "b Pending @15 decided=- issued=- pending=2 since=0"},
			{day + 1, all(b(15), c(day)), "c Pending @1440 decided=- issued=- pending=2 since=0"},
			{day + 60, all(c(day)), "c Pending @1440 decided=- issued=- pending=1 since=0"},
			{day + 61, all(c(day).Issued(day + 61)), "c Issued @1440 decided=1501 issued=1501 pending=0 since=-"},
			{day + 70, all(c(day).Issued(day+61), d(day+70)), "d Pending @1510 decided=- issued=1501 pending=1 since=1510"},
		},
		"the oldest pending one was decided on: since the next": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{
				16, all(a(0).Denied(16), b(15)),
				"b Pending @15 decided=- issued=- pending=1 since=15 refusal=a/Denied/NotAllowed@16",
			},
		},
		"the oldest pending one vanished while the controller was away, for less than its collection takes": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{300, all(b(299)), "b Pending @299 decided=- issued=- pending=1 since=299"},
		},
		"the oldest pending one was deleted for its age, and one was issued since": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{day + 10, all(b(day).Issued(day+1), c(day+5)), "c Pending @1445 decided=- issued=1441 pending=1 since=1445"},
		},
		"pending ones older than the issued one do not count, also when that is collected": {
			{30, all(a(0), b(15), c(30)), "c Pending @30 decided=- issued=- pending=3 since=0"},
			{31, all(a(0), b(15), c(30).Issued(31)), "c Issued @30 decided=31 issued=31 pending=0 since=-"},
			{100, all(a(0), b(15)), "c Issued @30 decided=31 issued=31 pending=0 since=-"},
			{200, all(a(0), b(15), d(200)), "d Pending @200 decided=- issued=31 pending=1 since=200"},
			{202, all(a(0), b(15), d(200).Approved(201)), "d Approved @200 decided=201 issued=31 pending=0 since=- approved=201"},
			{203, all(a(0), b(15)), "d Deleted @200 decided=201 issued=31 pending=0 since=-"},
		},
		"an older one is issued late: the newer still waits, also when the issued one is collected": {
			{20, all(a(0), b(15)), "b Pending @15 decided=- issued=- pending=2 since=0"},
			{25, all(a(0).Issued(25), b(15)), "b Pending @15 decided=- issued=25 pending=1 since=15"},
			{100, all(b(15)), "b Pending @15 decided=- issued=25 pending=1 since=15"},
			{101, all(b(15).Issued(101)), "b Issued @15 decided=101 issued=101 pending=0 since=-"},
		},
		"deleted before it was decided on": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{5, nil, "a Deleted @0 decided=- issued=- pending=0 since=-"},
			{day, nil, "a Deleted @0 decided=- issued=- pending=0 since=-"},
			{day + 1, all(b(day + 1)), "b Pending @1441 decided=- issued=- pending=1 since=1441"},
		},
		"deleted before it was issued": {
			{1, all(a(0).Approved(1)), "a Approved @0 decided=1 issued=- pending=0 since=- approved=1"},
			{5, nil, "a Deleted @0 decided=1 issued=- pending=0 since=-"},
		},
		"approved, and never issued: looping, for days": {
			{1, all(a(0).Approved(1)), "a Approved @0 decided=1 issued=- pending=0 since=- approved=1"},
			{15, all(a(0).Approved(1), b(15)), "b Pending @15 decided=- issued=- pending=1 since=15 approved=1"},
			{
				16, all(a(0).Approved(1), b(15).Approved(16)),
				"b Approved @15 decided=16 issued=- pending=0 since=- approved=1",
			},
			{
				day + 16, all(b(15).Approved(16), c(day).Approved(day)),
				"c Approved @1440 decided=1440 issued=- pending=0 since=- approved=1",
			},
			{day + 61, all(c(day).Approved(day)), "c Approved @1440 decided=1440 issued=- pending=0 since=- approved=1"},
			{day + 62, all(c(day).Issued(day)), "c Issued @1440 decided=1440 issued=1502 pending=0 since=-"},
		},
		"approved, one after the other, since one was issued, also when that is collected": {
			{0, all(a(0).Issued(0)), "a Issued @0 decided=0 issued=0 pending=0 since=-"},
			{100, all(b(100).Approved(101)), "b Approved @100 decided=101 issued=0 pending=0 since=- approved=101"},
			{
				115, all(b(100).Approved(101), c(115)),
				"c Pending @115 decided=- issued=0 pending=1 since=115 approved=101",
			},
			{
				116, all(b(100).Approved(101), c(115).Approved(116)),
				"c Approved @115 decided=116 issued=0 pending=0 since=- approved=101",
			},
			{117, all(b(100).Issued(101), c(115).Approved(116)), "c Approved @115 decided=116 issued=101 pending=0 since=- approved=116"},
			{118, all(b(100).Issued(101), c(115).Issued(116)), "c Issued @115 decided=116 issued=118 pending=0 since=-"},
		},
		"approved, and gone while the controller was away, for less than its collection takes": {
			{1, all(a(0).Approved(1)), "a Approved @0 decided=1 issued=- pending=0 since=- approved=1"},
			{300, all(b(299).Approved(300)), "b Approved @299 decided=300 issued=- pending=0 since=- approved=300"},
		},
		"approved ones older than the issued one do not count": {
			{20, all(a(0).Approved(20), b(15).Issued(16)), "b Issued @15 decided=16 issued=16 pending=0 since=-"},
			{80, all(a(0).Approved(20)), "b Issued @15 decided=16 issued=16 pending=0 since=-"},
		},
		"deleted and filed again under the same name": {
			{0, all(a(0).Issued(0)), "a Issued @0 decided=0 issued=0 pending=0 since=-"},
			{100, all(a(99)), "a Pending @99 decided=- issued=0 pending=1 since=99"},
			{101, all(a(99).Issued(100)), "a Issued @99 decided=100 issued=101 pending=0 since=-"},
		},
		"deleted and filed again under the same name while pending: it was not seen pending": {
			{0, all(a(0)), "a Pending @0 decided=- issued=- pending=1 since=0"},
			{60, all(a(50).Issued(51)), "a Issued @50 decided=51 issued=51 pending=0 since=-"},
		},
		"denied, remembered when collected, until another is issued": {
			{1, all(a(0).Denied(1)), "a Denied @0 decided=1 issued=- pending=0 since=- refusal=a/Denied/NotAllowed@1"},
			{100, nil, "a Denied @0 decided=1 issued=- pending=0 since=- refusal=a/Denied/NotAllowed@1"},
			{101, all(b(101)), "b Pending @101 decided=- issued=- pending=1 since=101 refusal=a/Denied/NotAllowed@1"},
			{
				102, all(b(101).Approved(102)),
				"b Approved @101 decided=102 issued=- pending=0 since=- approved=102 refusal=a/Denied/NotAllowed@1",
			},
			{103, all(b(101).Issued(102)), "b Issued @101 decided=102 issued=103 pending=0 since=-"},
			{200, nil, "b Issued @101 decided=102 issued=103 pending=0 since=-"},
		},
		"failed, after one was issued": {
			{0, all(a(0).Issued(0)), "a Issued @0 decided=0 issued=0 pending=0 since=-"},
			{
				100, all(b(100).Approved(100).Failed(101)),
				"b Failed @100 decided=101 issued=0 pending=0 since=- refusal=b/Failed/SignerValidationFailure@101",
			},
			{200, nil, "b Failed @100 decided=101 issued=0 pending=0 since=- refusal=b/Failed/SignerValidationFailure@101"},
			{
				201, all(c(201).Denied(201)),
				"c Denied @201 decided=201 issued=0 pending=0 since=- refusal=c/Denied/NotAllowed@201",
			},
		},
		"issued, and failed after all": {
			{1, all(a(0).Issued(1)), "a Issued @0 decided=1 issued=1 pending=0 since=-"},
			{
				2, all(a(0).Issued(1).Failed(2)),
				"a Failed @0 decided=2 issued=1 pending=0 since=- refusal=a/Failed/SignerValidationFailure@2",
			},
		},
		"a refusal older than the issued one does not count, also when that is collected first": {
			{6, all(a(0).Denied(4), b(5).Issued(6)), "b Issued @5 decided=6 issued=6 pending=0 since=-"},
			{7, all(a(0).Denied(4)), "b Issued @5 decided=6 issued=6 pending=0 since=-"},
		},
		"a leftover denied after a newer one was issued does not count": {
			{16, all(a(0), b(15).Issued(16)), "b Issued @15 decided=16 issued=16 pending=0 since=-"},
			{20, all(a(0).Denied(20), b(15).Issued(16)), "b Issued @15 decided=16 issued=16 pending=0 since=-"},
			{80, all(a(0).Denied(20)), "b Issued @15 decided=16 issued=16 pending=0 since=-"},
		},
		"in the same second: one that waits is newer than one that was issued, whatever its name": {
			{1, all(b(0).Issued(1)), "b Issued @0 decided=1 issued=1 pending=0 since=-"},
			{2, all(a(0).Approved(2), b(0).Issued(1)), "a Approved @0 decided=2 issued=1 pending=0 since=- approved=2"},
			{3, all(a(0).Issued(3), b(0).Issued(1)), "b Issued @0 decided=1 issued=1 pending=0 since=-"},
		},
		"in the same second: all that wait are newer than one that was issued": {
			{1, all(a(0), b(0).Issued(1), c(0)), "c Pending @0 decided=- issued=1 pending=2 since=0"},
			{
				2, all(a(0), b(0).Issued(1), c(0).Denied(2)),
				"a Pending @0 decided=- issued=1 pending=1 since=0 refusal=c/Denied/NotAllowed@2",
			},
			{3, all(a(0), b(0).Issued(1), c(0).Denied(2), d(0).Issued(3)), "a Pending @0 decided=- issued=3 pending=1 since=0"},
		},
		"in the same second: else by name, also when the issued one is collected": {
			{1, all(b(0).Issued(1), c(0)), "c Pending @0 decided=- issued=1 pending=1 since=0"},
			{
				2, all(b(0).Issued(1), c(0).Denied(2)),
				"c Denied @0 decided=2 issued=1 pending=0 since=- refusal=c/Denied/NotAllowed@2",
			},
			{3, all(b(0).Issued(1), c(0).Denied(2), d(0).Issued(3)), "d Issued @0 decided=3 issued=3 pending=0 since=-"},
			{90, all(a(0)), "d Issued @0 decided=3 issued=3 pending=0 since=-"},
		},
		"the newest was denied and deleted, an older one is issued late: the kubelet no longer waits for that": {
			{
				20, all(a(0), b(15).Denied(20)),
				"b Denied @15 decided=20 issued=- pending=1 since=0 refusal=b/Denied/NotAllowed@20",
			},
			{30, all(a(0)), "b Denied @15 decided=20 issued=- pending=1 since=0 refusal=b/Denied/NotAllowed@20"},
			{31, all(a(0).Issued(30)), "b Denied @15 decided=20 issued=30 pending=0 since=- refusal=b/Denied/NotAllowed@20"},
			{90, nil, "b Denied @15 decided=20 issued=30 pending=0 since=- refusal=b/Denied/NotAllowed@20"},
		},
		"an older one is denied later: the latest refusal": {
			{
				5, all(a(0), b(4).Failed(5)),
				"b Failed @4 decided=5 issued=- pending=1 since=0 refusal=b/Failed/SignerValidationFailure@5",
			},
			{
				6, all(a(0).Denied(6), b(4).Failed(5)),
				"b Failed @4 decided=5 issued=- pending=0 since=- refusal=a/Denied/NotAllowed@6",
			},
			{70, nil, "b Failed @4 decided=5 issued=- pending=0 since=- refusal=a/Denied/NotAllowed@6"},
		},
		"the newest refusal was deleted, an older is left": {
			{
				5, all(a(0).Denied(1), b(4).Failed(5)),
				"b Failed @4 decided=5 issued=- pending=0 since=- refusal=b/Failed/SignerValidationFailure@5",
			},
			{
				6, all(a(0).Denied(1)),
				"b Failed @4 decided=5 issued=- pending=0 since=- refusal=b/Failed/SignerValidationFailure@5",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var status *v1alpha1.SigningRequestStatus
			for i, s := range steps {
				now := at(s.minute).Add(300 * time.Millisecond)
				status = csr.Summarize(certificatesv1.KubeletServingSignerName, status, objects(s.requests), now)
				if diff := cmp.Diff(s.want, brief(status)); diff != "" {
					t.Fatalf("step %d, minute %d (-want +got):\n%s", i+1, s.minute, diff)
				}
			}
		})
	}
}

func named(name string) func(created int) builder {
	return func(created int) builder { return request(name, created) }
}

func TestSummarizeInFull(t *testing.T) {
	long := strings.Repeat("ä", 1000)
	req := request(long, 3).Condition(certificatesv1.CertificateDenied, 4, long, long).Usages("any")
	created, decided := metav1.NewTime(at(3)), metav1.NewTime(at(4))
	cut := func(n int) string { return strings.Repeat("ä", n-1) + "…" }
	want := &v1alpha1.SigningRequestStatus{
		SignerName: cut(128),
		Name:       cut(253),
		Stage:      v1alpha1.StageDenied,
		Created:    created,
		Decided:    &decided,
		Malformed:  `usages are "any", want "digital signature" and "server auth", and at most "key encipherment" besides`,
		Refusal: &v1alpha1.SigningRefusal{
			Name: cut(253), Stage: v1alpha1.StageDenied, Reason: cut(128), Message: cut(512), Time: decided,
		},
	}
	got := csr.Summarize(long, nil, objects([]builder{req}), at(5))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Summarize() (-want +got):\n%s", diff)
	}
	again := csr.Summarize(long, got, objects([]builder{req}), at(6))
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("Summarize() again (-want +got):\n%s", diff)
	}
}

func TestSummarizeChangesNoArgument(t *testing.T) {
	issued, since := metav1.NewTime(at(1)), metav1.NewTime(at(2))
	previous := &v1alpha1.SigningRequestStatus{
		Name: "a", Stage: v1alpha1.StagePending, Created: since, Issued: &issued, Pending: 1, PendingSince: &since,
		ApprovedSince: &since,
		Refusal:       &v1alpha1.SigningRefusal{Name: "b", Time: since},
	}
	requests := objects([]builder{request("c", 9), request("b", 5).Denied(6), request("a", 2)})
	before, order := previous.DeepCopy(), slices.Clone(requests)

	got := csr.Summarize(certificatesv1.KubeletServingSignerName, previous, requests, at(10))
	*got.PendingSince, *got.Issued, got.Refusal.Name = metav1.Time{}, metav1.Time{}, "changed"
	if diff := cmp.Diff(before, previous); diff != "" {
		t.Errorf("previous (-before +after):\n%s", diff)
	}
	if !slices.Equal(order, requests) {
		t.Error("requests were reordered")
	}
}

// FuzzSummarize plays random lives of a node's requests and looks for a status that the API server would refuse, that
// moves by itself, or that contradicts the requests there are.
func FuzzSummarize(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		var status *v1alpha1.SigningRequestStatus
		var requests []builder
		for minute := range 60 {
			requests = live(random, requests, minute)
			now := at(minute * 30)
			status = csr.Summarize(certificatesv1.KubeletServingSignerName, status, objects(requests), now)
			checkStatus(t, status, requests)

			random.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
			later := csr.Summarize(certificatesv1.KubeletServingSignerName, status, objects(requests), now.Add(48*time.Hour))
			if diff := cmp.Diff(status, later); diff != "" {
				t.Fatalf("minute %d: moved by itself (-first +second):\n%s", minute, diff)
			}
		}
	})
}

// live lets half an hour pass: requests are filed, decided, issued and collected.
func live(random *rand.Rand, requests []builder, tick int) []builder {
	minute := tick * 30
	for range random.IntN(3) {
		requests = append(requests, request(fmt.Sprintf("csr-%d", random.Uint64()), minute))
	}
	var kept []builder
	for _, b := range requests {
		switch stage := csr.Stage(b.Obj()); {
		case stage == v1alpha1.StagePending && random.IntN(5) == 0:
			b = b.Approved(minute)
		case stage == v1alpha1.StagePending && random.IntN(8) == 0:
			b = b.Denied(minute)
		case stage == v1alpha1.StageApproved && random.IntN(2) == 0:
			b = b.Certificate(certificate)
		case stage == v1alpha1.StageApproved && random.IntN(4) == 0:
			b = b.Failed(minute)
		case random.IntN(6) == 0:
			continue // Collected.
		}
		kept = append(kept, b)
	}
	return kept
}

func checkStatus(t *testing.T, status *v1alpha1.SigningRequestStatus, requests []builder) {
	t.Helper()
	if status == nil {
		if len(requests) > 0 {
			t.Fatal("no status for requests that exist")
		}
		return
	}
	pending := 0
	for _, b := range requests {
		if csr.Stage(b.Obj()) == v1alpha1.StagePending {
			pending++
		}
		if status.Created.Before(&b.CreationTimestamp) {
			t.Errorf("%s is newer than the newest", b.Name)
		}
	}
	isIssued := status.Stage == v1alpha1.StageIssued
	for problem, found := range map[string]bool{
		"more are pending than there are":                int(status.Pending) > pending,
		"pending and pendingSince contradict each other": (status.Pending > 0) != (status.PendingSince != nil),
		"the newest is pending and does not count":       status.Stage == v1alpha1.StagePending && status.Pending == 0,
		"the newest is issued, and issued is not set":    isIssued && status.Issued == nil,
		"the newest is issued, and others are open":      isIssued && (status.Pending > 0 || status.Refusal != nil),
		"what waits for its certificate contradicts it":  contradictsApproval(status),
		"the newest was refused without a refusal":       status.Refusal == nil && refusedNow(status),
		"a required field is empty":                      status.Name == "" || status.Created.IsZero() || status.SignerName == "",
	} {
		if found {
			t.Errorf("%s: %s", problem, brief(status))
		}
	}
}

// contradictsApproval says whether approvedSince does not fit what became of the newest request.
func contradictsApproval(status *v1alpha1.SigningRequestStatus) bool {
	return status.Stage == v1alpha1.StageApproved && status.ApprovedSince == nil ||
		status.Stage == v1alpha1.StageIssued && status.ApprovedSince != nil
}

// refusedNow says whether the newest request was refused, with no certificate issued since.
func refusedNow(status *v1alpha1.SigningRequestStatus) bool {
	return (status.Stage == v1alpha1.StageDenied || status.Stage == v1alpha1.StageFailed) &&
		(status.Issued == nil || status.Issued.Before(status.Decided))
}

func BenchmarkSummarize(b *testing.B) {
	var looping []builder
	for i := range 96 {
		looping = append(looping, request(fmt.Sprintf("csr-%d", i), i*15))
	}
	for name, requests := range map[string][]builder{
		"Issued":     {request("csr-1", 0).Issued(1)},
		"Pending":    {request("csr-1", 0)},
		"96 Looping": looping,
	} {
		b.Run(name, func(b *testing.B) {
			input := objects(requests)
			previous := csr.Summarize(certificatesv1.KubeletServingSignerName, nil, input, at(2))
			b.ReportAllocs()
			for b.Loop() {
				if csr.Summarize(certificatesv1.KubeletServingSignerName, previous, input, at(3)) == nil {
					b.Fatal("no status")
				}
			}
		})
	}
}
