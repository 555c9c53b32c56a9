// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// aksServingLabel is the label by which AKS says that serving certificate rotation is on. The files that workloads mount are
// AKS's, too: elsewhere nothing puts them there, and nothing removes them.
const aksServingLabel = "kubernetes.azure.com/kubelet-serving-ca"

// StaticServingFiles are the files that hold a kubelet's static serving certificate and its key on AKS, and that serving
// certificate rotation removes (https://github.com/Azure/AKS/issues/5539).
var StaticServingFiles = []string{
	"/etc/kubernetes/certs/kubeletserver.crt",
	"/etc/kubernetes/certs/kubeletserver.key",
}

// WantsWorkloads says whether a policy judges workloads: one that watches them, and requires serving certificate rotation as
// AKS labels it.
func WantsWorkloads(spec *v1alpha1.CertificatePolicySpec) bool {
	serving := &spec.Nodes.ServingCertificate
	required := serving.Rotation == "" || serving.Rotation == v1alpha1.ServingRotationRequired
	return required && spec.Nodes.StaticServingMounts != v1alpha1.WatchIgnored &&
		serving.Label != nil && serving.Label.Key == aksServingLabel
}

// checkClusterSigned notes whether any node has serving certificate rotation on.
func checkClusterSigned(e *evaluation, f *facts) {
	if f.serving != nil && f.serving.Mode == v1alpha1.ServingModeClusterSigned {
		e.clusterSigned = true
	}
}

// judgeWorkloads reports workloads that mount what serving certificate rotation removes. Where a node serves a certificate
// of the Cluster CA already, that is a violation: their Pods fail there, now or when they are next started. Elsewhere it
// informs, before rotation is turned on. The mount of a whole directory does not fail, so it is none of this.
func (e *evaluation) judgeWorkloads(workloads []Workload) {
	if !e.rules.staticMounts {
		return
	}
	severity := v1alpha1.SeverityInfo
	when := "no selected node is known to have serving certificate rotation on yet, but the policy requires it"
	if e.clusterSigned {
		severity = v1alpha1.SeverityViolation
		when = "serving certificate rotation is on, and removed it"
	}
	for i := range workloads {
		w := &workloads[i]
		name := text.Phrase(w.Namespace+"/"+w.Name, maxQualified)
		first := len(e.found)
		e.add(v1alpha1.Finding{
			Reason: v1alpha1.ReasonStaticServingCertificateMounted, Severity: severity,
			Subject: v1alpha1.Subject{Kind: w.Kind, Name: name}, Certificate: v1alpha1.PurposeKubeletServing,
			Message: fmt.Sprintf("%s %s mounts %s from the host: %s. Where the file is missing, Pods of it fail to start "+
				"(hostPath type check failed), or start without the file. Remove the hostPath volume, and let the workload verify "+
				"kubelets with the Cluster CA, which every Pod has in /var/run/secrets/kubernetes.io/serviceaccount/ca.crt.",
				w.Kind, text.Phrase(name, 2*maxName), text.Phrase(w.Path, maxPhrase), when),
		})
		e.tally.addOther(workloadGroup, e.found[first:])
	}
}
