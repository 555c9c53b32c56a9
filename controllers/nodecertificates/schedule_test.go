// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func duration(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

func policyFor(pool string, interval, timeout *metav1.Duration) v1alpha1.CertificatePolicy {
	policy := v1alpha1.CertificatePolicy{}
	if pool != "" {
		policy.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{"pool": v1alpha1.LabelValue(pool)}
	}
	policy.Spec.Nodes.Probe = v1alpha1.ProbeSpec{Interval: interval, Timeout: timeout}
	return policy
}

func TestDemandOn(t *testing.T) {
	invalid := policyFor("", duration(time.Second), nil)
	invalid.Spec.Nodes.Selector.MatchExpressions = []v1alpha1.NodeSelectorRequirement{{Key: "a", Operator: "Unheard"}}
	policies := []v1alpha1.CertificatePolicy{
		policyFor("a", duration(time.Minute), duration(time.Second)),
		policyFor("", duration(time.Hour), duration(10*time.Second)),
		policyFor("b", duration(time.Second), duration(time.Minute)),
		invalid,
	}
	got := demandOn(labels.Set{"pool": "a"}, policies)
	if got == nil || got.interval != time.Minute || got.timeout != 10*time.Second || len(got.expiry) != 2 {
		t.Errorf("demand = %+v", got)
	}
	if got := demandOn(labels.Set{}, policies[2:]); got != nil {
		t.Errorf("a node that no policy selects: %+v", got)
	}
	defaults := demandOn(labels.Set{}, []v1alpha1.CertificatePolicy{{}})
	if defaults == nil || defaults.interval != 10*time.Minute || defaults.timeout != 5*time.Second {
		t.Errorf("an empty policy: %+v", defaults)
	}
}

func TestNext(t *testing.T) {
	last := pkitest.Start()
	every10m := demand{interval: 10 * time.Minute}
	// A certificate whose thresholds are far away.
	calm := &v1alpha1.CertificateStatus{NotBefore: metav1.NewTime(last), NotAfter: metav1.NewTime(last.AddDate(1, 0, 0))}

	for name, test := range map[string]struct {
		schedule schedule
		// want is the wait from the last probe; zero is at once.
		want time.Duration
	}{
		"never probed":                {schedule{demand: every10m}, 0},
		"at the interval":             {schedule{history: history{probed: last}, demand: every10m, served: calm}, 10 * time.Minute},
		"no certificate":              {schedule{history: history{probed: last}, demand: every10m}, 10 * time.Minute},
		"with jitter, sooner":         {schedule{history: history{probed: last, jitter: -1}, demand: every10m}, 9 * time.Minute},
		"with jitter, later":          {schedule{history: history{probed: last, jitter: 0.5}, demand: every10m}, 10*time.Minute + 30*time.Second},
		"outdated":                    {schedule{history: history{probed: last, failures: 9}, demand: every10m, outdated: true}, 0},
		"first failure":               {schedule{history: history{probed: last, failures: 1}, demand: every10m}, 15 * time.Second},
		"third failure":               {schedule{history: history{probed: last, failures: 3}, demand: every10m}, time.Minute},
		"many failures":               {schedule{history: history{probed: last, failures: 1000}, demand: every10m}, 10 * time.Minute},
		"failure, shorter interval":   {schedule{history: history{probed: last, failures: 1}, demand: demand{interval: 10 * time.Second}}, 10 * time.Second},
		"failure, with jitter":        {schedule{history: history{probed: last, failures: 2, jitter: -1}, demand: every10m}, 27 * time.Second},
		"newly issued":                {schedule{history: history{probed: last}, demand: every10m, served: calm, awaited: "a"}, 0},
		"another newly issued":        {schedule{history: history{probed: last, awaited: "a", attempts: 9}, demand: every10m, awaited: "b"}, 0},
		"issued, first retry":         {schedule{history: history{probed: last, awaited: "a", attempts: 1}, demand: every10m, awaited: "a"}, time.Second},
		"issued, fourth retry":        {schedule{history: history{probed: last, awaited: "a", attempts: 4}, demand: every10m, awaited: "a"}, 8 * time.Second},
		"issued, never served":        {schedule{history: history{probed: last, awaited: "a", attempts: 1000}, demand: every10m, awaited: "a"}, 10 * time.Minute},
		"issued, and failing as well": {schedule{history: history{probed: last, failures: 2, awaited: "a", attempts: 2}, demand: every10m, awaited: "a"}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.schedule.next()
			if test.want == 0 {
				if got.After(test.schedule.history.probed) {
					t.Errorf("next() = %v after the last probe, want at once", got.Sub(last))
				}
				return
			}
			if got.Sub(last) != test.want {
				t.Errorf("next() = %v after the last probe, want %v", got.Sub(last), test.want)
			}
		})
	}
}

// TestNextThreshold follows a certificate through its life, from one look to the next.
func TestNextThreshold(t *testing.T) {
	born := pkitest.Start()
	for name, test := range map[string]struct {
		lifetime time.Duration
		expiry   []v1alpha1.ExpirySpec
		want     []time.Duration
	}{
		"100 days, default policy": {
			100 * 24 * time.Hour, []v1alpha1.ExpirySpec{{}}, []time.Duration{
				80*24*time.Hour - 30*time.Second, 90*24*time.Hour - 30*time.Second,
				99*24*time.Hour - 30*time.Second, 100*24*time.Hour - 30*time.Second, 100*24*time.Hour + time.Second,
			},
		},
		"100 seconds, no floor": {
			100 * time.Second,
			[]v1alpha1.ExpirySpec{{WarnAtLifetimePercent: 50, OverdueAtLifetimePercent: 75, MinimumRemaining: duration(0)}},
			[]time.Duration{49 * time.Second, 74 * time.Second, 99 * time.Second, 101 * time.Second},
		},
		"two policies": {
			100 * time.Second, []v1alpha1.ExpirySpec{
				{WarnAtLifetimePercent: 50, OverdueAtLifetimePercent: 75, MinimumRemaining: duration(0)},
				{WarnAtLifetimePercent: 50, OverdueAtLifetimePercent: 80, MinimumRemaining: duration(10 * time.Second)},
			},
			[]time.Duration{
				49 * time.Second, 74 * time.Second, 79 * time.Second, 89 * time.Second, 99 * time.Second, 101 * time.Second,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cert := &v1alpha1.CertificateStatus{NotBefore: metav1.NewTime(born), NotAfter: metav1.NewTime(born.Add(test.lifetime))}
			var got []time.Duration
			for at := nextThreshold(cert, test.expiry, born); !at.IsZero(); at = nextThreshold(cert, test.expiry, at) {
				got = append(got, at.Sub(born))
				if len(got) > 20 {
					t.Fatal("the looks do not end")
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestThresholdsComeBeforeTheInterval(t *testing.T) {
	born := pkitest.Start()
	s := schedule{
		history: history{probed: born.Add(75 * time.Second)},
		demand:  demand{interval: time.Hour, expiry: []v1alpha1.ExpirySpec{{MinimumRemaining: duration(0)}}},
		served:  &v1alpha1.CertificateStatus{NotBefore: metav1.NewTime(born), NotAfter: metav1.NewTime(born.Add(100 * time.Second))},
	}
	if got := s.next().Sub(born); got != 79*time.Second {
		t.Errorf("next() = %v after notBefore, want just before the warning at 80 s", got)
	}
}

func TestHistoryAfter(t *testing.T) {
	now := pkitest.Start()
	h := history{}
	for range 3 {
		h = h.after(true, true, "a", now, 0.5)
	}
	if want := (history{probed: now, jitter: 0.5, failures: 3, suspect: true, awaited: "a", attempts: 3}); h != want {
		t.Errorf("history = %+v, want %+v", h, want)
	}
	h = h.after(true, false, "b", now, 0)
	if want := (history{probed: now, failures: 4, awaited: "b", attempts: 1}); h != want {
		t.Errorf("another certificate is awaited: history = %+v, want %+v", h, want)
	}
	// That there is no certificate is an answer.
	h = h.after(false, false, "", now, 0)
	if want := (history{probed: now}); h != want {
		t.Errorf("history = %+v, want %+v", h, want)
	}
}

func TestAwaitedCertificate(t *testing.T) {
	born := pkitest.Start()
	cert := func(sum string, notBefore time.Time) *v1alpha1.CertificateStatus {
		return &v1alpha1.CertificateStatus{
			SHA256: sum, NotBefore: metav1.NewTime(notBefore), NotAfter: metav1.NewTime(notBefore.Add(time.Hour)),
		}
	}
	now := born.Add(time.Minute)
	for name, test := range map[string]struct {
		issued, served *v1alpha1.CertificateStatus
		want           string
	}{
		"nothing issued":                   {nil, cert("a", born), ""},
		"issued and served":                {cert("a", born), cert("a", born), ""},
		"issued, none served":              {cert("a", born), nil, "a"},
		"issued, the former one served":    {cert("b", born), cert("a", born.Add(-time.Minute)), "b"},
		"issued in the same second":        {cert("b", born), cert("a", born), "b"},
		"a newer one from somewhere else":  {cert("a", born), cert("b", born.Add(time.Minute)), ""},
		"issued long ago and expired":      {cert("a", born.Add(-time.Hour)), nil, ""},
		"expired in the very same instant": {cert("a", now.Add(-time.Hour)), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := awaitedCertificate(test.issued, test.served, now); got != test.want {
				t.Errorf("awaited = %q, want %q", got, test.want)
			}
		})
	}
}
