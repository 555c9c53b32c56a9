// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package csr reads CertificateSigningRequests of kubelets: whose they are, how far they have come, what breaks the
// signer's rules, what one node's requests to one signer amount to, and whether one may be approved. It is pure: it reads
// no clock and asks no API server.
//
// A request is written by a node, its status by approvers and signers. All of it is bounded, and none of it can make
// a function panic.
package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// NodeNameIndex is the name of the cache index of CertificateSigningRequests by NodeName.
	NodeNameIndex = ".nodeName"
	// MaxRequestBytes is how large a certificate request, in DER, may be to be read. A kubelet's has about 300 bytes, and a
	// hundred IPv6 addresses take 2 KiB. maxSearched is in how much of spec.request it is looked for, with what is around it.
	MaxRequestBytes, maxSearched = 4 << 10, 64 << 10
	// MaxMetadataBytes is how much metadata a request may have that is decided on. A kubelet's has about 100 bytes.
	MaxMetadataBytes = 2 << 10
	// metadataLeftOut is the annotation, in memory only, of a request of which the metadata are not kept.
	metadataLeftOut = "notafter.dev/metadata-left-out"

	// nodeUserPrefix starts the user name of a kubelet, and so the common name in its certificates.
	// https://kubernetes.io/docs/reference/access-authn-authz/node/
	nodeUserPrefix = "system:node:"

	requestBlock = "CERTIFICATE REQUEST"
	// tooLarge is what ReadOf keeps of a request that is too large to be read. It holds no PEM block, so that the API server
	// stores no request that says so itself.
	tooLarge = "larger than what is read"
)

// Parse reads a certificate request as it stands in spec.request: the first PEM block, of type CERTIFICATE REQUEST.
// What follows it does not count, as for the signer:
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/apis/certificates/helpers.go (ParseCSR). The signature is
// not checked: the API server did that when the request was created.
func Parse(pemData []byte) (*x509.CertificateRequest, error) {
	block := firstBlock(pemData)
	switch {
	case len(pemData) > maxSearched, string(pemData) == tooLarge, block != nil && isTooLarge(block):
		return nil, fmt.Errorf(
			"spec.request is larger than what is read: %d bytes, or %d with what is around them", MaxRequestBytes, maxSearched)
	case block == nil:
		return nil, errors.New("spec.request holds no PEM block")
	}
	if block.Type != requestBlock {
		return nil, fmt.Errorf("spec.request holds a PEM block of type %s, want %s", quoted(block.Type), requestBlock)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("spec.request is not a PKCS #10 certificate request: %s", text.Field(err.Error(), maxCause))
	}
	return request, nil
}

// firstBlock is the first PEM block in what is looked at; nil if there is none.
func firstBlock(pemData []byte) *pem.Block {
	if len(pemData) > maxSearched {
		return nil
	}
	block, _ := pem.Decode(pemData)
	return block
}

func isTooLarge(block *pem.Block) bool { return len(block.Type)+len(block.Bytes) > MaxRequestBytes }

// readRequest is what Parse reads of spec.request. A node may put as much around it as the API server stores, and file thousands.
func readRequest(pemData []byte) []byte {
	switch block := firstBlock(pemData); {
	case len(pemData) > maxSearched, string(pemData) == tooLarge, block != nil && isTooLarge(block):
		return []byte(tooLarge)
	case block == nil:
		return nil
	default:
		return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
	}
}

// NodeName is the node that a request is for, or "" if that cannot be told. A kubelet that already has a certificate
// asks as system:node:<name>: the API server vouches for that user name, so it decides, and what the request itself
// says cannot put it on another node's record. It always asks for its serving certificate so, and anybody else's
// request for one is nobody's. For its first client certificate it asks with a bootstrap token or a cloud's bootstrap
// identity, which stand for no node: there the request's common name has to do.
func NodeName(req *certificatesv1.CertificateSigningRequest) string {
	if FiledAsNode(req) {
		return nodeOf(req.Spec.Username)
	}
	if req.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		return ""
	}
	request, err := Parse(req.Spec.Request)
	if err != nil {
		return ""
	}
	return nodeOf(request.Subject.CommonName)
}

// IndexNodeName is the function of the index NodeNameIndex. It has no error to return: an index panics on any.
func IndexNodeName(object any) ([]string, error) {
	request, ok := object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil, nil
	}
	return []string{NodeName(request)}, nil
}

// FiledAsNode says that a kubelet filed the request with its client certificate, and not with a bootstrap identity.
func FiledAsNode(req *certificatesv1.CertificateSigningRequest) bool {
	return strings.HasPrefix(req.Spec.Username, nodeUserPrefix)
}

// nodeOf is the <name> of system:node:<name>, if a Node can have that name.
func nodeOf(user string) string {
	name, ok := strings.CutPrefix(user, nodeUserPrefix)
	if !ok || len(name) > validation.DNS1123SubdomainMaxLength || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return ""
	}
	return name
}

// MayBeDecided says that somebody may approve or deny the request by the rules of this package. To decide on a request is to
// write all of its metadata, so that a cache has to keep them: what is missing would be deleted.
func MayBeDecided(req *certificatesv1.CertificateSigningRequest) bool {
	return Stage(req) == v1alpha1.StagePending && req.Spec.SignerName == certificatesv1.KubeletServingSignerName && FiledAsNode(req)
}

// LeaveOutMetadata marks a request of whose metadata a cache does not keep all, as there are more than MaxMetadataBytes. It is
// never decided on.
func LeaveOutMetadata(req *certificatesv1.CertificateSigningRequest) {
	req.Annotations = map[string]string{metadataLeftOut: ""}
}

// ReadOf is the part of a request's spec that this package reads. Of one that was issued, that is whose it is: the rules for
// requests are past. Of one that is too large to be read, it is enough to say so. It is what a cache of thousands needs to keep,
// and what an approval may write, as the API server takes nothing but conditions and metadata from that (csrApprovalStrategy):
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/registry/certificates/certificates/strategy.go
func ReadOf(req *certificatesv1.CertificateSigningRequest) certificatesv1.CertificateSigningRequestSpec {
	read := certificatesv1.CertificateSigningRequestSpec{
		SignerName: req.Spec.SignerName, Username: req.Spec.Username, Request: readRequest(req.Spec.Request), Usages: req.Spec.Usages,
	}
	switch Stage(req) {
	case v1alpha1.StagePending:
		read.Groups, read.ExpirationSeconds = req.Spec.Groups, req.Spec.ExpirationSeconds
	case v1alpha1.StageIssued:
		read.Usages = nil
		if FiledAsNode(req) {
			read.Request = nil
		}
	case v1alpha1.StageApproved, v1alpha1.StageDenied, v1alpha1.StageFailed, v1alpha1.StageDeleted:
	}
	return read
}

// Stage is how far a request has come, as the kubelet that waits for it sees it: denied and failed are the end, even
// beside a certificate, and a certificate counts only once approved.
// https://github.com/kubernetes/client-go/blob/v0.37.2/util/certificate/csr/csr.go (WaitForCertificate).
//
// A condition counts whatever its status. The API server stores no other than True, and an empty one from before
// there was a status means True:
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/controller/certificates/certificate_controller_utils.go.
func Stage(req *certificatesv1.CertificateSigningRequest) v1alpha1.SigningStage {
	switch {
	case condition(req, certificatesv1.CertificateDenied) != nil:
		return v1alpha1.StageDenied
	case condition(req, certificatesv1.CertificateFailed) != nil:
		return v1alpha1.StageFailed
	case condition(req, certificatesv1.CertificateApproved) == nil:
		return v1alpha1.StagePending
	case len(req.Status.Certificate) > 0:
		return v1alpha1.StageIssued
	default:
		return v1alpha1.StageApproved
	}
}

// condition is the first condition of that type. There is at most one, except in objects older than that rule.
func condition(
	req *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType,
) *certificatesv1.CertificateSigningRequestCondition {
	for i := range req.Status.Conditions {
		if req.Status.Conditions[i].Type == kind {
			return &req.Status.Conditions[i]
		}
	}
	return nil
}

// decision is the condition that made the request's stage what it is, or nil for a pending one.
func decision(req *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequestCondition {
	switch Stage(req) {
	case v1alpha1.StageDenied:
		return condition(req, certificatesv1.CertificateDenied)
	case v1alpha1.StageFailed:
		return condition(req, certificatesv1.CertificateFailed)
	default:
		return condition(req, certificatesv1.CertificateApproved)
	}
}

// Decided is when a request was denied, failed or approved, by its stage: zero for a pending one. The API server
// stamps each condition; in an object older than that, the request's creation has to do.
func Decided(req *certificatesv1.CertificateSigningRequest) time.Time {
	made := decision(req)
	switch {
	case made == nil:
		return time.Time{}
	case !made.LastUpdateTime.IsZero():
		return made.LastUpdateTime.Time
	case !made.LastTransitionTime.IsZero():
		return made.LastTransitionTime.Time
	default:
		return req.CreationTimestamp.Time
	}
}

// Refusal is the reason and message with which a request was denied or failed, within the bounds of SigningRefusal.
// Both are empty for any other request.
func Refusal(req *certificatesv1.CertificateSigningRequest) (reason, message string) {
	if !refused(Stage(req)) {
		return "", ""
	}
	made := decision(req)
	return text.Field(made.Reason, maxReason), text.Field(made.Message, maxMessage)
}

func refused(stage v1alpha1.SigningStage) bool {
	return stage == v1alpha1.StageDenied || stage == v1alpha1.StageFailed
}

func unfinished(stage v1alpha1.SigningStage) bool {
	return stage == v1alpha1.StagePending || stage == v1alpha1.StageApproved
}

// Issued is the certificate of an issued request, the first in status.certificate; nil if the request's Stage is
// another. What follows that certificate, intermediate CAs and explaining text, is not read.
func Issued(req *certificatesv1.CertificateSigningRequest) (*x509.Certificate, error) {
	if Stage(req) != v1alpha1.StageIssued {
		return nil, nil
	}
	data := req.Status.Certificate
	if block, rest := pem.Decode(data); block != nil {
		data = data[:len(data)-len(rest)]
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("CertificateSigningRequest %s: status.certificate: %w", quoted(req.Name), err)
	}
	return certs[0], nil
}
