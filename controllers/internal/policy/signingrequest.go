// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// checkSigningRequests judges how far the node's signing requests have come: those for client certificates always, those
// for serving certificates where rotation is required.
func checkSigningRequests(e *evaluation, f *facts) {
	if f.clientRequest != nil {
		e.judgeRequest(f.subject(), f.node.Name, f.clientRequest)
	}
	if f.servingRequest != nil && e.rules.rotation == v1alpha1.ServingRotationRequired {
		e.judgeRequest(f.subject(), f.node.Name, f.servingRequest)
	}
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
		e.judgeRequest(subject, r.NodeName, &status)
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

// judgeRequest judges the requests of one owner to one signer. The status names the newest; node is who asks, if known.
func (e *evaluation) judgeRequest(subject v1alpha1.Subject, node string, r *v1alpha1.SigningRequestStatus) {
	q := request{SigningRequestStatus: r, subject: subject, node: node}
	e.judgePending(&q)
	e.judgeRefusal(&q)
	if r.Stage == v1alpha1.StageApproved {
		e.judgeApproved(&q)
	}
	if r.Malformed != "" && (r.Stage == v1alpha1.StagePending || r.Stage == v1alpha1.StageFailed) {
		e.addRequest(&q, v1alpha1.ReasonSigningRequestMalformed, &r.Created, fmt.Sprintf(
			"%s cannot be signed as it is: %s. %s Check the kubelet's version and configuration, and delete the request if "+
				"a stranger filed it.", q.title(r.Name), text.Phrase(r.Malformed, maxPhrase), q.effect()))
	}
}

// request is a signing request's state together with who asks.
type request struct {
	*v1alpha1.SigningRequestStatus
	subject v1alpha1.Subject
	node    string
}

// judgePending reports requests that nobody decides on: once the oldest has waited for too long, and also, at once, when
// there is more than one, which means that the kubelet gave up waiting for the first.
func (e *evaluation) judgePending(q *request) {
	if q.Pending == 0 || q.PendingSince == nil {
		return
	}
	if e.reached(q.PendingSince.Add(e.rules.pendingTimeout)) {
		e.addRequest(q, v1alpha1.ReasonSigningRequestPending, q.PendingSince, q.waiting())
	}
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

// judgeRefusal reports a denied or failed request with none issued since.
func (e *evaluation) judgeRefusal(q *request) {
	refusal := q.Refusal
	if refusal == nil && (q.Stage == v1alpha1.StageDenied || q.Stage == v1alpha1.StageFailed) {
		refusal = &v1alpha1.SigningRefusal{Name: q.Name, Stage: q.Stage}
		if q.Decided != nil {
			refusal.Time = *q.Decided
		}
	}
	if refusal == nil {
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

// judgeApproved reports a request that was approved and not signed in time.
func (e *evaluation) judgeApproved(q *request) {
	approved := &q.Created
	if q.Decided != nil {
		approved = q.Decided
	}
	if !e.reached(approved.Add(e.rules.issueTimeout)) {
		return
	}
	e.addRequest(q, v1alpha1.ReasonSigningRequestNotIssued, approved, fmt.Sprintf(
		"%s was approved at %s, but no certificate was issued. %s The signer is down, or its CA has expired, which it does not "+
			"report: check the csrsigning controller and the --cluster-signing flags of kube-controller-manager.",
		q.title(q.Name), instant(approved.Time), q.effect()))
}

func (e *evaluation) addRequest(q *request, reason string, since *metav1.Time, message string) {
	finding := v1alpha1.Finding{
		Reason: reason, Subject: q.subject, Certificate: q.purpose(), Message: message, Since: timestamp(since.Time),
	}
	if q.orphan() {
		finding.Severity = orphanSeverity(reason, q.SignerName)
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
