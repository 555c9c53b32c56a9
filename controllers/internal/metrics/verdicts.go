// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
)

// Report is the latest verdict on one policy, whole: unlike the policy's status it leaves out no finding. Whoever hands a
// Report to Set must not change it afterwards.
type Report struct {
	// Findings are all findings.
	Findings []v1alpha1.Finding
	// Nodes and Certificates are the counts of the policy's status; nil when the policy could not be evaluated.
	Nodes        *v1alpha1.NodeCounts
	Certificates *v1alpha1.CertificateCounts
	// Conditions are those of the policy's status.
	Conditions []metav1.Condition
	// Evaluated is when this was found.
	Evaluated time.Time
	// Next is when the policy will have been evaluated again, at the latest; zero when that waits for something to change.
	Next time.Time
}

// Verdicts holds the latest Report of every policy. The controller fills it and the collector reads it at scrape time. It is
// safe for concurrent use.
type Verdicts struct {
	mu      sync.RWMutex
	reports map[string]Report
}

// NewVerdicts returns an empty store.
func NewVerdicts() *Verdicts {
	return &Verdicts{reports: map[string]Report{}}
}

// Set replaces the named policy's report.
func (v *Verdicts) Set(policyName string, report Report) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reports[policyName] = report
}

// Delete forgets the named policy, and with it all its series.
func (v *Verdicts) Delete(policyName string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.reports, policyName)
}

// namedReport is a Report and the name of its policy.
type namedReport struct {
	policy string
	Report
}

// all returns every report, by policy name.
func (v *Verdicts) all() []namedReport {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]namedReport, 0, len(v.reports))
	for _, name := range slices.Sorted(maps.Keys(v.reports)) {
		all = append(all, namedReport{policy: name, Report: v.reports[name]})
	}
	return all
}
