// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/observe/kubelet"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// askEvery is how many probe intervals pass between two questions to a kubelet about itself. Its settings change when
	// it is started anew, and what it is asked for is a hundred times what a handshake costs.
	askEvery = 3
	// sameExpiry is how far two expiries of one certificate may be apart, of which one is worked out from the time it has
	// left: whole seconds, and the time that the answer took.
	sameExpiry = 10 * time.Second
	// maxFileName is the length that the API allows a file name, and maxPermission that of a permission.
	maxFileName   = 256
	maxPermission = 253
	// backdated is how long before it is issued a certificate's life begins, so that clocks may differ
	// (pkg/controller/certificates/signer in Kubernetes).
	backdated = 5 * time.Minute
)

// switchedOff is the message about kubelets that nobody may ask.
const switchedOff = "notafter runs with an empty --kubelet-reader-service-account, and so has no account to ask kubelets with: " +
	"name one that may get nodes/metrics and nodes/configz"

// answers is what asking a kubelet about itself came to.
type answers struct {
	// outcome is empty when no policy wants to know.
	outcome v1alpha1.KubeletOutcome
	message string
	// missing are the permissions for want of which the outcome is AccessDenied.
	missing []string
	// address is where the kubelet was asked. It is not valid when the outcome was settled without asking.
	address netip.AddrPort
	// forget says that nobody will ask from now on, so that earlier answers would be taken for what is true today.
	forget bool
	// config is nil when it was not read.
	config *kubelet.Config
	// measured says that the metrics were read. What they don't say is nil, or zero.
	measured bool
	// shown are the settings that the metrics show.
	shown                       kubelet.Config
	expires                     time.Time // of the client certificate
	clientErrors, servingErrors *int64
	// at is when the metrics were read, and before when they were read the time before; zero when they were not since this
	// process started.
	at, before time.Time
}

// settled are answers without asking.
func settled(outcome v1alpha1.KubeletOutcome, message string) *answers {
	return &answers{outcome: outcome, message: text.Field(message, maxMessage)}
}

// asked says that the kubelet was asked, at this address.
func (a *answers) asked(address netip.AddrPort) bool {
	return a != nil && a.address.IsValid() && a.address == address
}

// sameFacts says whether both lead to the same status.
func (a *answers) sameFacts(other *answers) bool {
	if a == nil || other == nil {
		return a == other
	}
	return a.outcome == other.outcome && a.message == other.message && a.measured == other.measured &&
		slices.Equal(a.missing, other.missing) && a.shown == other.shown && a.expires.Equal(other.expires) &&
		equality.Semantic.DeepEqual(a.config, other.config) &&
		equality.Semantic.DeepEqual(a.clientErrors, other.clientErrors) &&
		equality.Semantic.DeepEqual(a.servingErrors, other.servingErrors)
}

// newAnswers makes answers of what a kubelet said. An expiry that is worked out anew each time stays what it was while it
// can be the same certificate's.
func newAnswers(result kubelet.Result, address netip.AddrPort, previous *answers) *answers {
	a := &answers{
		outcome: result.Outcome, message: text.Field(result.Message, maxMessage), address: address, config: result.Config,
	}
	for _, permission := range result.Missing {
		a.missing = append(a.missing, text.Field(permission, maxPermission))
	}
	if previous != nil {
		a.at = previous.at
	}
	if result.Metrics == nil {
		return a
	}
	a.measured, a.before, a.at = true, a.at, result.At
	a.shown = kubelet.Config{
		RotateCertificates: result.Metrics.RotateCertificates, ServerTLSBootstrap: result.Metrics.ServerTLSBootstrap,
	}
	a.clientErrors, a.servingErrors = result.Metrics.ClientErrors, result.Metrics.ServingErrors
	if left := result.Metrics.ClientRemaining; left != nil {
		a.expires = boundedTime(result.At.Add(*left)).Time
		if previous != nil && near(a.expires, previous.expires) {
			a.expires = previous.expires
		}
	}
	return a
}

// near says that both can be when the same certificate expires.
func near(a, b time.Time) bool {
	return a.Sub(b).Abs() <= sameExpiry
}

// question is a node that may be asked about itself, and what is known of it.
type question struct {
	node    *corev1.Node
	wanted  demand
	known   *v1alpha1.NodeCertificates
	address netip.AddrPort
	trust   *pki.TrustBundle
}

// settle gives the record the answers that need no asking: that nobody wants to know, that there is no account to ask with,
// or that the kubelet's certificate is not one that the token may be sent to. It says whether the kubelet is to be asked.
func (p *prober) settle(q question, of *record) bool {
	switch serving := &of.evidence.serving; {
	case !q.wanted.kubelet:
		of.answers = &answers{}
	case p.ask == nil:
		of.answers = settled(v1alpha1.KubeletNotAsked, switchedOff)
		of.answers.forget = true
	case serving.Outcome != v1alpha1.ProbeCertificatePresented && serving.Outcome != v1alpha1.ProbeNoCertificate:
		of.answers = settled(v1alpha1.KubeletFailed, "the TLS handshake failed, see status.serving")
	case serving.Mode != v1alpha1.ServingModeClusterSigned || serving.NameMatch != v1alpha1.NameMatches ||
		!validAt(of.evidence.certificate, p.clock.Now()):
		of.answers = settled(v1alpha1.KubeletUnverified, "its serving certificate does not verify against the Cluster CA for "+
			"its address, see status.serving, and the token is sent over verified connections only")
	default:
		return true
	}
	return false
}

// validAt says that the certificate, if there is one, is valid.
func validAt(certificate *v1alpha1.CertificateStatus, now time.Time) bool {
	return certificate == nil || !now.Before(certificate.NotBefore.Time) && !now.After(certificate.NotAfter.Time)
}

// plan is when a kubelet that is to be asked is due.
func (q question) plan(of record) schedule {
	plan := schedule{
		history:  of.asked,
		demand:   q.wanted,
		served:   q.clientInUse(of.answers),
		outdated: !of.answers.asked(q.address),
	}
	if of.asked.failures == 0 {
		plan.demand.interval *= askEvery
	}
	return plan
}

// awaited is the fingerprint of the newest issued client certificate, if the kubelet was last heard to use an older one.
func (q question) awaited(inUse *v1alpha1.CertificateStatus, now time.Time) string {
	issued := issuedClient(&q.known.Status)
	if inUse == nil || issued == nil || near(issued.NotAfter.Time, inUse.NotAfter.Time) ||
		!issued.NotAfter.After(inUse.NotAfter.Time) || !issued.NotAfter.After(now) {
		return ""
	}
	return issued.SHA256
}

// clientInUse is the client certificate that the kubelet uses: the issued one that expires when it says, or else the mere
// expiry. Nil when it does not say.
func (q question) clientInUse(latest *answers) *v1alpha1.CertificateStatus {
	var expires time.Time
	switch before := q.known.Status.Kubelet; {
	case latest != nil && latest.measured:
		expires = latest.expires
	case before != nil && before.ClientExpires != nil:
		expires = before.ClientExpires.Time
	}
	if expires.IsZero() {
		return nil
	}
	if issued := issuedClient(&q.known.Status); issued != nil && near(issued.NotAfter.Time, expires) {
		return issued
	}
	return &v1alpha1.CertificateStatus{Purpose: v1alpha1.PurposeKubeletClient, NotAfter: metav1.NewTime(expires)}
}

func issuedClient(status *v1alpha1.NodeCertificatesStatus) *v1alpha1.CertificateStatus {
	return certificate(status.Certificates, v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest)
}

// askWhenDue asks a kubelet about itself, if it is due. Handshakes go before: next is the result that brings the node back
// for its next one.
func (p *prober) askWhenDue(ctx context.Context, q question, current record, next reconcile.Result) (reconcile.Result, error) {
	latest := current
	if !p.settle(q, &latest) {
		p.remember(q.node, current, latest)
		return next, nil
	}
	plan := q.plan(current)
	plan.awaited = q.awaited(plan.served, p.clock.Now())
	if plan.next().After(p.clock.Now()) {
		return p.sooner(next, q, current), nil
	}
	target := kubelet.Target{Address: q.address, Trust: q.trust}
	result, done := attempt(ctx, p.places, q.wanted.timeout, &latest.asked, func(timeout time.Duration) (kubelet.Result, bool) {
		result := p.ask(ctx, target, timeout)
		return result, result.TimedOut
	})
	if ctx.Err() != nil {
		return cutShort(ctx, fmt.Sprintf("asking the kubelet of node %s about itself", q.node.Name))
	}
	if !done {
		p.records.put(q.node.Name, latest)
		return p.suspectsTurn(q.wanted.timeout), nil
	}
	now := p.clock.Now()
	p.metrics.reads.WithLabelValues(string(result.Outcome)).Inc()
	latest.answers = newAnswers(result, q.address, current.answers)
	failed := result.Outcome != v1alpha1.KubeletRead
	awaited := q.awaited(q.clientInUse(latest.answers), now)
	latest.asked = current.asked.after(failed, result.TimedOut, awaited, now, 2*p.random()-1)
	p.remember(q.node, current, latest)
	return p.sooner(next, q, latest), nil
}

// sooner brings the node back before its next handshake if its kubelet is to be asked before that. That comes after every
// node's handshake that is due.
func (p *prober) sooner(next reconcile.Result, q question, of record) reconcile.Result {
	if !p.settle(q, &of) {
		return next
	}
	now := p.clock.Now()
	plan := q.plan(of)
	plan.awaited = q.awaited(plan.served, now)
	if wait := max(plan.next().Sub(now), enqueue.NoDelay); wait < next.RequeueAfter {
		priority := 2 * handler.LowPriority
		return reconcile.Result{RequeueAfter: wait, Priority: &priority}
	}
	return next
}

// kubelet is what the kubelet says of itself. What could not be read stays as it was.
func (f facts) kubelet(certificates []v1alpha1.CertificateStatus) *v1alpha1.KubeletStatus {
	previous := f.previous.Kubelet
	switch {
	case f.answers == nil:
		return previous.DeepCopy()
	case f.answers.outcome == "":
		return nil // nobody wants to know
	}
	status := &v1alpha1.KubeletStatus{}
	if previous != nil && !f.answers.forget {
		status = previous.DeepCopy()
	}
	status.Outcome, status.Message, status.Since = f.answers.outcome, f.answers.message, seconds(f.now)
	status.MissingPermissions = slices.Clone(f.answers.missing)
	if previous != nil && previous.Outcome == status.Outcome {
		status.Since = previous.Since
	}
	switch config := f.answers.config; {
	case config != nil:
		status.ClientRotation = setting(config.RotateCertificates)
		status.ServingBootstrap = setting(config.ServerTLSBootstrap)
		status.TLSCertFile = text.Field(config.TLSCertFile, maxFileName)
	case f.answers.measured:
		// Kubelets before 1.33 show their configuration to those only who may do anything with nodes/proxy.
		status.ClientRotation = setting(f.answers.shown.RotateCertificates)
		status.ServingBootstrap = setting(f.answers.shown.ServerTLSBootstrap)
	}
	if f.answers.measured {
		f.measure(status, certificate(certificates, v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake))
	}
	return status
}

func setting(on bool) v1alpha1.KubeletSetting {
	if on {
		return v1alpha1.KubeletSettingEnabled
	}
	return v1alpha1.KubeletSettingDisabled
}

// measure puts what the metrics said into the status. A rise that may have been before the certificate was renewed is none.
func (f facts) measure(status *v1alpha1.KubeletStatus, served *v1alpha1.CertificateStatus) {
	a := f.answers
	before := status.ClientExpires
	renewed := false
	switch {
	case a.expires.IsZero():
		status.ClientExpires = nil
	case before == nil || !near(before.Time, a.expires):
		status.ClientExpires, renewed = new(seconds(a.expires)), true
	}
	status.ClientRenewal = renewal(status.ClientRenewal, a.clientErrors, a.at, !renewed)
	if renewed && status.ClientRenewal != nil {
		status.ClientRenewal.Rose = nil
	}
	settledIn := served != nil && !a.before.IsZero() && served.NotBefore.Add(backdated).Before(a.before)
	status.ServingRenewal = renewal(status.ServingRenewal, a.servingErrors, a.at, settledIn)
}

// renewal follows a count of failures. A kubelet that was started anew counts from zero again. Nil when there is no count.
func renewal(previous *v1alpha1.RenewalStatus, count *int64, at time.Time, mayRise bool) *v1alpha1.RenewalStatus {
	if count == nil {
		return nil
	}
	result := &v1alpha1.RenewalStatus{Errors: new(*count)}
	if previous == nil || previous.Errors == nil {
		return result
	}
	result.Rose = previous.Rose
	rose := *count > *previous.Errors || *count > 0 && *count < *previous.Errors
	if rose && mayRise {
		result.Rose = new(seconds(at))
	}
	return result
}
