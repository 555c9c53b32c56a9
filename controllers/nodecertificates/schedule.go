// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
)

const (
	// intervalJitter is the share by which the time between two probes of a node varies either way.
	intervalJitter = 0.1
	// firstBackoff is the wait after a first failure; each further one doubles it, up to the interval.
	firstBackoff = 15 * time.Second
	// firstRetry is the wait for an issued certificate to be served; each further one doubles it, up to the interval.
	firstRetry = time.Second
	// maxLead is how long before a threshold a certificate is looked at once more, and leadShare the share of its lifetime
	// that is the lead of one that does not live long.
	maxLead   = 30 * time.Second
	leadShare = 100
	// afterExpiry is the wait from a certificate's last valid second to the look at what the kubelet does then.
	afterExpiry = time.Second
)

// demand is what the policies that select a node ask of the prober.
type demand struct {
	interval time.Duration
	timeout  time.Duration
	// expiry are the thresholds around which the node is probed.
	expiry []v1alpha1.ExpirySpec
	// kubelet says that a policy requires what only the kubelet itself can tell.
	kubelet bool
}

// demandOn is what the policies ask of a node with these labels: the shortest interval, the longest timeout, all thresholds.
// It is nil when none selects the node. A policy whose selector is invalid selects nothing; its own controller reports that.
func demandOn(nodeLabels labels.Labels, policies []v1alpha1.CertificatePolicy) *demand {
	var result *demand
	for i := range policies {
		spec := &policies[i].Spec
		selector, err := spec.Nodes.Selector.AsSelector()
		if err != nil || !selector.Matches(nodeLabels) {
			continue
		}
		interval := positive(spec.Nodes.Probe.Interval, v1alpha1.DefaultProbeInterval)
		timeout := positive(spec.Nodes.Probe.Timeout, v1alpha1.DefaultProbeTimeout)
		if result == nil {
			result = &demand{interval: interval, timeout: timeout}
		}
		result.interval = min(result.interval, interval)
		result.timeout = max(result.timeout, timeout)
		expiry := &spec.Expiry
		if spec.Nodes.Expiry != nil {
			expiry = spec.Nodes.Expiry
		}
		result.expiry = append(result.expiry, *expiry)
		result.kubelet = result.kubelet || needsKubelet(&spec.Nodes)
	}
	return result
}

// needsKubelet says that the policy requires rotation, of client or of serving certificates: the default of both.
func needsKubelet(nodes *v1alpha1.NodesSpec) bool {
	client := cmp.Or(nodes.ClientCertificate.Rotation, v1alpha1.ClientRotationRequired)
	serving := cmp.Or(nodes.ServingCertificate.Rotation, v1alpha1.ServingRotationRequired)
	return client == v1alpha1.ClientRotationRequired || serving == v1alpha1.ServingRotationRequired
}

func positive(d *metav1.Duration, otherwise time.Duration) time.Duration {
	if d == nil || d.Duration <= 0 {
		return otherwise
	}
	return d.Duration
}

// history is what the schedule of a node depends on.
type history struct {
	// probed is when the node was last probed; zero when it never was.
	probed time.Time
	// jitter, in [-1, 1), was drawn at that probe.
	jitter float64
	// failures counts the probes, up to the last, that told nothing about the certificate.
	failures int
	// suspect says that the last attempt timed out: the next one may keep a worker waiting.
	suspect bool
	// awaited is the fingerprint of an issued certificate that was not the served one at the last probe; else empty.
	awaited string
	// attempts counts the probes since it is awaited.
	attempts int
}

// after is the history once a probe was made, which failed if it told nothing. awaited is the issued certificate that is
// still not the one in use.
func (h history) after(failed, timedOut bool, awaited string, now time.Time, jitter float64) history {
	next := history{probed: now, jitter: jitter, suspect: timedOut, awaited: awaited}
	if failed {
		next.failures = h.failures + 1
	}
	if awaited != "" {
		next.attempts = 1
		if awaited == h.awaited {
			next.attempts = h.attempts + 1
		}
	}
	return next
}

// schedule is everything that says when a node is due.
type schedule struct {
	history history
	demand  demand
	// served is the certificate that the last probe showed; nil when none was.
	served *v1alpha1.CertificateStatus
	// awaited is the fingerprint of the newest issued certificate, if it is not the served one; else empty.
	awaited string
	// outdated says that the last probe went to another address, or was judged against another trust bundle.
	outdated bool
}

// next is when the node is due. It is not after the last probe when the node is due at once.
func (s schedule) next() time.Time {
	last := s.history.probed
	if last.IsZero() || s.outdated || s.awaited != "" && s.awaited != s.history.awaited {
		return last
	}
	next := last.Add(s.pause())
	if s.awaited != "" {
		next = earlier(next, last.Add(min(s.demand.interval, doubled(firstRetry, s.history.attempts-1))))
	}
	if threshold := nextThreshold(s.served, s.demand.expiry, last); !threshold.IsZero() {
		next = earlier(next, threshold)
	}
	return next
}

// pause is the time between two probes while nothing happens.
func (s schedule) pause() time.Duration {
	pause := s.demand.interval
	if s.history.failures > 0 {
		pause = min(pause, doubled(firstBackoff, s.history.failures-1))
	}
	return pause + time.Duration(s.history.jitter*intervalJitter*float64(pause))
}

// nextThreshold is the first moment after the last probe at which the certificate is worth a look: just before it crosses a
// threshold, since a kubelet that renewed it in time shall not be reported, and when it has expired. Zero when there is none.
func nextThreshold(served *v1alpha1.CertificateStatus, expiry []v1alpha1.ExpirySpec, last time.Time) time.Time {
	if served == nil {
		return time.Time{}
	}
	life := pki.Lifetime{NotBefore: served.NotBefore.Time, NotAfter: served.NotAfter.Time}
	lead := min(life.Duration()/leadShare, maxLead)
	moments := []time.Time{life.NotAfter.Add(-lead), life.NotAfter.Add(afterExpiry)}
	for _, e := range expiry {
		moments = append(moments, life.NotAfter.Add(-floor(e)-lead))
		if life.NotBefore.IsZero() {
			continue // only its end is known, so there are no shares of its life
		}
		moments = append(moments,
			life.At(cmp.Or(e.WarnAtLifetimePercent, v1alpha1.DefaultWarnAtLifetimePercent)).Add(-lead),
			life.At(cmp.Or(e.OverdueAtLifetimePercent, v1alpha1.DefaultOverdueAtLifetimePercent)).Add(-lead))
	}
	var first time.Time
	for _, moment := range moments {
		if moment.After(last) && (first.IsZero() || moment.Before(first)) {
			first = moment
		}
	}
	return first
}

// floor is the policy's minimum remaining time; unlike other durations it may be zero.
func floor(e v1alpha1.ExpirySpec) time.Duration {
	if e.MinimumRemaining == nil {
		return v1alpha1.DefaultMinimumRemaining
	}
	return e.MinimumRemaining.Duration
}

// awaitedCertificate is the fingerprint of the issued certificate if it is to replace the served one; else empty.
func awaitedCertificate(issued, served *v1alpha1.CertificateStatus, now time.Time) string {
	switch {
	case issued == nil || !issued.NotAfter.After(now):
		return ""
	case served != nil && (served.SHA256 == issued.SHA256 || issued.NotBefore.Before(&served.NotBefore)):
		// A kubelet that was given a newer certificate in another way waits for none.
		return ""
	default:
		return issued.SHA256
	}
}

// doubled is the duration, doubled so many times, without overflow.
func doubled(d time.Duration, times int) time.Duration {
	return d << min(max(times, 0), 20)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
