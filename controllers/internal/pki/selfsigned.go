// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/x509"
	"strings"
)

// SelfSigned says whether the certificate that a kubelet presented (chain[0]) comes from that kubelet alone, so that
// no client can have a CA to verify it with. There are two kinds:
//
//   - signed with its own key, so that its issuer is its subject. AKS nodes without serving certificate rotation have
//     one: https://github.com/Azure/AgentBaker/blob/main/parts/linux/cloud-init/artifacts/cse_config.sh
//   - <host>@<unix>, signed by a CA <host>-ca@<unix> that the kubelet made for just that and whose key it threw away:
//     https://github.com/kubernetes/client-go/blob/v0.37.2/util/cert/cert.go (GenerateSelfSignedCertKeyWithOptions).
//     The names are the evidence, since a client may have been shown the first certificate only.
//
// A node can make its certificate look like either. Ask VerifyServing first.
func SelfSigned(chain []*x509.Certificate) bool {
	if len(chain) == 0 {
		return false
	}
	return signedByItself(chain[0]) || namedByKubelet(chain[0])
}

func signedByItself(cert *x509.Certificate) bool {
	if !bytes.Equal(cert.RawSubject, cert.RawIssuer) || rsaBits(cert) > MaxRSAKeyBits {
		return false
	}
	// CheckSignatureFrom would refuse a certificate that is not a CA's.
	return cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// namedByKubelet compares common names only: the kubelet sets no other part of either name.
func namedByKubelet(cert *x509.Certificate) bool {
	host, made, ok := cutLast(cert.Subject.CommonName, "@")
	if !ok || host == "" || !isNumber(made) {
		return false
	}
	issuer, made, ok := cutLast(cert.Issuer.CommonName, "@")
	return ok && issuer == host+"-ca" && isNumber(made)
}

func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}

func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
