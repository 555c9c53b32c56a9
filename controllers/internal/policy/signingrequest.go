// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// checkSigningRequests judges how far the node's signing requests have come: those for client certificates always, those
// for serving certificates where rotation is required.
func checkSigningRequests(e *evaluation, f *facts) {
	q := request{subject: f.subject(), node: f.node.Name}
	if f.clientRequest != nil {
		q.SigningRequestStatus, q.issued = f.clientRequest, e.clientIssued(f)
		e.judgeRequest(&q)
	}
	if f.servingRequest != nil && e.rules.rotation == v1alpha1.ServingRotationRequired {
		q.SigningRequestStatus, q.issued = f.servingRequest, f.servingIssued()
		e.judgeRequest(&q)
	}
}

// servingIssued is when the serving certificate in use was issued; zero if none of the signer's is.
func (f *facts) servingIssued() time.Time {
	if !f.presented() || f.serving.Mode != v1alpha1.ServingModeClusterSigned || f.served == nil {
		return time.Time{}
	}
	return f.served.NotBefore.Add(backdated)
}

// clientIssued is when the client certificate in use was issued, at the earliest; zero if nothing tells. One that expires after
// the newest known one was issued unseen: that was no longer ago than client certificates live.
func (e *evaluation) clientIssued(f *facts) time.Time {
	if f.client == nil || f.self == nil || f.self.ClientExpires == nil {
		return time.Time{}
	}
	expires := f.self.ClientExpires.Time
	switch apart := expires.Sub(f.client.NotAfter.Time); {
	case apart.Abs() <= sameExpiry:
		return f.client.NotBefore.Add(backdated)
	case apart > 0:
		return expires.Add(backdated - e.learntLifetimes().longest)
	}
	return time.Time{}
}

// judgeOrphans judges the signing requests that belong to no Node, by the same rules, each by itself.
func (e *evaluation) judgeOrphans(requests []Request) {
	for i := range requests {
		r := &requests[i]
		if r.SignerName == certificatesv1.KubeletServingSignerName &&
			e.rules.rotation != v1alpha1.ServingRotationRequired {
			continue
		}
		status := r.status()
		first := len(e.found)
		// Kubernetes does not limit the length of a request's name; a status that named it whole could not be written.
		subject := v1alpha1.Subject{Kind: v1alpha1.SubjectSigningRequest, Name: text.Phrase(r.Name, maxSubject)}
		e.judgeRequest(&request{SigningRequestStatus: &status, subject: subject, node: r.NodeName})
		e.tally.addOther(requestGroup, e.found[first:])
	}
}

// status is the request in the form in which a node's requests are known.
func (r *Request) status() v1alpha1.SigningRequestStatus {
	status := v1alpha1.SigningRequestStatus{
		SignerName: r.SignerName, Name: r.Name, Stage: r.Stage, Malformed: r.Malformed,
		Created: metav1.NewTime(r.Created),
	}
	switch r.Stage {
	case v1alpha1.StagePending:
		status.Pending, status.PendingSince = 1, &status.Created
	case v1alpha1.StageApproved:
		if !r.Decided.IsZero() {
			status.Decided = &metav1.Time{Time: r.Decided}
			status.ApprovedSince = status.Decided
		}
	case v1alpha1.StageDenied, v1alpha1.StageFailed:
		status.Refusal = &v1alpha1.SigningRefusal{
			Name: r.Name, Stage: r.Stage, Message: r.Refusal, Time: metav1.NewTime(r.Decided),
		}
	case v1alpha1.StageIssued, v1alpha1.StageDeleted:
	}
	return status
}

// orphanSeverity is the severity of a finding about a request that belongs to no Node, chosen by who should be woken up.
// A client request is of a machine that wants to join: while its request is stuck it cannot, no Node shows it, and
// autoscaling stands still, so it violates the policy. Two things only inform: a denied one, because somebody refused a
// stranger on purpose; and a serving request, because a kubelet files it after its Node exists, so that its Node is gone.
func orphanSeverity(reason, signerName string) v1alpha1.Severity {
	if reason == v1alpha1.ReasonSigningRequestDenied || signerName == certificatesv1.KubeletServingSignerName {
		return v1alpha1.SeverityInfo
	}
	return v1alpha1.SeverityViolation
}

// judgeRequest judges the requests of one owner to one signer. The status names the newest.
func (e *evaluation) judgeRequest(q *request) {
	e.judgePending(q)
	e.judgeRefusal(q)
	e.judgeApproved(q)
	e.judgeMalformed(q)
}

func (e *evaluation) judgeMalformed(q *request) {
	if q.Malformed == "" || q.Stage != v1alpha1.StagePending && (q.Stage != v1alpha1.StageFailed || q.over(q.decided())) {
		return
	}
	e.addRequest(q, v1alpha1.ReasonSigningRequestMalformed, &q.Created, fmt.Sprintf(
		"%s cannot be signed as it is: %s. %s Check the kubelet's version and configuration, and delete the request if "+
			"a stranger filed it.", q.title(q.Name), text.Phrase(q.Malformed, maxPhrase), q.effect()))
}

// request is a signing request's state together with who asks.
type request struct {
	*v1alpha1.SigningRequestStatus
	subject v1alpha1.Subject
	// node is who asks, if known.
	node string
	// issued is when the certificate in use was issued, at the earliest; zero when that is not known.
	issued time.Time
}

// decided is when the newest request was decided on; when it was created, if nothing says when.
func (q *request) decided() time.Time {
	if q.Decided == nil {
		return q.Created.Time
	}
	return q.Decided.Time
}

// over says that what happened to a request then is over: the owner uses a certificate that was issued since, which notafter
// did not see, as it does not while it is down. Kubernetes deletes a request an hour after it was issued.
func (q *request) over(then time.Time) bool { return then.Before(q.issued) }

// judgePending reports requests that nobody decides on, once the oldest has waited for too long. That there is more than one then
// means that the kubelet gave up waiting for the first.
func (e *evaluation) judgePending(q *request) {
	if q.Pending == 0 || q.PendingSince == nil || !e.reached(q.PendingSince.Add(e.rules.pendingTimeout)) {
		return
	}
	e.addRequest(q, v1alpha1.ReasonSigningRequestPending, q.PendingSince, q.waiting())
	if q.Pending >= 2 {
		e.addRequest(q, v1alpha1.ReasonSigningRequestsLooping, q.PendingSince, fmt.Sprintf(
			"%d CertificateSigningRequests to %s wait for a decision, the oldest since %s: the kubelet gives up on one after "+
				"15 minutes and files the next. %s %s", q.Pending, text.Phrase(q.SignerName, maxWord),
			instant(q.PendingSince.Time), q.effect(), q.approver()))
	}
}

// waiting is the message about requests that wait for too long. It names the newest, the one that the kubelet waits for.
func (q *request) waiting() string {
	which := q.title(q.Name)
	if q.Pending > 1 || q.Stage != v1alpha1.StagePending {
		which = "The oldest undecided CertificateSigningRequest to " + text.Phrase(q.SignerName, maxWord)
	}
	message := fmt.Sprintf("%s has been waiting for a decision since %s. %s %s", which, instant(q.PendingSince.Time),
		q.effect(), q.approver())
	switch command, odd := approveByHand(q.Name); {
	case q.Stage != v1alpha1.StagePending:
	case odd != "":
		message += " " + odd
	default:
		message += fmt.Sprintf(" To approve the newest by hand, check who asks and run %s.", command)
	}
	return message
}

// requestName is what a request is called in a message. Who files it chooses its name, which may hold anything but a slash and a
// percent sign. Kubelets choose what needs no quotes.
func requestName(name string) string {
	if isPlainName(name) {
		return name
	}
	return strconv.Quote(text.Phrase(name, maxWord))
}

// isPlainName says that a request's name is nothing but a name, to whoever reads it and to a shell.
func isPlainName(name string) bool {
	return len(name) <= maxName && len(validation.IsDNS1123Subdomain(name)) == 0
}

// approveByHand is the command that approves a request. People copy it into a shell, so that of a request with a name that may be
// a command itself there is none, but what is odd about it.
func approveByHand(name string) (command, odd string) {
	if !isPlainName(name) {
		return "", "Kubelets give their requests no such names: see who filed it before anybody approves it."
	}
	return "kubectl certificate approve " + name, ""
}

// judgeRefusal reports a denied or failed request with none issued since, as far as anybody can tell.
func (e *evaluation) judgeRefusal(q *request) {
	refusal := q.Refusal
	if refusal == nil && (q.Stage == v1alpha1.StageDenied || q.Stage == v1alpha1.StageFailed) {
		refusal = &v1alpha1.SigningRefusal{Name: q.Name, Stage: q.Stage, Time: metav1.NewTime(q.decided())}
	}
	if refusal == nil || q.over(refusal.Time.Time) {
		return
	}
	var why string
	if given := given(refusal); given != "" {
		why = ": " + given
	}
	if refusal.Stage == v1alpha1.StageFailed {
		e.addRequest(q, v1alpha1.ReasonSigningRequestFailed, &refusal.Time, fmt.Sprintf(
			"%s was approved, but the signer refused to sign it%s. %s Correct what the signer names; the kubelet files a new "+
				"request by itself.", q.title(refusal.Name), why, q.effect()))
		return
	}
	e.addRequest(q, v1alpha1.ReasonSigningRequestDenied, &refusal.Time, fmt.Sprintf(
		"%s was denied%s. %s A denial cannot be undone: if it was a mistake, correct the approver's policy; the kubelet files "+
			"a new request by itself.", q.title(refusal.Name), why, q.effect()))
}

// given is the reason and message that the refusal gives, either of which may be missing, without a full stop.
func given(refusal *v1alpha1.SigningRefusal) string {
	reason, message := text.Phrase(refusal.Reason, maxWord), text.Phrase(strings.TrimSuffix(refusal.Message, "."), maxPhrase)
	if reason != "" && message != "" {
		return reason + ": " + message
	}
	return cmp.Or(reason, message)
}

// judgeApproved reports a request that was approved and not signed in time. The oldest counts: a kubelet that gave up on it, and
// waits for its next one to be approved, waits for the same signer.
func (e *evaluation) judgeApproved(q *request) {
	approved := q.approved()
	if approved == nil || !e.reached(approved.Add(e.rules.issueTimeout)) {
		return
	}
	which := q.title(q.Name)
	if q.Stage != v1alpha1.StageApproved || q.Decided != nil && !q.Decided.Equal(approved) {
		which = "The oldest approved CertificateSigningRequest to " + text.Phrase(q.SignerName, maxWord)
	}
	e.addRequest(q, v1alpha1.ReasonSigningRequestNotIssued, approved, fmt.Sprintf(
		"%s was approved at %s, but no certificate was issued. %s The signer is down, or its CA has expired, which it does not "+
			"report: check the csrsigning controller and the --cluster-signing flags of kube-controller-manager.",
		which, instant(approved.Time), q.effect()))
}

// approved is since when an approved request waits for its certificate; nil when none does.
func (q *request) approved() *metav1.Time {
	switch {
	case q.ApprovedSince != nil:
		return q.ApprovedSince
	case q.Stage == v1alpha1.StageApproved:
		return new(metav1.NewTime(q.decided()))
	}
	return nil
}

func (e *evaluation) addRequest(q *request, reason string, since *metav1.Time, message string) {
	finding := v1alpha1.Finding{
		Reason: reason, Subject: q.subject, Certificate: q.purpose(), Message: message, Since: timestamp(since.Time),
	}
	switch {
	case q.orphan():
		finding.Severity = orphanSeverity(reason, q.SignerName)
	case e.withdrawn(q.SignerName):
		// It was so when requests could last be read. What became of it since, nobody knows.
		finding.Severity = v1alpha1.SeverityUnknown
		finding.Message = "As far as is known, since requests may not be read any more: " + finding.Message
	}
	e.add(finding)
}

func (q *request) orphan() bool {
	return q.subject.Kind == v1alpha1.SubjectSigningRequest
}

func (q *request) purpose() v1alpha1.CertificatePurpose {
	if q.SignerName == certificatesv1.KubeletServingSignerName {
		return v1alpha1.PurposeKubeletServing
	}
	return v1alpha1.PurposeKubeletClient
}

// title begins a sentence about one of the requests.
func (q *request) title(name string) string {
	title := fmt.Sprintf("CertificateSigningRequest %s to %s", requestName(name), text.Phrase(q.SignerName, maxWord))
	switch {
	case !q.orphan():
		return title
	case q.node == "":
		return title + ", of an unnamed machine,"
	}
	return fmt.Sprintf("%s, for a Node %s that does not exist,", title, text.Phrase(q.node, maxName/2))
}

// effect is what it costs that the certificate is not issued.
func (q *request) effect() string {
	serving := q.purpose() == v1alpha1.PurposeKubeletServing
	switch {
	case serving && q.orphan():
		return "It breaks nothing, since no Node needs it any more."
	case serving:
		return "Without a new one the kubelet's serving certificate runs out: then " + withoutServing + "."
	case q.orphan():
		return "The machine cannot join the cluster."
	}
	return "Without a new one the kubelet's client certificate runs out: then it cannot reach the API server and the Node " +
		"turns NotReady."
}

// approver names who decides on such requests.
func (q *request) approver() string {
	if q.purpose() == v1alpha1.PurposeKubeletServing {
		return "Repair the approver of kubelet serving certificates; kube-controller-manager never approves them."
	}
	return "Check the csrapproving controller in kube-controller-manager and the requestor's ClusterRoleBindings to " +
		"system:certificates.k8s.io:certificatesigningrequests:nodeclient and :selfnodeclient."
}
