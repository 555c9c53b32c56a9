// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
)

// Whatever is asked of a request, the part of its spec that a cache keeps gives the same answer.
func TestReadOfLosesNothing(t *testing.T) {
	for name, req := range map[string]*certificatesv1.CertificateSigningRequest{
		"pending":                request("csr-1", 0).Obj(),
		"pending, malformed":     request("csr-1", 0).Usages(certificatesv1.UsageAny).Obj(),
		"pending, bootstrap":     request("csr-1", 0).Client().User(bootstrapUser).Obj(),
		"approved":               request("csr-1", 0).Approved(1).Obj(),
		"denied":                 request("csr-1", 0).Denied(1).Obj(),
		"failed, malformed":      request("csr-1", 0).Usages(certificatesv1.UsageAny).Approved(1).Failed(2).Obj(),
		"issued":                 request("csr-1", 0).Issued(1).Obj(),
		"issued, bootstrap":      request("csr-1", 0).Client().User(bootstrapUser).Issued(1).Obj(),
		"issued, then failed":    request("csr-1", 0).Issued(1).Failed(2).Obj(),
		"of nobody, not a PKCS":  request("csr-1", 0).User("somebody").PEM([]byte("hello")).Obj(),
		"of another node's name": request("csr-1", 0).User("system:node:node-2").Obj(),
		"not in the group":       request("csr-1", 0).Groups("system:authenticated").Obj(),
		"for a long time":        request("csr-1", 0).Expiration(100_000).Obj(),
		"too large":              request("csr-1", 0).PEM(block("CERTIFICATE REQUEST", make([]byte, csr.MaxRequestBytes))).Obj(),
		"text around it":         request("csr-1", 0).PEM(around(servingRequest, 64<<10)).Obj(),
		"too much text":          request("csr-1", 0).PEM(around(servingRequest, 64<<10+1)).Obj(),
		"two requests":           request("csr-1", 0).PEM(slices.Concat(servingRequest, clientRequest)).Obj(),
		"a long type":            request("csr-1", 0).PEM(block(strings.Repeat("X", 3_000), nil)).Obj(),
	} {
		t.Run(name, func(t *testing.T) {
			kept := req.DeepCopy()
			kept.Spec = csr.ReadOf(kept)
			if diff := cmp.Diff(answers(t, req), answers(t, kept)); diff != "" {
				t.Errorf("what is kept answers otherwise (-whole +kept):\n%s", diff)
			}
		})
	}
}

func TestReadOfKeepsNoRequestThatIsOver(t *testing.T) {
	if kept := csr.ReadOf(request("csr-1", 0).Issued(1).Obj()); kept.Request != nil || kept.Usages != nil {
		t.Errorf("of an issued request, %d bytes of PEM and the usages %v are kept", len(kept.Request), kept.Usages)
	}
}

// A node can file thousands of requests, of any size that the API server stores.
func TestReadOfKeepsLittle(t *testing.T) {
	withHeaders := pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE REQUEST", Bytes: der(servingRequest), Headers: map[string]string{"comment": strings.Repeat("x", 60_000)},
	})
	for name, data := range map[string][]byte{
		"a request":        servingRequest,
		"text around it":   around(servingRequest, 60_000),
		"too much text":    around(servingRequest, 1<<20),
		"headers":          withHeaders,
		"no request":       make([]byte, 1<<20),
		"too large":        block("CERTIFICATE REQUEST", make([]byte, 1<<20)),
		"no such type":     block(strings.Repeat("X", 1<<20), nil),
		"another request":  slices.Concat(servingRequest, bytes.Repeat(servingRequest, 50)),
		"nothing but dots": bytes.Repeat([]byte("-----BEGIN "), 5_000),
	} {
		kept := csr.ReadOf(request("csr-1", 0).PEM(data).Obj())
		if got := cap(kept.Request); got > 1<<10 {
			t.Errorf("%s: room for %d bytes is kept", name, got)
		}
	}
}

func answers(t *testing.T, req *certificatesv1.CertificateSigningRequest) map[string]any {
	t.Helper()
	reason, message := csr.Refusal(req)
	cert, err := csr.Issued(req)
	if err != nil {
		t.Fatal(err)
	}
	in := decisionInput(req)
	in.Rules = []*csr.Rules{rules("workers", func(s *v1alpha1.SigningRequestApprovalSpec) {
		s.MaximumDuration = &metav1.Duration{Duration: time.Hour}
	})}
	return map[string]any{
		"decision": csr.Decide(in), "node": csr.NodeName(req), "stage": csr.Stage(req), "malformed": csr.Malformed(req), "decided": csr.Decided(req),
		"refusal": reason + ": " + message, "issued": cert != nil, "signer": req.Spec.SignerName, "requestor": req.Spec.Username,
		"summary": csr.Summarize(req.Spec.SignerName, nil, []*certificatesv1.CertificateSigningRequest{req}, at(10)),
	}
}
