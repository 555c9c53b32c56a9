// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// nodeUser begins the name of the user that a registered node is.
	nodeUser = "system:node:"
	// maxNamed is how many nodes of a pool a message names.
	maxNamed = 5
)

// The labels in which AKS names the node pool.
const (
	aksPoolLabel    = "kubernetes.azure.com/agentpool"
	aksOldPoolLabel = "agentpool"
)

// poolLabels are where platforms say which node pool a node is of.
var poolLabels = []string{
	aksPoolLabel, aksOldPoolLabel, "eks.amazonaws.com/nodegroup", "cloud.google.com/gke-nodepool",
}

// judgeUnregistered reports machines that got their first client certificate, and did not become a Node in time. A machine
// may bootstrap many times; only the newest request in its name is judged. Two kinds of requests are of no such machine:
// those of a node, which renews what it has, so that its Node was deleted; and those of a machine whose Node is known to have
// been there since, seen by notafter or shown by a request for a serving certificate, which a kubelet files only once its
// Node has addresses.
func (e *evaluation) judgeUnregistered(requests []Request) {
	newest := map[string]*Request{}
	registered := map[string]time.Time{}
	for i := range requests {
		r := &requests[i]
		switch {
		case r.NodeName == "":
		case r.SignerName == certificatesv1.KubeletServingSignerName && r.Requestor == nodeUser+r.NodeName:
			registered[r.NodeName] = later(registered[r.NodeName], r.Created)
		case r.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && r.newerThan(newest[r.NodeName]):
			newest[r.NodeName] = r
		}
	}
	for name, r := range newest {
		if r.Stage == v1alpha1.StageIssued && r.Registration != RegistrationSeen && !strings.HasPrefix(r.Requestor, nodeUser) &&
			registered[name].Before(r.Created) {
			e.judgeRegistration(r)
		}
	}
}

// newerThan says whether the request is newer than the other, if there is one.
func (r *Request) newerThan(other *Request) bool {
	return other == nil || cmp.Or(r.Created.Compare(other.Created), strings.Compare(r.Name, other.Name)) > 0
}

// Issued is when an issued request was decided on, or created if nothing says that.
func (r *Request) Issued() time.Time {
	if r.Decided.IsZero() {
		return r.Created
	}
	return r.Decided
}

func (e *evaluation) judgeRegistration(r *Request) {
	issued := r.Issued()
	if !e.reached(issued.Add(e.rules.pendingTimeout)) {
		return
	}
	severity, unsure := v1alpha1.SeverityViolation, ""
	if r.Registration != RegistrationNotSeen {
		severity = v1alpha1.SeverityUnknown
		unsure = " Or the Node was there, and was deleted before this process of notafter began to watch: then nothing is wrong."
	}
	first := len(e.found)
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonNodeNotRegistered, Severity: severity,
		Subject:     v1alpha1.Subject{Kind: v1alpha1.SubjectSigningRequest, Name: text.Phrase(r.Name, maxSubject)},
		Certificate: v1alpha1.PurposeKubeletClient, Since: timestamp(issued),
		Message: fmt.Sprintf("CertificateSigningRequest %s, filed by %s, got a client certificate for a Node %s at %s, and "+
			"there is no such Node. The machine runs a kubelet, but takes no Pods, and autoscaling waits for it.%s Check its "+
			"kubelet's log for why it does not register: an admission webhook or plugin that refuses the Node, "+
			"--register-node=false, or a machine that stopped. If the machine is gone on purpose, delete the request, which "+
			"Kubernetes does by itself an hour after it was issued.", requestName(r.Name),
			text.Phrase(r.Requestor, maxWord), text.Phrase(r.NodeName, maxName), instant(issued), unsure),
	})
	e.tally.addOther(requestGroup, e.found[first:])
}

// checkStranded notes a node that is not ready and whose client certificate has expired, as far as anybody knows: its kubelet has
// not been heard of since.
func checkStranded(e *evaluation, f *facts) {
	certificate := e.clientInUse(f)
	if certificate != nil && e.silentSince(f, certificate.NotAfter.Time) {
		e.stranded = append(e.stranded, strandedNode{node: f.node, expired: certificate.NotAfter.Time})
	}
}

// strandedNode is a node that is not ready, and whose client certificate expired.
type strandedNode struct {
	node    *Node
	expired time.Time
}

// since is when it became so.
func (s *strandedNode) since() time.Time {
	return later(s.expired, s.node.ReadySince)
}

// NodePool is the name of the pool that a node with these labels is of, and the label that says so; empty if none does.
func NodePool(labels map[string]string) (name, label string) {
	for _, label := range poolLabels {
		if name := labels[label]; name != "" {
			return name, label
		}
	}
	return "", ""
}

// judgePools reports the pools of the stranded nodes, and stranded nodes of no pool each by itself.
func (e *evaluation) judgePools(nodes []Node) {
	if len(e.stranded) == 0 {
		return
	}
	pools := map[string][]strandedNode{}
	for _, s := range e.stranded {
		pool, _ := NodePool(s.node.Labels)
		if pool == "" {
			e.addStranded(v1alpha1.Subject{Kind: v1alpha1.SubjectNode, Name: s.node.Name}, []strandedNode{s}, 1)
			continue
		}
		pools[pool] = append(pools[pool], s)
	}
	sizes := make(map[string]int, len(pools))
	for i := range nodes {
		pool, _ := NodePool(nodes[i].Labels)
		sizes[pool]++
	}
	for pool, stranded := range pools {
		e.addStranded(v1alpha1.Subject{Kind: v1alpha1.SubjectNodePool, Name: pool}, stranded, sizes[pool])
	}
}

// addStranded reports stranded nodes, which are all of the subject; size is how many nodes it has.
func (e *evaluation) addStranded(subject v1alpha1.Subject, stranded []strandedNode, size int) {
	slices.SortFunc(stranded, func(a, b strandedNode) int { return strings.Compare(a.node.Name, b.node.Name) })
	names := make([]string, 0, len(stranded))
	expired, since := stranded[0].expired, stranded[0].since()
	for i := range stranded {
		names = append(names, text.Phrase(stranded[i].node.Name, maxWord))
		expired, since = earlier(expired, stranded[i].expired), earlier(since, stranded[i].since())
	}
	more := ""
	if len(names) > maxNamed {
		more = fmt.Sprintf(" and %d more", len(names)-maxNamed)
		names = names[:maxNamed]
	}
	_, label := NodePool(stranded[0].node.Labels)
	which := fmt.Sprintf("Node %s is not ready, and its client certificate has expired", names[0])
	if subject.Kind == v1alpha1.SubjectNodePool {
		which = fmt.Sprintf("%d of %s of node pool %s (%s) %s not ready, with client certificates that have expired: %s%s",
			len(stranded), count(size, "selected node"), text.Phrase(subject.Name, maxWord), label,
			agree(len(stranded), "is", "are"), strings.Join(names, ", "), more)
	}
	first := len(e.found)
	e.add(v1alpha1.Finding{
		Reason: v1alpha1.ReasonNodePoolNeedsRecreation, Subject: subject, Certificate: v1alpha1.PurposeKubeletClient,
		NotAfter: timestamp(expired), Since: timestamp(since),
		Message: fmt.Sprintf("%s, since %s at the earliest. The usual cause is a cluster that was stopped, or machines that were "+
			"off, while the certificates ran out. Their kubelets cannot reach the API server, unless they can still bootstrap. %s",
			which, instant(expired), strandedFix(label)),
	})
	e.tally.addOther(poolGroup, e.found[first:])
}

// strandedFix is how the nodes of a pool with this label get client certificates again.
func strandedFix(label string) string {
	if label == aksPoolLabel || label == aksOldPoolLabel {
		return "Recreate the node pool: add one with the same settings (az aks nodepool show), then delete this one."
	}
	return "Reimage or replace the machines, or give their kubelets a new bootstrap token and restart them."
}

// judgeTokens reports bootstrap tokens that are expired, and, for information, those that soon will be.
func (e *evaluation) judgeTokens(tokens []Token) {
	if !e.rules.tokens {
		return
	}
	for i := range tokens {
		t := &tokens[i]
		first := len(e.found)
		switch {
		case t.Malformed != "":
			e.addToken(t, v1alpha1.SeverityViolation, fmt.Sprintf("has an expiration that is no RFC 3339 time (%q), for which "+
				"the API server takes it as expired.", text.Phrase(t.Malformed, maxWord)))
		case t.Expires.IsZero():
		case e.reached(t.Expires):
			e.addToken(t, v1alpha1.SeverityViolation, fmt.Sprintf("expired at %s.", instant(t.Expires)))
		case e.reached(t.Expires.Add(-e.rules.tokenWarning)):
			e.addToken(t, v1alpha1.SeverityInfo, fmt.Sprintf("expires at %s.", instant(t.Expires)))
		}
		e.tally.addOther(tokenGroup, e.found[first:])
	}
}

func (e *evaluation) addToken(t *Token, severity v1alpha1.Severity, said string) {
	finding := v1alpha1.Finding{
		Reason: v1alpha1.ReasonBootstrapTokenExpired, Severity: severity,
		Subject:  v1alpha1.Subject{Kind: v1alpha1.SubjectSecret, Name: text.Phrase(t.Secret, maxQualified)},
		NotAfter: timestamp(t.Expires),
		Message: fmt.Sprintf("Bootstrap token %s %s Nodes that hold it cannot join with it any more, nor come back once their "+
			"client certificate ran out. Put a new expiration into the Secret, or make a new token and give it to the nodes and "+
			"to what makes them (kubeadm token create); delete the Secret of a token that nobody needs.",
			text.Phrase(t.ID, maxWord), said),
	}
	switch {
	case severity == v1alpha1.SeverityInfo:
		finding.Since = timestamp(t.Expires.Add(-e.rules.tokenWarning))
	case !t.Expires.IsZero():
		finding.Since = timestamp(t.Expires)
	}
	e.add(finding)
}
