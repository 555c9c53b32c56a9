// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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

// What the random worlds are made of: what a node should get, what it may or may not, and what it never should.
var (
	worldNames = []string{
		"node-1", "node-1.example.com", "node-1.example.org", "node-2", "node-1.badexample.com", "*.example.com",
		"kubernetes.default.svc",
	}
	worldAddresses = []string{"10.0.0.1", "10.0.0.7", "10.9.0.1", "127.0.0.1", "192.0.2.1", "2001:db8::1"}
	worldRanges    = []v1alpha1.IPRange{"10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0", "127.0.0.0/8"}
	worldSuffixes  = []v1alpha1.DNSSuffix{"example.com", "example.org", "svc"}
	worldKey       = pkitest.NewCA("key").Key
)

// world is a request that a random node files in a random cluster.
type world struct {
	names, addresses []string
	specs            []*v1alpha1.CertificatePolicySpec
	in               csr.DecisionInput
}

func randomWorld(r *rand.Rand) *world {
	w := &world{names: some(r, worldNames, 12), addresses: some(r, worldAddresses, 12)}
	w.in = csr.DecisionInput{Suspended: r.IntN(10) == 0, Now: at(2), Answers: map[string]csr.Answer{}}
	others := node("node-2", some(r, worldAddresses[1:], 20)...)
	w.in = withNodes(w.in, node("node-1", slices.Concat(some(r, worldNames, 2), some(r, worldAddresses, 2))...), others)
	for _, name := range worldNames {
		if r.IntN(4) > 0 {
			w.in.Answers[name] = csr.Answer{Addresses: parsed(some(r, worldAddresses, 1+r.IntN(8)))}
		}
	}
	for range 1 + r.IntN(2) {
		w.specs = append(w.specs, randomSpec(r))
	}
	for i := range r.IntN(3) {
		sibling := request(fmt.Sprintf("csr-%d", i), -r.IntN(200)).Approved(2 - r.IntN(100))
		if r.IntN(2) > 0 {
			sibling = sibling.Certificate(certificate)
		}
		w.in.Siblings = append(w.in.Siblings, sibling.Obj())
	}
	if r.IntN(3) == 0 {
		w.in.Certificates = []v1alpha1.CertificateStatus{{
			Purpose: v1alpha1.PurposeKubeletServing, Source: v1alpha1.SourceSigningRequest, NotAfter: metav1.NewTime(at(r.IntN(5))),
			DNSNames: some(r, worldNames, 2), IPAddresses: some(r, worldAddresses, 2),
		}}
	}
	return w
}

// some returns each text with a chance of one in so many, the first with a better one.
func some(r *rand.Rand, texts []string, in int) []string {
	var chosen []string
	for i, text := range texts {
		if r.IntN(in) == 0 || (i == 0 && r.IntN(4) > 0) {
			chosen = append(chosen, text)
		}
	}
	return chosen
}

func parsed(texts []string) []netip.Addr {
	var addresses []netip.Addr
	for _, text := range texts {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	return addresses
}

func randomSpec(r *rand.Rand) *v1alpha1.CertificatePolicySpec {
	return spec(func(s *v1alpha1.SigningRequestApprovalSpec) {
		s.AllowedIPRanges = append([]v1alpha1.IPRange{}, worldRanges[1-r.IntN(4)/3])
		for _, more := range worldRanges {
			if r.IntN(4) == 0 {
				s.AllowedIPRanges = append(s.AllowedIPRanges, more)
			}
		}
		for _, suffix := range worldSuffixes {
			if r.IntN(2) == 0 {
				s.AllowedDNSSuffixes = append(s.AllowedDNSSuffixes, suffix)
			}
		}
		if r.IntN(8) == 0 {
			s.Mode = v1alpha1.ApprovalObserve
		}
		if r.IntN(2) == 0 {
			s.OnViolation = v1alpha1.ViolationDeny
		}
		if r.IntN(3) == 0 {
			s.DNSResolution = v1alpha1.DNSResolutionRequired
		}
		if r.IntN(3) == 0 {
			s.MaximumDuration = &metav1.Duration{Duration: time.Duration(2+r.IntN(3)) * time.Hour}
		}
		s.MaximumDecisionsPerNode = 1 + int32(r.IntN(8))
	})
}

// stricter makes one policy of the world stricter in one thing, or adds one.
func (w *world) stricter(r *rand.Rand) {
	i := r.IntN(len(w.specs))
	w.specs[i] = w.specs[i].DeepCopy()
	s := w.specs[i].SigningRequestApproval
	switch r.IntN(7) {
	case 0:
		w.specs = append(w.specs, randomSpec(r))
	case 1:
		s.Mode = v1alpha1.ApprovalObserve
	case 2:
		s.DNSResolution = v1alpha1.DNSResolutionRequired
	case 3:
		s.MaximumDuration = &metav1.Duration{Duration: 10 * time.Minute}
	case 4:
		s.MaximumDecisionsPerNode = 1
	case 5:
		if s.Mode == v1alpha1.ApprovalApprove { // in mode Observe, none are no bound, and nothing is approved anyhow
			s.AllowedIPRanges = s.AllowedIPRanges[1:]
		}
	case 6:
		s.AllowedDNSSuffixes = s.AllowedDNSSuffixes[min(1, len(s.AllowedDNSSuffixes)):]
	}
}

// decide judges the request for those names under the world's policies.
func (w *world) decide(names, addresses []string, seconds int32) csr.Decision {
	in := w.in
	in.Rules = nil
	for i, s := range w.specs {
		in.Rules = append(in.Rules, csr.CompileRules(fmt.Sprint("policy-", i), s))
	}
	in.Request = request("csr-9", 0).Asking(names, addresses, pkitest.Key(worldKey)).Expiration(seconds).Obj()
	in.Siblings = append(slices.Clone(in.Siblings), in.Request)
	return csr.Decide(in)
}

// FuzzDecide makes random clusters and looks for an approval that a plain reading of the rules forbids, and for a change for
// the worse that makes one.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := randomWorld(r)
		seconds := int32(3600 * r.IntN(4))
		before := w.decide(w.names, w.addresses, seconds)
		checkMessage(t, before)
		w.checkDecision(t, before, seconds)

		r.Shuffle(len(w.in.Siblings), func(i, j int) {
			w.in.Siblings[i], w.in.Siblings[j] = w.in.Siblings[j], w.in.Siblings[i]
		})
		slices.Reverse(w.names)
		slices.Reverse(w.addresses)
		if diff := cmp.Diff(before, w.decide(w.names, w.addresses, seconds)); diff != "" {
			t.Errorf("the order matters (-before +after):\n%s", diff)
		}
		if before.Verdict == csr.Approve {
			return
		}
		more := [][]string{{worldNames[r.IntN(len(worldNames))]}, {worldAddresses[r.IntN(len(worldAddresses))]}}
		asked := slices.Concat(w.names, w.addresses)
		// A request for nothing at all breaks the signer's rules, and one more name may mend that; a name among others never.
		if len(asked) > 0 && !w.resolved() {
			if got := w.decide(slices.Concat(w.names, more[0]), slices.Concat(w.addresses, more[1]), seconds); got.Verdict == csr.Approve {
				t.Errorf("not approved for %v, and approved with %v: before %+v", asked, more, before)
			}
		}
		w.stricter(r)
		if got := w.decide(w.names, w.addresses, seconds); got.Verdict == csr.Approve {
			t.Errorf("approved after a policy became stricter; before: %+v", before)
		}
	})
}

// resolved says that a policy requires resolution: there, an address can be vouched for by a name that is added.
func (w *world) resolved() bool {
	return slices.ContainsFunc(w.specs, func(s *v1alpha1.CertificatePolicySpec) bool {
		return s.SigningRequestApproval.DNSResolution == v1alpha1.DNSResolutionRequired
	})
}

// checkDecision compares a decision with the rules as the API states them.
func (w *world) checkDecision(t *testing.T, got csr.Decision, seconds int32) {
	t.Helper()
	var denies, observes bool
	for _, s := range w.specs {
		observes = observes || s.SigningRequestApproval.Mode == v1alpha1.ApprovalObserve
		denies = denies || s.SigningRequestApproval.OnViolation == v1alpha1.ViolationDeny
	}
	silent := !got.Violated && len(got.By)+len(got.Overruled)+len(got.Resolve) == 0
	for what, wrong := range map[string]bool{
		"denied, and no policy wants that": got.Verdict == csr.Deny && !denies,
		"denied without a violation":       got.Verdict == csr.Deny && !got.Violated,
		"approved with a violation":        got.Verdict == csr.Approve && !silent,
		"left without a word":              got.Verdict == csr.NoOpinion && silent,
		"decided, and a policy observes":   decided(got) && observes,
		"decided while suspended":          decided(got) && w.in.Suspended,
	} {
		if wrong {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got.Verdict == csr.Approve {
		for _, forbidden := range w.forbidden(seconds) {
			t.Errorf("approved, although %s", forbidden)
		}
	}
}

func decided(d csr.Decision) bool { return d.Verdict == csr.Approve || d.Verdict == csr.Deny }

// forbidden is why a request must not be approved, as far as the Node and the policies are concerned.
func (w *world) forbidden(seconds int32) []string {
	var found []string
	own := csr.NodeAddresses(w.in.Node)
	for _, address := range slices.Concat(w.names, w.addresses, w.answered()) {
		if !slices.Contains(own, address) {
			found = append(found, address+" is not the Node's")
		}
		held := slices.ContainsFunc(w.in.Certificates, func(c v1alpha1.CertificateStatus) bool {
			return c.NotAfter.After(w.in.Now) && slices.Contains(slices.Concat(c.DNSNames, c.IPAddresses), address)
		})
		if address != "node-1" && !held && len(w.in.Owners(address)) > 1 {
			found = append(found, address+" is another Node's, too")
		}
	}
	for _, s := range w.specs {
		found = append(found, w.forbiddenBy(s.SigningRequestApproval, seconds)...)
	}
	return found
}

// answered are the addresses that the names in the request resolve to, if a policy wants to know.
func (w *world) answered() []string {
	var addresses []string
	for _, name := range w.names {
		for _, address := range w.in.Answers[name].Addresses {
			if w.resolved() {
				addresses = append(addresses, address.String())
			}
		}
	}
	return addresses
}

func (w *world) forbiddenBy(s *v1alpha1.SigningRequestApprovalSpec, seconds int32) []string {
	var found []string
	if limit := s.MaximumDuration; limit != nil && time.Duration(seconds)*time.Second > limit.Duration {
		found = append(found, "it is for too long")
	}
	for _, address := range slices.Concat(w.addresses, w.answered()) {
		loopback := address == "127.0.0.1"
		if !slices.ContainsFunc(s.AllowedIPRanges, func(text v1alpha1.IPRange) bool {
			return netip.MustParsePrefix(string(text)).Contains(netip.MustParseAddr(address)) && loopback == (text == "127.0.0.0/8")
		}) {
			found = append(found, address+" is not allowed")
		}
	}
	for _, name := range w.names {
		if name != "node-1" && !slices.ContainsFunc(s.AllowedDNSSuffixes, func(suffix v1alpha1.DNSSuffix) bool {
			return strings.HasSuffix(name, "."+string(suffix))
		}) {
			found = append(found, name+" is not allowed")
		}
		if strings.Contains(name, "*") || strings.HasSuffix(name, ".svc") {
			found = append(found, name+" is never allowed")
		}
		if s.DNSResolution == v1alpha1.DNSResolutionRequired && len(w.in.Answers[name].Addresses) == 0 {
			found = append(found, name+" does not resolve")
		}
	}
	if w.decisions() >= int(s.MaximumDecisionsPerNode) {
		found = append(found, "enough was decided")
	}
	return found
}

// decisions counts those on the node's requests in the last hour.
func (w *world) decisions() int {
	decisions := 0
	for _, sibling := range w.in.Siblings {
		if csr.Decided(sibling).After(w.in.Now.Add(-time.Hour)) {
			decisions++
		}
	}
	return decisions
}

// The random worlds are of use only if they lead everywhere.
func TestRandomWorldsReachEveryVerdict(t *testing.T) {
	seen := map[csr.Verdict]int{}
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := randomWorld(r)
		seen[w.decide(w.names, w.addresses, int32(3600*r.IntN(4))).Verdict]++
	}
	for _, verdict := range []csr.Verdict{csr.Approve, csr.Deny, csr.NoOpinion, csr.Wait, csr.Resolve} {
		if seen[verdict] < 20 {
			t.Errorf("%s only %d times in 2000 worlds: %v", verdict, seen[verdict], seen)
		}
	}
}

// FuzzDecideRequest looks for a request that makes the decision panic, approve what does not name the node, or say more than
// fits.
func FuzzDecideRequest(f *testing.F) {
	f.Add(der(servingRequest), nodeUser, "system:nodes", "server auth")
	f.Add(der(pkitest.Request(pkitest.Node("node-1"), pkitest.DNSNames("node-1"))), nodeUser, "system:nodes", "server auth")
	f.Add(der(request("csr", 0).Asking(own, ownIP, longExtension()).Spec.Request), nodeUser, "", "any")
	f.Fuzz(func(t *testing.T, content []byte, user, group, usage string) {
		b := request("csr-1", 0).PEM(block("CERTIFICATE REQUEST", content)).User(user).Groups(group)
		b.Spec.Usages[1] = certificatesv1.KeyUsage(usage)
		got := csr.Decide(decisionInput(b.Obj()))
		checkMessage(t, got)
		if got.Verdict != csr.Approve {
			return
		}
		parsed, err := csr.Parse(b.Spec.Request)
		if err != nil {
			t.Fatalf("approved, although %v", err)
		}
		if user != nodeUser || parsed.Subject.CommonName != nodeUser || group != "system:nodes" || csr.Malformed(b.Obj()) != "" {
			t.Errorf("approved for %q as %q in %q", parsed.Subject.CommonName, user, group)
		}
	})
}
