// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	toolscache "k8s.io/client-go/tools/cache"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
)

// sighting is a finding and the time at which it first stood in its policy's status.
type sighting struct {
	policy  string
	finding v1alpha1.Finding
	seen    time.Time
}

// recorder notes every finding of every policy, from when it is there to the end of the suite, so that nothing is missed
// while specs wait for something else.
type recorder struct {
	mu        sync.Mutex
	sightings []sighting
	current   map[string]map[string]bool // the findings in each policy's status
}

// startRecorder watches all policies until the suite ends.
func startRecorder() *recorder {
	GinkgoHelper()
	r := &recorder{current: map[string]map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	DeferCleanup(cancel)
	policies, err := cache.New(config, cache.Options{Scheme: controllers.NewScheme()})
	Expect(err).NotTo(HaveOccurred())
	informer, err := policies.GetInformer(ctx, &v1alpha1.CertificatePolicy{}, cache.BlockUntilSynced(false))
	Expect(err).NotTo(HaveOccurred())
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    r.note,
		UpdateFunc: func(_, object any) { r.note(object) },
	})
	Expect(err).NotTo(HaveOccurred())
	go func() {
		defer GinkgoRecover()
		Expect(policies.Start(ctx)).To(Succeed())
	}()
	Expect(policies.WaitForCacheSync(ctx)).To(BeTrue())
	return r
}

func (r *recorder) note(object any) {
	policy, ok := object.(*v1alpha1.CertificatePolicy)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, current := time.Now(), map[string]bool{}
	for _, finding := range policy.Status.Findings {
		key := finding.Reason + " " + string(finding.Certificate) + " " + string(finding.Subject.Kind) + " " + finding.Subject.Name
		current[key] = true
		if !r.current[policy.Name][key] {
			r.sightings = append(r.sightings, sighting{policy.Name, finding, now})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(current)) {
		if !r.current[policy.Name][key] {
			GinkgoWriter.Printf("%s %s: %s\n", now.Format(time.TimeOnly), policy.Name, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.current[policy.Name])) {
		if !current[key] {
			GinkgoWriter.Printf("%s %s: no more %s\n", now.Format(time.TimeOnly), policy.Name, key)
		}
	}
	r.current[policy.Name] = current
}

// of returns the sightings of a policy, in order.
func (r *recorder) of(policy string) []sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []sighting
	for _, s := range r.sightings {
		if s.policy == policy {
			found = append(found, s)
		}
	}
	return found
}
