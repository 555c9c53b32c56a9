// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/csr"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func (b builder) Groups(groups ...string) builder {
	b.Spec.Groups = groups
	return b
}

func (b builder) Expiration(seconds int32) builder {
	b.Spec.ExpirationSeconds = &seconds
	return b
}

// Asking replaces the names that the request asks for; changes are applied after.
func (b builder) Asking(names []string, addresses []string, changes ...pkitest.Option) builder {
	return b.PEM(pkitest.Request(slices.Concat([]pkitest.Option{
		pkitest.Node("node-1"), pkitest.DNSNames(names...), pkitest.IPAddresses(addresses...),
	}, changes)...))
}

// node is a Node with these addresses; those that are no IP address are DNS names.
func node(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, address := range addresses {
		kind := corev1.NodeInternalDNS
		if _, err := netip.ParseAddr(address); err == nil {
			kind = corev1.NodeInternalIP
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: address})
	}
	return n
}

// spec is a policy's that approves requests for 10.0.0.0/8.
func spec(changes ...func(*v1alpha1.SigningRequestApprovalSpec)) *v1alpha1.CertificatePolicySpec {
	s := &v1alpha1.SigningRequestApprovalSpec{
		Mode: v1alpha1.ApprovalApprove, AllowedIPRanges: []v1alpha1.IPRange{"10.0.0.0/8", "2001:db8::/32"},
	}
	for _, change := range changes {
		change(s)
	}
	return &v1alpha1.CertificatePolicySpec{SigningRequestApproval: s}
}

func rules(policy string, changes ...func(*v1alpha1.SigningRequestApprovalSpec)) *csr.Rules {
	return csr.CompileRules(policy, spec(changes...))
}

func denying(s *v1alpha1.SigningRequestApprovalSpec)   { s.OnViolation = v1alpha1.ViolationDeny }
func observing(s *v1alpha1.SigningRequestApprovalSpec) { s.Mode = v1alpha1.ApprovalObserve }
func resolving(s *v1alpha1.SigningRequestApprovalSpec) {
	s.DNSResolution = v1alpha1.DNSResolutionRequired
}

func ranges(prefixes ...v1alpha1.IPRange) func(*v1alpha1.SigningRequestApprovalSpec) {
	return func(s *v1alpha1.SigningRequestApprovalSpec) { s.AllowedIPRanges = prefixes }
}

func suffixes(all ...v1alpha1.DNSSuffix) func(*v1alpha1.SigningRequestApprovalSpec) {
	return func(s *v1alpha1.SigningRequestApprovalSpec) { s.AllowedDNSSuffixes = all }
}

// decisionInput is that of a request two minutes after the first was filed, with the policy workers and the Node node-1.
func decisionInput(req *certificatesv1.CertificateSigningRequest) csr.DecisionInput {
	in := csr.DecisionInput{
		Request: req, Siblings: []*certificatesv1.CertificateSigningRequest{req}, Rules: []*csr.Rules{rules("workers")}, Now: at(2),
	}
	return withNodes(in, node("node-1", "node-1", "node-1.example.com", "10.0.0.1", "10.0.0.7", "2001:db8::1"))
}

// withNodes makes the first Node the request's, in a cluster with all of them.
func withNodes(in csr.DecisionInput, nodes ...*corev1.Node) csr.DecisionInput {
	owners := map[string][]string{}
	for _, n := range nodes {
		for _, address := range csr.NodeAddresses(n) {
			owners[address] = append(owners[address], n.Name)
		}
	}
	in.Node, in.Owners = nodes[0], func(address string) []string { return owners[address] }
	return in
}

// decisionCase is a request, what is else known, and the decision.
type decisionCase struct {
	req    builder
	change func(*csr.DecisionInput)
	want   csr.Decision
	// message is a part of the decision's message.
	message string
}

func run(t *testing.T, cases map[string]decisionCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := decisionInput(tc.req.Obj())
			if tc.change != nil {
				tc.change(&in)
			}
			got := csr.Decide(in)
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(csr.Decision{}, "Message")); diff != "" {
				t.Errorf("decision (-want +got):\n%s%s", diff, got.Message)
			}
			if !strings.Contains(got.Message, tc.message) || got.Message == "" {
				t.Errorf("message %q, want one with %q", got.Message, tc.message)
			}
		})
	}
}

// under is a change of the policies.
func under(all ...*csr.Rules) func(*csr.DecisionInput) {
	return func(in *csr.DecisionInput) { in.Rules = all }
}

// beside adds requests of the same node.
func beside(siblings ...builder) func(*csr.DecisionInput) {
	return func(in *csr.DecisionInput) { in.Siblings = append(in.Siblings, objects(siblings)...) }
}

var (
	approved = csr.Decision{Verdict: csr.Approve, Reason: csr.ReasonKeepsRules}
	workers  = []string{"workers"}
	own      = []string{"node-1"}
	ownIP    = []string{"10.0.0.1"}
)

// left is the decision on a request that breaks a rule of these policies, none of which denies.
func left(reason csr.Reason, by ...string) csr.Decision {
	return csr.Decision{Verdict: csr.NoOpinion, Reason: reason, Violated: true, By: by}
}

// doubted is the decision on a request that may yet turn out to be right.
func doubted(reason csr.Reason, by ...string) csr.Decision {
	return csr.Decision{Verdict: csr.NoOpinion, Reason: reason, Violated: true, By: by, Until: at(3)}
}

// contestedBy is the doubt about an address that another Node has as well.
func contestedBy(rival string) csr.Decision {
	d := doubted(csr.ReasonAddressContested, workers...)
	d.Rival = rival
	return d
}

func silent(verdict csr.Verdict, reason csr.Reason) csr.Decision {
	return csr.Decision{Verdict: verdict, Reason: reason}
}

func TestDecideApproves(t *testing.T) {
	mapped := asn1.RawValue{Tag: 7, Bytes: netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()}
	run(t, map[string]decisionCase{
		"what kubelets ask": {req: request("csr-1", 0).Asking(own, ownIP), want: approved, message: "CertificatePolicy workers"},
		"addresses only": {
			req: request("csr-1", 0).Asking(nil, []string{"10.0.0.1", "10.0.0.7", "2001:db8::1"}), want: approved,
		},
		"the Node's name only":  {req: request("csr-1", 0).Asking(own, nil), want: approved},
		"the name in capitals":  {req: request("csr-1", 0).Asking([]string{"NODE-1."}, nil), want: approved},
		"an IPv4 address as v6": {req: request("csr-1", 0).Asking(nil, nil, withNames(mapped)), want: approved},
		"key encipherment":      {req: request("csr-1", 0).Asking(own, ownIP).Usages(rsaUsages...), want: approved},
		"what a suffix allows": {
			req: request("csr-1", 0).Asking([]string{"node-1.example.com"}, ownIP), want: approved,
			change: under(rules("workers", suffixes("example.org", "example.com"))),
		},
		"a lifetime": {
			req: request("csr-1", 0).Asking(own, ownIP).Expiration(3600), want: approved,
			change: under(rules("workers", lasting(time.Hour))),
		},
		"when all agree": {
			req: request("csr-1", 0).Asking(own, ownIP), want: approved, change: under(rules("b"), nil, rules("a")),
			message: "CertificatePolicy a, b",
		},
		"loopback, if told to": {
			req: request("csr-1", 0).Asking(nil, []string{"127.0.0.9"}), want: approved,
			change: loopback(rules("workers", ranges("127.0.0.0/8"))),
		},
		"the newest of a second": {req: request("csr-1", 0).Asking(own, ownIP), want: approved, change: beside(request("csr-0", 0))},
		"after a denied one": {
			req: request("csr-1", 0).Asking(own, ownIP), want: approved, change: beside(request("csr-2", 1).Denied(1)),
		},
		"after an issued one": {
			req: request("csr-1", 1).Asking(own, ownIP), want: approved, change: beside(request("csr-0", 0).Issued(1)),
		},
		"beside a stuck one": {
			req: request("csr-1", 1).Asking(own, ownIP), want: approved, change: beside(request("csr-0", -9).Approved(0)),
		},
	})
}

var rsaUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageKeyEncipherment, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth,
}

func lasting(limit time.Duration) func(*v1alpha1.SigningRequestApprovalSpec) {
	return func(s *v1alpha1.SigningRequestApprovalSpec) { s.MaximumDuration = &metav1.Duration{Duration: limit} }
}

func loopback(r *csr.Rules) func(*csr.DecisionInput) {
	return func(in *csr.DecisionInput) {
		*in = withNodes(*in, node("node-1", "127.0.0.9"))
		in.Rules = []*csr.Rules{r}
	}
}

func TestDecideIsNotConcerned(t *testing.T) {
	asking := request("csr-1", 0).Asking(own, ownIP)
	run(t, map[string]decisionCase{
		"a client certificate": {
			req: request("csr-1", 0).Client(), want: silent(csr.NoOpinion, csr.ReasonNotServing),
			change: under(rules("workers", denying)),
		},
		"another signer": {req: another(request("csr-1", 0)), want: silent(csr.NoOpinion, csr.ReasonNotServing)},
		"approved": {
			req: request("csr-1", 0).Asking(own, ownIP).Approved(1), want: silent(csr.NoOpinion, csr.ReasonDecided),
		},
		"denied": {
			req: request("csr-1", 0).Asking(own, ownIP).Denied(1), want: silent(csr.NoOpinion, csr.ReasonDecided),
		},
		"a certificate": {
			req:  request("csr-1", 0).Asking(own, ownIP).Certificate(certificate),
			want: silent(csr.NoOpinion, csr.ReasonDecided),
		},
		"a stranger's": {
			req: request("csr-1", 0).Asking(own, ownIP).User(bootstrapUser), want: silent(csr.NoOpinion, csr.ReasonNotOfNode),
			message: bootstrapUser,
		},
		"without a policy": {req: asking, want: silent(csr.NoOpinion, csr.ReasonNoPolicy), change: under()},
		"with nobody's say": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonNoPolicy),
			change: under(nil, csr.CompileRules("a", &v1alpha1.CertificatePolicySpec{})),
		},
		"an older request": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonSuperseded), change: beside(request("csr-2", 1)),
			message: "csr-2",
		},
		"one of two at once": {req: asking, want: silent(csr.NoOpinion, csr.ReasonSuperseded), change: beside(request("csr-2", 0))},
		"a newer one approved": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonSuperseded), change: beside(request("csr-0", 1).Approved(1)),
		},
		"a newer one issued": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonSuperseded), change: beside(request("csr-0", 1).Issued(1)),
		},
		"no Node for long": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonNodeNotFound),
			change: func(in *csr.DecisionInput) { in.Node = nil },
		},
		"a Node that came a while after": {
			req: asking, want: approved,
			change: func(in *csr.DecisionInput) { in.Node.CreationTimestamp, in.Now = metav1.NewTime(at(15)), at(16) },
		},
		"a Node that came when nobody waited any more": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonOfPredecessor),
			change: func(in *csr.DecisionInput) { in.Node.CreationTimestamp, in.Now = metav1.NewTime(at(16)), at(17) },
		},
		"another Node": {
			req: asking, want: silent(csr.NoOpinion, csr.ReasonNodeNotFound),
			change: func(in *csr.DecisionInput) { in.Node = node("node-2", "10.0.0.1") },
		},
	})
}

func TestDecideWaits(t *testing.T) {
	young := func(change func(*csr.DecisionInput)) func(*csr.DecisionInput) {
		return func(in *csr.DecisionInput) {
			in.Now = at(0).Add(30 * time.Second)
			change(in)
		}
	}
	wait := func(reason csr.Reason, until time.Time, by ...string) csr.Decision {
		return csr.Decision{Verdict: csr.Wait, Reason: reason, Until: until, By: by}
	}
	contestedWait := wait(csr.ReasonAddressContested, at(1), "workers")
	contestedWait.Rival = "node-2"
	exhausted := wait(csr.ReasonTooManyDecisions, at(60), "workers")
	exhausted.Violated = true
	run(t, map[string]decisionCase{
		"for the Node": {
			req: request("csr-1", 0).Asking(own, ownIP), want: wait(csr.ReasonNodeNotFound, at(1)),
			change: young(func(in *csr.DecisionInput) { in.Node = nil }),
		},
		"for the Node's new address": {req: request("csr-1", 0).Asking(own, []string{"10.0.0.9"}),
			want: wait(csr.ReasonAddressNotOfNode, at(1), "workers"), change: young(under(rules("workers", denying)))},
		"for another Node to go": {req: request("csr-1", 0).Asking(own, ownIP),
			want: contestedWait, change: young(contested)},
		"for DNS": {req: request("csr-1", 0).Asking(own, ownIP), want: wait(csr.ReasonNameNotResolved, at(1), "workers"),
			change: young(answering(map[string]csr.Answer{"node-1": {Failure: "timed out"}}))},
		"for the flood to end": {
			req: request("csr-1", 0).Asking(own, ownIP), want: silent(csr.Wait, csr.ReasonSuspended), change: suspended,
		},
		"for the certificate of an earlier request": {req: request("csr-1", 1).Asking(own, ownIP),
			want: wait(csr.ReasonEarlierApproval, at(3)), change: beside(request("csr-0", 0).Approved(1)), message: "csr-0"},
		"for the hour to end": {req: request("csr-9", 2).Asking(own, ownIP), want: exhausted, change: func(in *csr.DecisionInput) {
			beside(request("csr-0", -100).Issued(-70), request("csr-3", -40).Issued(-30), request("csr-1", 0).Issued(0), request("csr-2", 0).Denied(1))(in)
			in.Rules = []*csr.Rules{rules("workers", deciding(2)), rules("zones", deciding(4))}
		}},
	})
}

func deciding(limit int32) func(*v1alpha1.SigningRequestApprovalSpec) {
	return func(s *v1alpha1.SigningRequestApprovalSpec) { s.MaximumDecisionsPerNode = limit }
}

func contested(in *csr.DecisionInput) { *in = withNodes(*in, in.Node, node("node-2", "10.0.0.1")) }

func suspended(in *csr.DecisionInput) { in.Suspended = true }

// answering has one policy that requires resolution and denies, and these answers.
func answering(answers map[string]csr.Answer) func(*csr.DecisionInput) {
	return func(in *csr.DecisionInput) {
		in.Rules, in.Answers = []*csr.Rules{rules("workers", resolving, denying, suffixes("example.com"))}, answers
	}
}

func TestDecideRefusesContents(t *testing.T) {
	directoryName := asn1.RawValue{Tag: 4, IsCompound: true, Bytes: []byte{48, 0}}
	extension := func(id ...int) pkitest.Option {
		return pkitest.Template(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: []byte{5, 0}})
		})
	}
	commonName, unit := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 11}
	attribute := func(id asn1.ObjectIdentifier, value string) pkitest.Option {
		return pkitest.Template(func(c *x509.Certificate) {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: id, Value: value})
		})
	}
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.1.%d", i%256)
	}
	asking := func(changes ...pkitest.Option) builder { return request("csr-1", 0).Asking(own, ownIP, changes...) }
	run(t, map[string]decisionCase{
		"not in the group": {
			req: asking().Groups("system:authenticated"), want: left(csr.ReasonNotInGroup, workers...),
			message: "the group system:nodes",
		},
		"not PEM": {
			req: asking().PEM([]byte("hello")), want: left(csr.ReasonSignerRules, workers...), message: "no PEM block",
		},
		"too large": {
			req: asking().PEM(block("CERTIFICATE REQUEST", make([]byte, csr.MaxRequestBytes))), want: left(csr.ReasonSignerRules, workers...),
			message: "larger than",
		},
		"another common name": {req: asking(pkitest.CommonName("system:node:node-2")), want: left(csr.ReasonSignerRules, workers...),
			message: `"system:node:node-1" asks for it`},
		"another organization": {
			req: asking(pkitest.Organization("system:masters")), want: left(csr.ReasonSignerRules, workers...),
			message: "system:masters",
		},
		"two organizations": {
			req: asking(pkitest.Organization("system:nodes", "system:masters")), want: left(csr.ReasonSignerRules, workers...),
		},
		"no names": {
			req: request("csr-1", 0).Asking(nil, nil), want: left(csr.ReasonSignerRules, workers...),
			message: "want at least one",
		},
		"an e-mail address": {
			req: asking(pkitest.EmailAddresses("a@b")), want: left(csr.ReasonSignerRules, workers...), message: "email",
		},
		"a URI": {
			req: asking(pkitest.URIs("spiffe://a/b")), want: left(csr.ReasonSignerRules, workers...), message: "URI",
		},
		"client auth": {
			req:  asking().Usages(certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth),
			want: left(csr.ReasonSignerRules, workers...), message: "client auth",
		},
		"client auth as well": {
			req:  asking().Usages(append(rsaUsages, certificatesv1.UsageClientAuth)...),
			want: left(csr.ReasonSignerRules, workers...),
		},
		"to be a CA": {
			req: asking(extension(2, 5, 29, 19)), want: left(csr.ReasonUnexpectedContent, workers...),
			message: "extension 2.5.29.19",
		},
		"another unit": {
			req: asking(attribute(unit, "admin")), want: left(csr.ReasonUnexpectedContent, workers...),
			message: "attribute 2.5.4.11",
		},
		"a second common name": {
			req:  asking(attribute(commonName, nodeUser), attribute(commonName, nodeUser)),
			want: left(csr.ReasonUnexpectedContent, workers...), message: "has 3 attributes",
		},
		"a directory name": {
			req: asking(withNames(asn1.RawValue{Tag: 2, Bytes: []byte("node-1")}, directoryName)), want: left(csr.ReasonUnexpectedContent, workers...),
			message: "other kinds than DNS and IP",
		},
		"many names": {
			req: request("csr-1", 0).Asking(own, many), want: left(csr.ReasonTooManyNames, workers...), message: "258",
		},
		"a wildcard": {
			req: request("csr-1", 0).Asking([]string{"*.example.com"}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
			message: `"*.example.com" is not`,
		},
		"an empty name": {
			req: request("csr-1", 0).Asking([]string{""}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"an address as a name": {
			req: request("csr-1", 0).Asking([]string{"10.0.0.1"}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
			message: "is an IP address",
		},
		"localhost": {
			req: request("csr-1", 0).Asking([]string{"localhost"}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"below localhost": {
			req:  request("csr-1", 0).Asking([]string{"node-1.localhost"}, nil),
			want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"the API server": {
			req:  request("csr-1", 0).Asking([]string{"Kubernetes.default.svc."}, nil),
			want: left(csr.ReasonNameNeverAllowed, workers...), message: "is the API server's",
		},
		"the API server, short": {
			req: request("csr-1", 0).Asking([]string{"kubernetes"}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"a Node of that name": {
			req: request("csr-1", 0).User("system:node:kubernetes").PEM(pkitest.Request(
				pkitest.Node("kubernetes"), pkitest.DNSNames("kubernetes"))),
			change: func(in *csr.DecisionInput) { *in = withNodes(*in, node("kubernetes", "kubernetes")) },
			want:   left(csr.ReasonNameNeverAllowed, workers...),
		},
		"a Service": {
			req:  request("csr-1", 0).Asking([]string{"web.shop.svc.cluster.local"}, nil),
			want: left(csr.ReasonNameNeverAllowed, workers...), message: "a Service's or a Pod's name",
		},
		"a Service, short": {
			req: request("csr-1", 0).Asking([]string{"web.shop.svc"}, nil), want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"a Pod of a Service": {
			req:  request("csr-1", 0).Asking([]string{"web-0.web.shop.svc"}, nil),
			want: left(csr.ReasonNameNeverAllowed, workers...),
		},
		"a Pod": {
			req:    request("csr-1", 0).Asking([]string{"10-0-0-1.default.pod.cluster.local"}, nil),
			change: under(rules("workers", suffixes("cluster.local", "pod.cluster.local"))),
			want:   left(csr.ReasonNameNeverAllowed, workers...), message: "a Pod's name",
		},
		"a Service, whatever the suffixes": {
			req:    request("csr-1", 0).Asking([]string{"web.shop.svc.cluster.local"}, nil),
			change: under(rules("workers", suffixes("svc.cluster.local", "shop.svc.cluster.local"))),
			want:   left(csr.ReasonNameNeverAllowed, workers...),
		},
	})
}

// Whoever has a bootstrap token chooses the name of his Node, which is then its own.
func TestDecideByTheNodesOwnName(t *testing.T) {
	named := func(name string) builder {
		return request("csr-1", 0).User("system:node:" + name).PEM(pkitest.Request(pkitest.Node(name), pkitest.DNSNames(name)))
	}
	inCluster := func(name string, allowed ...v1alpha1.DNSSuffix) func(*csr.DecisionInput) {
		return func(in *csr.DecisionInput) {
			*in = withNodes(*in, node(name, name))
			in.Rules = []*csr.Rules{rules("workers", suffixes(allowed...))}
		}
	}
	cases := map[string]decisionCase{
		"of one label": {req: named("node-1"), change: inCluster("node-1"), want: approved},
		"in a zone of nodes": {
			req: named("ip-10-0-0-1.ec2.internal"), change: inCluster("ip-10-0-0-1.ec2.internal", "ec2.internal"), want: approved,
		},
		"in a zone with a label svc, if the policy says so": {
			req: named("host.dc1.svc.example.com"), change: inCluster("host.dc1.svc.example.com", "dc1.svc.example.com"), want: approved,
		},
		"in a zone that may be of Services": {
			req: named("host.dc1.svc.example.com"), change: inCluster("host.dc1.svc.example.com", "example.com"),
			want: left(csr.ReasonNameNotAllowed, workers...),
		},
	}
	for _, name := range []string{
		"k8s.example.com", "vault.vault", "metrics-server.kube-system", "10-0-0-1.default.pod.k8s.example", "ip-10-0-0-1.ec2.internal",
	} {
		cases[name] = decisionCase{
			req: named(name), change: inCluster(name, "nodes.example.com"), want: left(csr.ReasonNameNotAllowed, workers...), message: name,
		}
	}
	run(t, cases)
}

// withNames replaces the subject alternative names by what Go writes no request with.
func withNames(values ...asn1.RawValue) pkitest.Option {
	for i := range values {
		values[i].Class = asn1.ClassContextSpecific
	}
	names, err := asn1.Marshal(values)
	if err != nil {
		panic(err)
	}
	return pkitest.Template(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}
	})
}

func TestDecideRefusesKeys(t *testing.T) {
	modulus := func(bits uint) *big.Int { return new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1) }
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	refused := left(csr.ReasonKeyNotAllowed, workers...)
	run(t, map[string]decisionCase{
		"RSA 2047": {
			req: withKey(t, &rsa.PublicKey{N: modulus(2047), E: 65537}), want: refused, message: "RSA with 2047 bits",
		},
		"RSA 2048": {req: withKey(t, &rsa.PublicKey{N: modulus(2048), E: 65537}), want: approved},
		"RSA 8192": {req: withKey(t, &rsa.PublicKey{N: modulus(8192), E: 3}), want: approved},
		"RSA 8193": {
			req: withKey(t, &rsa.PublicKey{N: modulus(8193), E: 65537}), want: refused, message: "RSA with 8193 bits",
		},
		"RSA 10000": {
			req: withKey(t, &rsa.PublicKey{N: modulus(10_000), E: 65537}), want: refused, message: "RSA with 10000 bits",
		},
		"RSA exponent 1":   {req: withKey(t, &rsa.PublicKey{N: modulus(2048), E: 1}), want: refused, message: "exponent 1"},
		"RSA exponent 4":   {req: withKey(t, &rsa.PublicKey{N: modulus(2048), E: 4}), want: refused, message: "exponent 4"},
		"ECDSA P-224":      {req: withKey(t, p224.Public()), want: refused, message: "curve P-224"},
		"ECDSA P-521":      {req: withKey(t, p521.Public()), want: approved},
		"Ed25519":          {req: withKey(t, ed25519.PublicKey(make([]byte, ed25519.PublicKeySize))), want: approved},
		"a key for X25519": {req: withKey(t, x25519.PublicKey()), want: refused, message: "none of RSA"},
	})
}

// withKey is a request whose key is that one, and whose signature, which the API server checks, does not fit.
func withKey(t *testing.T, key any) builder {
	t.Helper()
	var request struct {
		Info struct {
			Version                  int
			Subject, Key, Attributes asn1.RawValue
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	b := requestFor(own, ownIP)
	if _, err := asn1.Unmarshal(der(b.Spec.Request), &request); err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	request.Info.Key = asn1.RawValue{FullBytes: public}
	content, err := asn1.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return b.PEM(block("CERTIFICATE REQUEST", content))
}

func requestFor(names, addresses []string) builder {
	return request("csr-1", 0).Asking(names, addresses)
}

func TestDecideByRules(t *testing.T) {
	long := requestFor(own, ownIP).Expiration(3601)
	foreign := requestFor([]string{"node-1", "node-1.badexample.com"}, nil)
	denied := func(reason csr.Reason, by ...string) csr.Decision {
		d := left(reason, by...)
		d.Verdict = csr.Deny
		return d
	}
	overruled := func(d csr.Decision, policies ...string) csr.Decision {
		d.Overruled = policies
		return d
	}
	everything := ranges("0.0.0.0/0", "::/0")
	run(t, map[string]decisionCase{
		"an address outside": {req: requestFor(own, []string{"10.0.0.1", "192.0.2.1"}), want: left(csr.ReasonAddressNotAllowed, workers...),
			message: "IP address 192.0.2.1 is in none of signingRequestApproval.allowedIPRanges of CertificatePolicy workers"},
		"an address outside, denied": {req: requestFor(own, []string{"192.0.2.1"}), want: denied(csr.ReasonAddressNotAllowed, workers...),
			change: under(rules("workers", denying))},
		"loopback among everything": {
			req: requestFor(nil, []string{"127.0.0.9"}), want: left(csr.ReasonAddressNotAllowed, workers...),
			change: loopback(rules("workers", everything)),
		},
		"link-local among everything": {
			req: requestFor(nil, []string{"fe80::1"}), want: left(csr.ReasonAddressNotAllowed, workers...),
			change: under(rules("workers", everything)),
		},
		"nowhere among everything": {
			req: requestFor(nil, []string{"0.0.0.0"}), want: left(csr.ReasonAddressNotAllowed, workers...),
			change: under(rules("workers", everything)),
		},
		"no ranges at all": {
			req: requestFor(own, ownIP), want: left(csr.ReasonAddressNotAllowed, workers...),
			change: under(rules("workers", ranges())),
		},
		"a name without a suffix": {
			req: foreign, want: left(csr.ReasonNameNotAllowed, workers...),
			change: under(rules("workers", suffixes("example.com"))), message: `"node-1.badexample.com"`,
		},
		"a name without suffixes": {
			req: requestFor([]string{"node-1.example.com"}, nil), want: left(csr.ReasonNameNotAllowed, workers...),
		},
		"a long life": {
			req: long, want: left(csr.ReasonDurationNotAllowed, workers...),
			change: under(rules("workers", lasting(time.Hour))), message: "3601",
		},
		"a range nobody can read": {
			req: requestFor(own, ownIP), want: left(csr.ReasonPolicyInvalid, workers...),
			change: under(rules("workers", ranges("10.0.0.1/8"), denying)), message: `"10.0.0.1/8"`,
		},

		"a range of IPv4 in IPv6 clothes": {
			req: requestFor(own, ownIP), want: left(csr.ReasonPolicyInvalid, workers...),
			change: under(rules("workers", ranges("10.0.0.0/8", "::ffff:10.0.0.0/104"))),
		},

		"one policy denies": {req: long, want: overruled(denied(csr.ReasonDurationNotAllowed, "b"), "a"),
			change: under(rules("b", lasting(time.Hour), denying), rules("a"))},
		"the one that denies is content": {req: long, want: overruled(left(csr.ReasonDurationNotAllowed, "b"), "a"),
			change: under(rules("b", lasting(time.Hour)), rules("a", denying))},
		"one observes, and nothing is denied": {req: long, want: overruled(left(csr.ReasonDurationNotAllowed, "b")),
			change: under(rules("b", lasting(time.Hour), denying), rules("a", observing))},
		"one observes, and nothing is approved": {req: requestFor(own, ownIP), change: under(rules("b"), rules("a", observing)),
			want: csr.Decision{Verdict: csr.NoOpinion, Reason: csr.ReasonObserved, By: []string{"a"}, Overruled: []string{"b"}}},
		"the observer's rule is broken": {req: long, want: overruled(left(csr.ReasonDurationNotAllowed, "a"), "b"),
			change: under(rules("b"), rules("a", observing, lasting(time.Hour)))},
		"an observer without ranges": {req: requestFor(own, ownIP), change: under(rules("a", observing, ranges())),
			want: csr.Decision{Verdict: csr.NoOpinion, Reason: csr.ReasonObserved, By: []string{"a"}}},
		"an observer that would deny": {req: long, want: left(csr.ReasonDurationNotAllowed, "a"),
			change: under(rules("a", observing, denying, lasting(time.Hour)))},
		"suspended, and nothing is denied": {req: long, want: left(csr.ReasonDurationNotAllowed, workers...), change: func(in *csr.DecisionInput) {
			in.Suspended, in.Rules = true, []*csr.Rules{rules("workers", denying, lasting(time.Hour))}
		}},
		"denied often enough": {req: request("csr-9", 1).Asking(own, []string{"192.0.2.1"}), want: func() csr.Decision {
			d := left(csr.ReasonAddressNotAllowed, workers...)
			d.Until = at(61)
			return d
		}(),
			change: func(in *csr.DecisionInput) {
				in.Rules = []*csr.Rules{rules("workers", denying, deciding(1))}
				beside(request("csr-0", 0).Denied(1))(in)
			}},
		"an observer is not suspended": {req: requestFor(own, ownIP), change: func(in *csr.DecisionInput) {
			in.Suspended, in.Rules = true, []*csr.Rules{rules("a", observing)}
		}, want: csr.Decision{Verdict: csr.NoOpinion, Reason: csr.ReasonObserved, By: []string{"a"}}},
	})
}

func TestDecideByOwnership(t *testing.T) {
	missing := doubted(csr.ReasonAddressNotOfNode, workers...)
	holding := func(source v1alpha1.EvidenceSource, notAfter time.Time) func(*csr.DecisionInput) {
		return func(in *csr.DecisionInput) {
			contested(in)
			in.Certificates = []v1alpha1.CertificateStatus{{
				Purpose: v1alpha1.PurposeKubeletServing, Source: source, NotAfter: metav1.NewTime(notAfter), IPAddresses: ownIP,
			}}
		}
	}
	// It names whoever is at the address that the node reports, which may be somebody else.
	showing := func(mode v1alpha1.ServingMode, node string, notAfter time.Time) func(*csr.DecisionInput) {
		return func(in *csr.DecisionInput) {
			holding(v1alpha1.SourceHandshake, notAfter)(in)
			in.Certificates[0].Subject = "CN=system:node:" + node + ",O=system:nodes"
			in.ServingMode = mode
		}
	}
	taken := contestedBy("node-2")
	run(t, map[string]decisionCase{
		"an address of no Node": {
			req: requestFor(own, []string{"10.0.0.2"}), want: missing,
			message: `"10.0.0.2" is not among the addresses of Node node-1`,
		},
		"an address of no Node, not denied": {
			req: requestFor(own, []string{"10.0.0.2"}), want: missing, change: under(rules("workers", denying)),
		},
		"a name of no Node": {
			req: requestFor([]string{"node-9.example.com"}, nil), want: missing,
			change: under(rules("workers", suffixes("example.com"))),
		},
		"an address of two Nodes": {
			req: requestFor(own, ownIP), want: taken, change: contested,
			message: `"10.0.0.1" is also an address of Node "node-2"`,
		},
		"an address of two, not denied": {
			req: requestFor(own, ownIP), want: taken,
			change: func(in *csr.DecisionInput) { contested(in); in.Rules = []*csr.Rules{rules("workers", denying)} },
		},
		"a name that another Node reports as well": {
			req: requestFor([]string{"node-1.example.com"}, nil), want: taken,
			change: func(in *csr.DecisionInput) {
				*in = withNodes(*in, in.Node, node("node-2", "NODE-1.example.com."))
				in.Rules = []*csr.Rules{rules("workers", suffixes("example.com"))}
			},
		},
		"its own name, whoever reports that": {
			req: requestFor(own, ownIP), want: approved,
			change: func(in *csr.DecisionInput) { *in = withNodes(*in, in.Node, node("node-2", "NODE-1.")) },
		},
		"a name that is another Node's own": {
			req: requestFor([]string{"node-2.example.com"}, nil), want: contestedBy("node-2.example.com"),
			change: func(in *csr.DecisionInput) {
				*in = withNodes(*in, node("node-1", "node-2.example.com"), node("node-2.example.com"))
				in.Rules = []*csr.Rules{rules("workers", suffixes("example.com"))}
			},
		},
		"a Node named like an address": {
			req: requestFor(nil, ownIP), want: approved,
			change: func(in *csr.DecisionInput) { *in = withNodes(*in, in.Node, node("10.0.0.1")) },
		},
		"of a Node named like an address": {
			req: request("csr-1", 0).User("system:node:10.0.0.50").PEM(pkitest.Request(
				pkitest.Node("10.0.0.50"), pkitest.IPAddresses("10.0.0.50"))),
			want:    doubted(csr.ReasonAddressNotOfNode, workers...),
			change:  func(in *csr.DecisionInput) { *in = withNodes(*in, node("10.0.0.50", "10.0.0.1")) },
			message: `"10.0.0.50" is not among the addresses of Node 10.0.0.50`,
		},
		"of a Node named like its address": {
			req: request("csr-1", 0).User("system:node:10.0.0.50").PEM(pkitest.Request(
				pkitest.Node("10.0.0.50"), pkitest.IPAddresses("10.0.0.50"))),
			want: approved, change: func(in *csr.DecisionInput) { *in = withNodes(*in, node("10.0.0.50", "10.0.0.50")) },
		},
		"an address of its certificate": {
			req: requestFor(own, ownIP), want: approved, change: holding(v1alpha1.SourceSigningRequest, at(3)),
		},
		"of an expired certificate": {
			req: requestFor(own, ownIP), want: taken, change: holding(v1alpha1.SourceSigningRequest, at(2)),
		},
		"of a certificate it shows, which the Cluster CA signed for it": {
			req: requestFor(own, ownIP), want: approved, change: showing(v1alpha1.ServingModeClusterSigned, "node-1", at(3)),
		},
		"of a certificate it shows, which has expired": {
			req: requestFor(own, ownIP), want: taken, change: showing(v1alpha1.ServingModeClusterSigned, "node-1", at(2)),
		},
		"of a certificate it shows, which another CA signed": {
			req: requestFor(own, ownIP), want: taken, change: showing(v1alpha1.ServingModeExternallyManaged, "node-1", at(3)),
		},
		"of a certificate it shows, which it signed itself": {
			req: requestFor(own, ownIP), want: taken, change: showing(v1alpha1.ServingModeSelfSigned, "node-1", at(3)),
		},
		"of a certificate it showed, and now cannot be asked": {
			req: requestFor(own, ownIP), want: taken, change: showing(v1alpha1.ServingModeUnknown, "node-1", at(3)),
		},
		"of a certificate it shows, which is another node's": {
			req: requestFor(own, ownIP), want: taken, change: showing(v1alpha1.ServingModeClusterSigned, "node-2", at(3)),
		},
	})
}

func TestDecideByResolution(t *testing.T) {
	addresses := func(texts ...string) csr.Answer {
		var a csr.Answer
		for _, text := range texts {
			a.Addresses = append(a.Addresses, netip.MustParseAddr(text))
		}
		return a
	}
	both := requestFor([]string{"Node-1", "node-1.example.com", "node-1"}, ownIP)
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("node-%d.example.com", i)
	}
	run(t, map[string]decisionCase{
		"asks": {req: both, change: answering(nil), want: csr.Decision{
			Verdict: csr.Resolve, Reason: csr.ReasonNamesUnresolved, Resolve: []string{"node-1", "node-1.example.com"}, ResolveTimeout: 5 * time.Second,
		}},
		"asks for what is missing, in the shortest time": {req: both, change: func(in *csr.DecisionInput) {
			answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1")})(in)
			in.Rules = append(in.Rules, nil, rules("hasty", resolving, suffixes("example.com"), func(s *v1alpha1.SigningRequestApprovalSpec) {
				s.DNSTimeout = &metav1.Duration{Duration: time.Second}
			}))
		}, want: csr.Decision{
			Verdict: csr.Resolve, Reason: csr.ReasonNamesUnresolved, Resolve: []string{"node-1.example.com"}, ResolveTimeout: time.Second,
		}},
		"asks for nothing that is refused anyhow": {req: requestFor(own, []string{"10.0.0.2"}), change: answering(nil), want: doubted(csr.ReasonAddressNotOfNode, workers...)},
		"asks for no hundred names": {req: requestFor(many, ownIP), want: doubted(csr.ReasonTooManyNames, workers...), change: func(in *csr.DecisionInput) {
			answering(nil)(in)
			*in = withNodes(*in, node("node-1", slices.Concat(many, ownIP)...))
		}, message: "17 DNS names"},
		"approves": {req: both, want: approved, change: answering(map[string]csr.Answer{
			"node-1": addresses("10.0.0.1", "::ffff:10.0.0.7"), "node-1.example.com": addresses("2001:db8::1"),
		})},
		"no answer": {req: requestFor(own, ownIP), want: doubted(csr.ReasonNameNotResolved, workers...),
			change: answering(map[string]csr.Answer{"node-1": {Failure: "timed out\nafter 5s"}}), message: `"node-1" does not resolve: "timed out\nafter 5s"`},
		"another machine": {req: requestFor(own, ownIP), want: doubted(csr.ReasonNameResolvesElsewhere, workers...),
			change: answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1", "10.0.0.2")}), message: "resolves to 10.0.0.2"},
		"an address of no name": {req: requestFor(own, []string{"10.0.0.1", "10.0.0.7"}), want: doubted(csr.ReasonNameResolvesElsewhere, workers...),
			change: answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1")}), message: "no DNS name in the request resolves to IP address 10.0.0.7"},
		"a machine that the node only says it is": {req: requestFor(own, nil), want: func() csr.Decision {
			d := doubted(csr.ReasonNameResolvesElsewhere, "subnets", "workers")
			d.Overruled = []string{"anywhere"}
			return d
		}(), change: func(in *csr.DecisionInput) {
			answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1", "192.0.2.1")})(in)
			*in = withNodes(*in, node("node-1", "10.0.0.1", "192.0.2.1"))
			in.Rules = append(in.Rules, rules("subnets"), rules("anywhere", ranges("0.0.0.0/0")))
		}, message: `"node-1" resolves to 192.0.2.1, which is in none of signingRequestApproval.allowedIPRanges of CertificatePolicy subnets`},
		"a machine of another Node": {req: requestFor(own, nil), want: contestedBy("node-2"), change: func(in *csr.DecisionInput) {
			answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1")})(in)
			contested(in)
		}, message: `"node-1" resolves to 10.0.0.1, which is also an address of Node "node-2"`},
		"a machine of another Node that has a certificate for it": {req: requestFor(own, nil), want: approved, change: func(in *csr.DecisionInput) {
			answering(map[string]csr.Answer{"node-1": addresses("10.0.0.1")})(in)
			contested(in)
			in.Certificates = []v1alpha1.CertificateStatus{{
				Purpose: v1alpha1.PurposeKubeletServing, Source: v1alpha1.SourceSigningRequest, NotAfter: metav1.NewTime(at(3)), IPAddresses: ownIP,
			}}
		}},
	})
}

func TestDecideSaysWhichPolicyRequiresResolution(t *testing.T) {
	in := decisionInput(requestFor(own, ownIP).Obj())
	in.Rules = []*csr.Rules{rules("b", resolving), rules("a"), rules("c", resolving)}
	in.Answers = map[string]csr.Answer{"node-1": {Failure: "no such host"}}
	got := csr.Decide(in)
	if diff := cmp.Diff([][]string{{"b", "c"}, {"a"}}, [][]string{got.By, got.Overruled}); diff != "" {
		t.Errorf("by and overruled (-want +got):\n%s", diff)
	}
}

func TestDecideApprovesNothingForAnUnreadablePolicy(t *testing.T) {
	in := decisionInput(requestFor(own, ownIP).Obj())
	in.Rules = []*csr.Rules{rules("workers", denying).Unreadable("nodes.selector is broken")}
	got := csr.Decide(in)
	if diff := cmp.Diff(left(csr.ReasonPolicyInvalid, "workers"), got, cmpopts.IgnoreFields(csr.Decision{}, "Message")); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
	if !strings.Contains(got.Message, "nodes.selector is broken") {
		t.Errorf("message %q does not say what cannot be read", got.Message)
	}
}

// To decide on a request is to write all of its metadata, so one of which they are not all kept is left alone.
func TestDecideLeavesLargeMetadataAlone(t *testing.T) {
	in := decisionInput(requestFor(own, ownIP).Obj())
	in.Rules = []*csr.Rules{rules("workers", denying)}
	csr.LeaveOutMetadata(in.Request)
	if diff := cmp.Diff(left(csr.ReasonMetadataTooLarge, "workers"), csr.Decide(in),
		cmpopts.IgnoreFields(csr.Decision{}, "Message")); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

// A node can write what it wants into its requests, and into its Node.
func TestDecideIsBoundedForHostileInput(t *testing.T) {
	addresses := make([]string, 10_000)
	for i := range addresses {
		addresses[i] = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	}
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i)
	}
	name := strings.Repeat("evil\n\x00", 1000)
	for what, req := range map[string]builder{
		"10,000 names":             requestFor(names, nil),
		"10,000 addresses":         requestFor(nil, addresses),
		"as many as can be read":   requestFor(nil, addresses[:600]),
		"one long name":            requestFor([]string{name}, nil),
		"long object identifiers":  request("csr-1", 0).Asking(own, nil, longExtension()),
		"text around it":           requestFor(own, ownIP).PEM(around(servingRequest, 64<<10+1)),
		"a name of a hundred dots": requestFor([]string{strings.Repeat(".", 100)}, nil),
	} {
		t.Run(what, func(t *testing.T) {
			in := decisionInput(req.Obj())
			in = withNodes(in, node("node-1", slices.Concat(addresses, names)...))
			began := time.Now()
			got := csr.Decide(in)
			if took := time.Since(began); took > time.Minute {
				t.Errorf("took %s", took)
			}
			if got.Verdict != csr.NoOpinion || !got.Violated {
				t.Errorf("got %+v", got)
			}
			checkMessage(t, got)
		})
	}
}

func longExtension() pkitest.Option {
	id := slices.Concat(asn1.ObjectIdentifier{1, 2}, slices.Repeat(asn1.ObjectIdentifier{1 << 30}, 1000))
	return pkitest.Template(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: id, Value: []byte{5, 0}}} })
}

func checkMessage(t *testing.T, d csr.Decision) {
	t.Helper()
	printable := strings.IndexFunc(d.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
	if d.Message == "" || !printable || !utf8.ValidString(d.Message) || utf8.RuneCountInString(d.Message) > 512 {
		t.Errorf("%s: message %q", d.Reason, d.Message)
	}
}

func TestNewest(t *testing.T) {
	requests := objects([]builder{
		request("csr-1", 0), request("csr-3", 1), request("csr-2", 1), request("csr-4", 1).Approved(2), request("csr-5", 9).Denied(9),
	})
	if got := csr.Newest(requests); got == nil || got.Name != "csr-3" {
		t.Errorf("got %v, want csr-3", got)
	}
	if got := csr.Newest(requests[3:]); got != nil {
		t.Errorf("got %s, want none", got.Name)
	}
}

func TestPendingNodes(t *testing.T) {
	requests := objects([]builder{
		request("csr-1", 0), request("csr-2", 1), request("csr-3", 2).User("system:node:node-2"), request("csr-4", 3).User("stranger"),
		request("csr-5", 0).User("system:node:node-3").Approved(1), request("csr-6", 0).User("system:node:node-4").Client(),
	})
	// A machine that is gone does not wait: its kubelet would file another request every quarter of an hour.
	for minutes, want := range map[int]int{4: 3, 60: 3, 61: 2, 62: 1, 63: 0} {
		if got := csr.PendingNodes(requests, at(minutes)); got != want {
			t.Errorf("after %d minutes %d nodes wait, want %d", minutes, got, want)
		}
	}
}

func TestPendingLimit(t *testing.T) {
	limited := func(limit int32, changes ...func(*v1alpha1.SigningRequestApprovalSpec)) *csr.Rules {
		return rules("a", append(changes, func(s *v1alpha1.SigningRequestApprovalSpec) { s.MaximumPendingNodes = limit })...)
	}
	for name, tc := range map[string]struct {
		rules []*csr.Rules
		want  int
	}{
		"of no policy":           {want: 150},
		"of the Nodes":           {[]*csr.Rules{rules("a"), nil}, 150},
		"of a policy":            {[]*csr.Rules{limited(7)}, 7},
		"more than of the Nodes": {[]*csr.Rules{limited(1000)}, 1000},
		"the lowest":             {[]*csr.Rules{limited(1000), limited(20), limited(30)}, 20},
		"the lowest is default":  {[]*csr.Rules{limited(1000), rules("b")}, 150},
		"of no observer":         {[]*csr.Rules{limited(7, observing), limited(9)}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			if got := csr.PendingLimit(tc.rules, 50); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestNodeAddresses(t *testing.T) {
	if got := csr.NodeAddresses(node("10.0.0.1", "node-1")); !slices.Equal(got, []string{"node-1"}) {
		t.Errorf("of a Node that is called like an address: %v", got)
	}
	got := csr.NodeAddresses(node("node-1", "Node-1.Example.com.", "010.0.0.1", "10.0.0.1", "::ffff:10.0.0.2", "2001:DB8:0::1", "", "node-1"))
	want := []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "node-1", "node-1.example.com"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}
