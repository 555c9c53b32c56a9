// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package signingrequest

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// rules reads the policies, each generation of each once.
type rules struct {
	policies client.Reader

	mu   sync.Mutex
	last *ruleSet
}

// ruleSet is what all policies say of approval. It does not change.
type ruleSet struct {
	// version is another one for each set that differs from the one before.
	version int
	of      []policyRules
}

// policyRules is what one generation of one policy says.
type policyRules struct {
	name       string
	uid        types.UID
	generation int64
	// since is the version of the first set in which the policy says this.
	since int
	// selector is everything if it cannot be read: any node may be meant, and none has anything approved by such a policy. The
	// policy's own controller reports it.
	selector labels.Selector
	// rules is nil if the policy has no say about approval.
	rules *csr.Rules
}

// current is what the policies say now.
func (r *rules) current(ctx context.Context) (*ruleSet, error) {
	var list v1alpha1.CertificatePolicyList
	if err := r.policies.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing CertificatePolicies: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.CertificatePolicy) int {
		return cmp.Compare(a.Name, b.Name)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.reads(list.Items) {
		return r.last, nil
	}
	next := &ruleSet{version: 1, of: make([]policyRules, len(list.Items))}
	if r.last != nil {
		next.version = r.last.version + 1
	}
	for i := range list.Items {
		next.of[i] = compile(&list.Items[i])
		next.of[i].since = cmp.Or(r.last.since(&next.of[i]), next.version)
	}
	r.last = next
	return next, nil
}

func compile(p *v1alpha1.CertificatePolicy) policyRules {
	compiled := policyRules{name: p.Name, uid: p.UID, generation: p.Generation, rules: csr.CompileRules(p.Name, &p.Spec)}
	var err error
	if compiled.selector, err = p.Spec.Nodes.Selector.AsSelector(); err != nil {
		compiled.selector, compiled.rules = labels.Everything(), compiled.rules.Unreadable(err.Error())
	}
	return compiled
}

// since is the version since which a policy has said what it says now; zero if it has not in this set.
func (s *ruleSet) since(now *policyRules) int {
	if s == nil {
		return 0
	}
	for i := range s.of {
		before := &s.of[i]
		if before.uid == now.uid && before.selector.String() == now.selector.String() &&
			reflect.DeepEqual(before.rules, now.rules) {
			return before.since
		}
	}
	return 0
}

// reads says whether the set is that of these policies.
func (s *ruleSet) reads(policies []v1alpha1.CertificatePolicy) bool {
	return s != nil && slices.EqualFunc(s.of, policies, func(known policyRules, p v1alpha1.CertificatePolicy) bool {
		return known.uid == p.UID && known.generation == p.Generation
	})
}

// all are the rules of every policy that has a say.
func (s *ruleSet) all() []*csr.Rules { return s.matching(nil) }

// matching are the rules of the policies that have a say and select the Node. Of a Node that is not there nobody knows the
// labels: any of them may.
func (s *ruleSet) matching(node *corev1.Node) []*csr.Rules {
	var found []*csr.Rules
	for i := range s.of {
		p := &s.of[i]
		if p.rules != nil && (node == nil || p.selector.Matches(labels.Set(node.Labels))) {
			found = append(found, p.rules)
		}
	}
	return found
}

// approves says whether any policy wants requests approved.
func (s *ruleSet) approves() bool {
	return slices.ContainsFunc(s.all(), (*csr.Rules).Approves)
}
