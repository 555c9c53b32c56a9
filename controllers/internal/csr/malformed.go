// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/text"
)

// nodesGroup is the organization of every kubelet's certificate.
const nodesGroup = "system:nodes"

// Malformed says what in a request breaks the rules of its signer, so that it cannot be signed as it is: all of it,
// in the order of the rules, within the bounds of SigningRequestStatus. It is "" for a request that breaks none, or
// that is for another signer than the two of the kubelets, and for one that was issued. The rules are those of
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/apis/certificates/helpers.go (ValidateKubeletServingCSR
// and ValidateKubeletClientCSR), and one that approvers apply: a node may ask for itself only
// (https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/controller/certificates/approver/sarapprove.go,
// isSelfNodeClientCert).
func Malformed(req *certificatesv1.CertificateSigningRequest) string {
	if Stage(req) == v1alpha1.StageIssued {
		return ""
	}
	if !kubeletSigner(req.Spec.SignerName) {
		return ""
	}
	request, err := Parse(req.Spec.Request)
	if err != nil {
		return text.Field(err.Error(), maxMessage)
	}
	return broken(&req.Spec, request)
}

func kubeletSigner(name string) bool {
	return name == certificatesv1.KubeletServingSignerName || name == certificatesv1.KubeAPIServerClientKubeletSignerName
}

// broken says which of its signer's rules a request to one of the kubelets' signers breaks.
func broken(spec *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest) string {
	problems := subject(spec.Username, request)
	if spec.SignerName == certificatesv1.KubeletServingSignerName {
		problems = append(problems, servingNames(request)...)
		problems = append(problems, usages(spec.Usages, certificatesv1.UsageServerAuth)...)
	} else {
		problems = append(problems, clientNames(request)...)
		problems = append(problems, usages(spec.Usages, certificatesv1.UsageClientAuth)...)
	}
	return text.Field(strings.Join(problems, "; "), maxMessage)
}

func subject(username string, request *x509.CertificateRequest) []string {
	var problems []string
	if organizations := request.Subject.Organization; len(organizations) != 1 || organizations[0] != nodesGroup {
		problems = append(problems,
			fmt.Sprintf("subject organization is %s, want exactly %s", list(organizations), nodesGroup))
	}
	name := request.Subject.CommonName
	if !strings.HasPrefix(name, nodeUserPrefix) {
		problems = append(problems,
			fmt.Sprintf("subject common name is %s, want %s<node name>", quoted(name), nodeUserPrefix))
	}
	if strings.HasPrefix(username, nodeUserPrefix) && username != name {
		problems = append(problems, fmt.Sprintf("subject common name is %s, but %s asks for it: a node may ask for itself only",
			quoted(name), quoted(username)))
	}
	return problems
}

func servingNames(request *x509.CertificateRequest) []string {
	var problems []string
	if len(request.DNSNames) == 0 && len(request.IPAddresses) == 0 {
		problems = append(problems,
			"there is no DNS name and no IP address among the subject alternative names, want at least one")
	}
	return append(problems, forbidden(request, "email", "URI")...)
}

func clientNames(request *x509.CertificateRequest) []string {
	return forbidden(request, "DNS", "email", "IP", "URI")
}

// forbidden names those of these kinds of subject alternative names that a request has.
func forbidden(request *x509.CertificateRequest, kinds ...string) []string {
	count := map[string]int{
		"DNS": len(request.DNSNames), "email": len(request.EmailAddresses),
		"IP": len(request.IPAddresses), "URI": len(request.URIs),
	}
	var problems []string
	for _, kind := range kinds {
		if count[kind] > 0 {
			problems = append(problems, kind+" subject alternative names are not allowed")
		}
	}
	return problems
}

// usages wants the set of digital signature and the given one, with or without key encipherment (which RSA keys need).
func usages(requested []certificatesv1.KeyUsage, wanted certificatesv1.KeyUsage) []string {
	required := sets.New(certificatesv1.UsageDigitalSignature, wanted)
	if sets.New(requested...).Delete(certificatesv1.UsageKeyEncipherment).Equal(required) {
		return nil
	}
	texts := make([]string, len(requested))
	for i, usage := range requested {
		texts[i] = string(usage)
	}
	return []string{fmt.Sprintf("usages are %s, want %q and %q, and at most %q besides",
		list(texts), certificatesv1.UsageDigitalSignature, wanted, certificatesv1.UsageKeyEncipherment)}
}

// list quotes the first few of what a node listed.
func list(texts []string) string {
	const most = 5
	if len(texts) == 0 {
		return "empty"
	}
	var named []string
	for _, each := range texts[:min(len(texts), most)] {
		named = append(named, quoted(each))
	}
	if len(texts) > most {
		named = append(named, fmt.Sprintf("and %d more", len(texts)-most))
	}
	return strings.Join(named, ", ")
}
