// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

const (
	nodeUser      = "system:node:node-1"
	bootstrapUser = "system:bootstrap:abcdef"
)

var (
	clusterCA      = pkitest.NewCA("cluster-ca")
	servingRequest = pkitest.Request(pkitest.Node("node-1"), pkitest.IPAddresses("10.0.0.1"))
	clientRequest  = pkitest.Request(pkitest.Node("node-1"))
	certificate    = clusterCA.SignRequest(servingRequest).PEM()
)

// at is a time in minutes after pkitest.Start.
func at(minutes int) time.Time { return pkitest.Start().Add(time.Duration(minutes) * time.Minute) }

// builder makes CertificateSigningRequests: a kubelet's own for a serving certificate unless told otherwise.
type builder struct {
	*certificatesv1.CertificateSigningRequest
}

func request(name string, created int) builder {
	return builder{&certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(at(created))},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    servingRequest,
			SignerName: certificatesv1.KubeletServingSignerName,
			Username:   nodeUser,
			Groups:     []string{"system:nodes", "system:authenticated"},
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}}
}

func (b builder) Client() builder {
	b.Spec.Request = clientRequest
	b.Spec.SignerName = certificatesv1.KubeAPIServerClientKubeletSignerName
	b.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	return b
}

func (b builder) User(name string) builder {
	b.Spec.Username = name
	return b
}

func (b builder) PEM(data []byte) builder {
	b.Spec.Request = data
	return b
}

func (b builder) Usages(usages ...certificatesv1.KeyUsage) builder {
	b.Spec.Usages = usages
	return b
}

func (b builder) Condition(kind certificatesv1.RequestConditionType, minutes int, reason, message string) builder {
	b.Status.Conditions = append(b.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: metav1.NewTime(at(minutes)),
	})
	return b
}

func (b builder) Approved(minutes int) builder {
	return b.Condition(certificatesv1.CertificateApproved, minutes, "AutoApproved", "")
}

func (b builder) Denied(minutes int) builder {
	return b.Condition(certificatesv1.CertificateDenied, minutes, "NotAllowed", "node-1 may not")
}

func (b builder) Failed(minutes int) builder {
	return b.Condition(certificatesv1.CertificateFailed, minutes, "SignerValidationFailure", "bad usages")
}

func (b builder) Certificate(data []byte) builder {
	b.Status.Certificate = data
	return b
}

// Issued approves the request and adds a certificate.
func (b builder) Issued(minutes int) builder { return b.Approved(minutes).Certificate(certificate) }

func (b builder) Obj() *certificatesv1.CertificateSigningRequest { return b.CertificateSigningRequest }

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		data []byte
		err  string
	}{
		"a kubelet's":                  {data: servingRequest},
		"text before and after":        {data: slices.Concat([]byte("text\n"), servingRequest, []byte("text\n"))},
		"only the first block counts":  {data: slices.Concat(servingRequest, certificate)},
		"empty":                        {err: "spec.request holds no PEM block"},
		"not PEM":                      {data: []byte("hello"), err: "spec.request holds no PEM block"},
		"a certificate":                {data: certificate, err: `a PEM block of type "CERTIFICATE", want CERTIFICATE REQUEST`},
		"a type without end":           {data: block(strings.Repeat("X", 3_000), nil), err: `…", want CERTIFICATE REQUEST`},
		"garbage":                      {data: block("CERTIFICATE REQUEST", []byte("garbage")), err: "is not a PKCS #10 certificate"},
		"much text around it":          {data: around(servingRequest, 64<<10)},
		"too much text around it":      {data: around(servingRequest, 64<<10+1), err: "or 65536 with what is around them"},
		"larger than is read":          {data: block("CERTIFICATE REQUEST", make([]byte, csr.MaxRequestBytes)), err: "larger than what is read: 4096"},
		"a type larger than is read":   {data: block(strings.Repeat("X", csr.MaxRequestBytes+1), nil), err: "larger than what is read"},
		"a hundred IPv6 addresses":     {data: pkitest.Request(pkitest.Node("node-1"), pkitest.IPAddresses(many(100, "2001:db8::%x")...))},
		"the type OpenSSL once wrote":  {data: block("NEW CERTIFICATE REQUEST", nil), err: "want CERTIFICATE REQUEST"},
		"more after the DER structure": {data: block("CERTIFICATE REQUEST", append(der(servingRequest), 0)), err: "trailing data"},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := csr.Parse(tc.data)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || len(err.Error()) > 512 {
					t.Fatalf("got error %v, want a short one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(nodeUser, parsed.Subject.CommonName); diff != "" {
				t.Errorf("common name (-want +got):\n%s", diff)
			}
		})
	}
}

// around adds text before and after the data, so that it has that many bytes.
func around(data []byte, size int) []byte {
	before := bytes.Repeat([]byte("a\n"), 10_000)
	return slices.Concat(before, data, bytes.Repeat([]byte("z"), size-len(before)-len(data)))
}

// many are so many numbered texts.
func many(n int, format string) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf(format, i)
	}
	return texts
}

func block(kind string, content []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
}

func der(data []byte) []byte {
	decoded, _ := pem.Decode(data)
	return decoded.Bytes
}

func TestNodeName(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	commonName := func(name string) []byte { return pkitest.Request(pkitest.CommonName(name)) }
	for name, tc := range map[string]struct {
		req  builder
		want string
	}{
		"a node for itself":                {request("csr", 0), "node-1"},
		"a node with a bad request":        {request("csr", 0).PEM([]byte("hello")), "node-1"},
		"a node in another node's name":    {request("csr", 0).User("system:node:node-2"), "node-2"},
		"a bootstrap token":                {request("csr", 0).User(bootstrapUser).Client(), "node-1"},
		"a cloud's bootstrap identity":     {request("csr", 0).User("aksService").Client(), "node-1"},
		"a stranger's serving request":     {request("csr", 0).User(bootstrapUser), ""},
		"a bootstrap token's bad request":  {request("csr", 0).User(bootstrapUser).Client().PEM([]byte("hello")), ""},
		"another common name":              {request("csr", 0).User(bootstrapUser).Client().PEM(commonName("admin")), ""},
		"a common name without a node":     {request("csr", 0).User(bootstrapUser).Client().PEM(commonName("system:node:")), ""},
		"a user name without a node":       {request("csr", 0).User("system:node:"), ""},
		"no Node can be called that":       {request("csr", 0).User(bootstrapUser).Client().PEM(commonName("system:node:../a b")), ""},
		"no Node's name is that long":      {request("csr", 0).User(bootstrapUser).Client().PEM(commonName(nodeUser + long)), ""},
		"the longest name":                 {request("csr", 0).User("system:node:" + long[:253]), long[:253]},
		"a service account's node request": {request("csr", 0).User("system:serviceaccount:a:b").Client(), "node-1"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, csr.NodeName(tc.req.Obj())); diff != "" {
				t.Errorf("NodeName() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStageAndDecision(t *testing.T) {
	status := func(b builder, status corev1.ConditionStatus) builder {
		for i := range b.Status.Conditions {
			b.Status.Conditions[i].Status = status
		}
		return b
	}
	untimed := func(b builder) builder {
		for i := range b.Status.Conditions {
			b.Status.Conditions[i].LastUpdateTime = metav1.Time{}
		}
		return b
	}
	transition := untimed(request("csr", 1).Denied(5))
	transition.Status.Conditions[0].LastTransitionTime = metav1.NewTime(at(7))

	type result struct {
		Stage           v1alpha1.SigningStage
		Decided         time.Time
		Reason, Message string
	}
	for name, tc := range map[string]struct {
		req  builder
		want result
	}{
		"pending":  {request("csr", 1), result{Stage: v1alpha1.StagePending}},
		"approved": {request("csr", 1).Approved(5), result{Stage: v1alpha1.StageApproved, Decided: at(5)}},
		"issued":   {request("csr", 1).Issued(5), result{Stage: v1alpha1.StageIssued, Decided: at(5)}},
		"denied": {
			request("csr", 1).Denied(5),
			result{Stage: v1alpha1.StageDenied, Decided: at(5), Reason: "NotAllowed", Message: "node-1 may not"},
		},
		"failed": {
			request("csr", 1).Approved(5).Failed(6),
			result{Stage: v1alpha1.StageFailed, Decided: at(6), Reason: "SignerValidationFailure", Message: "bad usages"},
		},
		"failed beside a certificate": {
			request("csr", 1).Issued(5).Failed(6),
			result{Stage: v1alpha1.StageFailed, Decided: at(6), Reason: "SignerValidationFailure", Message: "bad usages"},
		},
		"denied beside everything": {
			request("csr", 1).Issued(5).Failed(6).Denied(7),
			result{Stage: v1alpha1.StageDenied, Decided: at(7), Reason: "NotAllowed", Message: "node-1 may not"},
		},
		"a certificate that nobody approved": {request("csr", 1).Certificate(certificate), result{Stage: v1alpha1.StagePending}},
		"conditions without a status": {
			status(request("csr", 1).Approved(5), ""), result{Stage: v1alpha1.StageApproved, Decided: at(5)},
		},
		"two conditions of one type: the first": {
			request("csr", 1).Condition(certificatesv1.CertificateDenied, 4, "First", "").Denied(5),
			result{Stage: v1alpha1.StageDenied, Decided: at(4), Reason: "First"},
		},
		"a condition of an unknown type": {request("csr", 1).Condition("Odd", 3, "", ""), result{Stage: v1alpha1.StagePending}},
		"no update time": {
			transition, result{Stage: v1alpha1.StageDenied, Decided: at(7), Reason: "NotAllowed", Message: "node-1 may not"},
		},
		"no time at all": {untimed(request("csr", 1).Approved(5)), result{Stage: v1alpha1.StageApproved, Decided: at(1)}},
		"reason and message without end": {
			request("csr", 1).Condition(certificatesv1.CertificateDenied, 5, strings.Repeat("é", 4000), "\xff"+strings.Repeat("é", 511)),
			result{
				Stage: v1alpha1.StageDenied, Decided: at(5),
				Reason: strings.Repeat("é", 127) + "…", Message: "\uFFFD" + strings.Repeat("é", 511),
			},
		},
		"a message for the terminal": {
			request("csr", 1).Condition(certificatesv1.CertificateDenied, 5, "No", "\x1b[2Jall\nis \u202ewell"),
			result{Stage: v1alpha1.StageDenied, Decided: at(5), Reason: "No", Message: "\uFFFD[2Jall is \uFFFDwell"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := tc.req.Obj()
			got := result{Stage: csr.Stage(req), Decided: csr.Decided(req)}
			got.Reason, got.Message = csr.Refusal(req)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIssued(t *testing.T) {
	const damaged = "-----BEGIN CERTIFICATE-----\nM!\n-----END CERTIFICATE-----\n"
	leaf := clusterCA.SignRequest(servingRequest, pkitest.Lifetime(at(0), at(60)))
	approved := func(data ...[]byte) builder {
		return request("csr", 1).Approved(2).Certificate(slices.Concat(data...))
	}
	for name, tc := range map[string]struct {
		req  builder
		none bool
		err  string
	}{
		"one certificate":          {req: approved(leaf.PEM())},
		"a chain":                  {req: approved(leaf.PEM(), clusterCA.PEM())},
		"text around":              {req: approved([]byte("text\n"), leaf.PEM(), []byte("text\n"))},
		"none yet":                 {req: approved(), none: true},
		"pending":                  {req: request("csr", 1), none: true},
		"failed":                   {req: request("csr", 1).Issued(2).Failed(3), none: true},
		"not PEM":                  {req: approved([]byte("hello")), err: `"csr": status.certificate: PEM data has no`},
		"a request":                {req: approved(servingRequest), err: `want CERTIFICATE`},
		"a damaged block, a chain": {req: approved([]byte(damaged), leaf.PEM()), err: "PEM block 1 is broken"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := csr.Issued(tc.req.Obj())
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want %q in it", err, tc.err)
				}
			case err != nil:
				t.Fatal(err)
			case tc.none:
				if cert != nil {
					t.Errorf("got certificate %s, want none", cert.Subject)
				}
			case !cert.Equal(leaf.X509):
				t.Errorf("got certificate %s, want %s", cert.Subject, leaf.X509.Subject)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	const (
		signature, encipherment = certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment
		server, client          = certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth
	)
	serving := func(options ...pkitest.Option) builder {
		return request("csr", 0).PEM(pkitest.Request(append([]pkitest.Option{pkitest.Node("node-1")}, options...)...))
	}
	forClient := func(options ...pkitest.Option) builder {
		return serving(options...).clientKeepingPEM()
	}
	ip := pkitest.IPAddresses("10.0.0.1")

	for name, tc := range map[string]struct {
		req  builder
		want string
	}{
		"serving":                        {request("csr", 0), ""},
		"serving, with key encipherment": {request("csr", 0).Usages(encipherment, server, signature), ""},
		"serving, a DNS name only":       {serving(pkitest.DNSNames("node-1")), ""},
		"serving, a usage twice":         {request("csr", 0).Usages(server, signature, server), ""},
		"serving, by a bootstrap token":  {request("csr", 0).User(bootstrapUser), ""},
		"client":                         {request("csr", 0).Client(), ""},
		"client, with key encipherment":  {request("csr", 0).Client().Usages(encipherment, client, signature), ""},
		"client, by a bootstrap token":   {request("csr", 0).Client().User(bootstrapUser), ""},
		"another signer":                 {another(request("csr", 0).PEM([]byte("hello"))), ""},
		"serving, no subject alternative name": {
			serving(), "there is no DNS name and no IP address among the subject alternative names, want at least one",
		},
		"serving, email and URI names": {
			serving(ip, pkitest.EmailAddresses("a@example.com"), pkitest.URIs("spiffe://a/b")),
			"email subject alternative names are not allowed; URI subject alternative names are not allowed",
		},
		"client, every kind of name": {
			forClient(ip, pkitest.DNSNames("a"), pkitest.EmailAddresses("a@example.com"), pkitest.URIs("spiffe://a/b")),
			"DNS subject alternative names are not allowed; email subject alternative names are not allowed; " +
				"IP subject alternative names are not allowed; URI subject alternative names are not allowed",
		},
		"no organization": {serving(ip, pkitest.Organization()), "subject organization is empty, want exactly system:nodes"},
		"an organization more": {
			serving(ip, pkitest.Organization("system:nodes", "system:masters")),
			`subject organization is "system:nodes", "system:masters", want exactly system:nodes`,
		},
		"not a node's name": {
			serving(ip, pkitest.CommonName("admin")).User(bootstrapUser),
			`subject common name is "admin", want system:node:<node name>`,
		},
		"another node's name": {
			request("csr", 0).User("system:node:node-2"),
			`subject common name is "system:node:node-1", but "system:node:node-2" asks for it: a node may ask for itself only`,
		},
		"serving, for clients": {
			request("csr", 0).Usages(signature, client),
			`usages are "digital signature", "client auth", want "digital signature" and "server auth", ` +
				`and at most "key encipherment" besides`,
		},
		"serving, for clients too": {
			request("csr", 0).Usages(signature, server, client),
			`usages are "digital signature", "server auth", "client auth", want "digital signature" and "server auth", ` +
				`and at most "key encipherment" besides`,
		},
		"client, no signature": {
			request("csr", 0).Client().Usages(client),
			`usages are "client auth", want "digital signature" and "client auth", and at most "key encipherment" besides`,
		},
		"no usage": {
			request("csr", 0).Usages(),
			`usages are empty, want "digital signature" and "server auth", and at most "key encipherment" besides`,
		},
		"not a request": {request("csr", 0).PEM([]byte("hello")), "spec.request holds no PEM block"},
		"too many usages": {
			request("csr", 0).Usages(slices.Repeat([]certificatesv1.KeyUsage{client}, 100)...),
			`usages are "client auth", "client auth", "client auth", "client auth", "client auth", and 95 more, ` +
				`want "digital signature" and "server auth", and at most "key encipherment" besides`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, csr.Malformed(tc.req.Obj())); diff != "" {
				t.Errorf("Malformed() (-want +got):\n%s", diff)
			}
		})
	}
}

func (b builder) clientKeepingPEM() builder {
	data := b.Spec.Request
	return b.Client().PEM(data)
}

func another(b builder) builder {
	b.Spec.SignerName = "example.com/other"
	return b
}

func TestMalformedIsBounded(t *testing.T) {
	hostile := strings.Repeat("evil\n", 100)
	req := request("csr", 0).PEM(pkitest.Request(
		pkitest.CommonName(hostile), pkitest.Organization(slices.Repeat([]string{hostile}, 4)...)))
	got := csr.Malformed(req.Obj())
	if n := utf8.RuneCountInString(got); n > 512 || strings.Contains(got, "\n") || !strings.HasSuffix(got, "…") {
		t.Errorf("got %d characters: %q", n, got)
	}
}

// FuzzParse looks for a request that makes the parser, or what is made of its result, panic or say more than it may.
func FuzzParse(f *testing.F) {
	f.Add(servingRequest)
	f.Add(clientRequest)
	f.Add(certificate)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add(around(servingRequest, 64<<10))
	f.Add([]byte("larger than what is read"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := csr.Parse(data)
		if (parsed == nil) == (err == nil) || err != nil && len(err.Error()) > 1024 {
			t.Errorf("got %v and error %v", parsed, err)
		}
		req := request("csr", 0).PEM(data).Obj()
		if err != nil && csr.Malformed(req) == "" {
			t.Errorf("not malformed, but: %v", err)
		}
		kept := csr.ReadOf(req).Request
		if _, again := csr.Parse(kept); (again == nil) != (err == nil) || len(kept) > 2*csr.MaxRequestBytes {
			t.Errorf("%d bytes are kept, of which is said: %v; of all: %v", len(kept), again, err)
		}
	})
}

// FuzzMalformed looks for a request whose DER encoding, or whose user, gets a node's name or a message out of bounds.
func FuzzMalformed(f *testing.F) {
	f.Add(der(servingRequest), nodeUser, "server auth")
	f.Add(der(clientRequest), bootstrapUser, "client auth")
	f.Add(der(pkitest.Request(pkitest.Node("../../etc"), pkitest.URIs("spiffe://a/b"))), "aksService", "")
	f.Fuzz(func(t *testing.T, content []byte, user, usage string) {
		for _, b := range []builder{request("csr", 0), request("csr", 0).Client()} {
			b = b.PEM(block("CERTIFICATE REQUEST", content)).User(user)
			req := b.Usages(certificatesv1.KeyUsage(usage), certificatesv1.UsageDigitalSignature).Obj()
			malformed := csr.Malformed(req)
			if utf8.RuneCountInString(malformed) > 512 || !utf8.ValidString(malformed) {
				t.Errorf("Malformed() is out of bounds: %q", malformed)
			}
			checkNodeName(t, req)
		}
	})
}

// FuzzNodeName looks for a node's name that no Node can have, or that is not the user's.
func FuzzNodeName(f *testing.F) {
	f.Add(nodeUser, servingRequest)
	f.Add(bootstrapUser, servingRequest)
	f.Add("system:node:A", clientRequest)
	f.Add("system:node:", []byte("hello"))
	f.Fuzz(func(t *testing.T, user string, data []byte) {
		checkNodeName(t, request("csr", 0).User(user).PEM(data).Obj())
	})
}

func checkNodeName(t *testing.T, req *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	name := csr.NodeName(req)
	if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		t.Errorf("NodeName() is %q", name)
	}
	if own, ok := strings.CutPrefix(req.Spec.Username, "system:node:"); ok && name != "" && name != own {
		t.Errorf("NodeName() is %q for user %q", name, req.Spec.Username)
	}
}

func BenchmarkNodeName(b *testing.B) {
	for name, req := range map[string]*certificatesv1.CertificateSigningRequest{
		"Node":           request("csr", 0).Obj(),
		"BootstrapToken": request("csr", 0).Client().User(bootstrapUser).Obj(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if csr.NodeName(req) == "" {
					b.Fatal("no name")
				}
			}
		})
	}
}
