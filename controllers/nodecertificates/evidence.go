// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/text"
)

// evidence is what the latest probe of a node showed, judged against the trust bundle of that moment.
type evidence struct {
	// serving is what the handshake showed. Its since is not set: evidence has no memory.
	serving v1alpha1.ServingStatus
	// certificate is the presented certificate; nil when none was.
	certificate *v1alpha1.CertificateStatus
	// trust is the fingerprint of the trust bundle judged against; empty when there was none.
	trust string
	// unwanted says that no policy selects the node, so that nobody looks: what was seen before is not kept for who may want it.
	unwanted bool
}

// sameFacts says whether two pieces of evidence lead to the same status.
func (e *evidence) sameFacts(other *evidence) bool {
	if e == nil || other == nil {
		return e == other
	}
	return e.unwanted == other.unwanted && equality.Semantic.DeepEqual(e.serving, other.serving) &&
		equality.Semantic.DeepEqual(e.certificate, other.certificate)
}

// trusted is the trust bundle, or why there is none.
type trusted struct {
	bundle *pki.TrustBundle
	err    error
}

func (t trusted) fingerprint() string {
	if t.bundle == nil {
		return ""
	}
	return t.bundle.Fingerprint()
}

// newEvidence judges the result of a probe of the address.
func newEvidence(result tlsprobe.Result, address netip.AddrPort, trust trusted, now time.Time) *evidence {
	found := &evidence{
		serving: v1alpha1.ServingStatus{
			Mode:    v1alpha1.ServingModeUnknown,
			Outcome: result.Outcome,
			Address: address.String(),
			Message: text.Field(result.Message, maxMessage),
		},
		trust: trust.fingerprint(),
	}
	switch {
	case result.Outcome == v1alpha1.ProbeNoCertificate:
		found.serving.Mode = v1alpha1.ServingModeNone
	case result.Outcome == v1alpha1.ProbeCertificatePresented && len(result.Chain) > 0:
		leaf := result.Chain[0]
		found.serving.NameMatch = v1alpha1.NameMismatches
		if pki.CoversAddress(leaf, address.Addr()) {
			found.serving.NameMatch = v1alpha1.NameMatches
		}
		mode, message := servingMode(result.Chain, trust, now)
		found.serving.Mode, found.serving.Message = mode, text.Field(message, maxMessage)
		status := certificateStatus(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, leaf)
		found.certificate = &status
	}
	return found
}

// noAddress is the evidence about a node that cannot be connected to.
func noAddress(why error) *evidence {
	return &evidence{serving: v1alpha1.ServingStatus{
		Mode:    v1alpha1.ServingModeUnknown,
		Outcome: v1alpha1.ProbeNoAddress,
		Message: text.Field(why.Error(), maxMessage),
	}}
}

// servingMode says where a certificate comes from and, where that is not the whole answer, why it did not verify.
func servingMode(chain []*x509.Certificate, trust trusted, now time.Time) (v1alpha1.ServingMode, string) {
	if trust.bundle == nil {
		if trust.err == nil {
			return v1alpha1.ServingModeUnknown, "trust bundle: none"
		}
		return v1alpha1.ServingModeUnknown, trust.err.Error()
	}
	// The error of a chain that does not verify has no moving time in it and is bounded.
	err := trust.bundle.VerifyServing(chain, now)
	switch {
	case err == nil:
		return v1alpha1.ServingModeClusterSigned, ""
	case errors.Is(err, pki.ErrCAExpired):
		// Whose certificate it is cannot be told by a CA that is not valid.
		return v1alpha1.ServingModeUnknown, err.Error()
	case pki.SelfSigned(chain):
		return v1alpha1.ServingModeSelfSigned, ""
	default:
		return v1alpha1.ServingModeExternallyManaged, err.Error()
	}
}

// record is everything that is remembered, in memory only, of one node.
type record struct {
	uid     types.UID
	history history
	// evidence is nil until the node was first probed.
	evidence *evidence
	// asked is the history of asking the kubelet about itself.
	asked history
	// answers is nil until the kubelet was first asked, or it was settled that it is not.
	answers *answers
	// due is when the next handshake is; zero when none is planned.
	due time.Time
}

// records are those of all nodes, by name. The prober writes them, one worker at a time per node; both controllers read them.
type records struct {
	mu     sync.RWMutex
	byName map[string]record
}

func newRecords() *records {
	return &records{byName: map[string]record{}}
}

// get returns the record of the Node with this name and uid, and whether there is one. A Node that was deleted and added again
// under its old name is another Node.
func (r *records) get(name string, uid types.UID) (record, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found, ok := r.byName[name]
	if !ok || found.uid != uid {
		return record{uid: uid}, false
	}
	return found, true
}

func (r *records) put(name string, found record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName[name] = found
}

// plan notes when the node is due for a handshake; zero: not at all.
func (r *records) plan(name string, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found, ok := r.byName[name]; ok {
		found.due = due
		r.byName[name] = found
	}
}

// firstDue is when the node that is due first is due; zero when none is.
func (r *records) firstDue() time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var first time.Time
	for _, found := range r.byName {
		if !found.due.IsZero() && (first.IsZero() || found.due.Before(first)) {
			first = found.due
		}
	}
	return first
}

func (r *records) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byName, name)
}
