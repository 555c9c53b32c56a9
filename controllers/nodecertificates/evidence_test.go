// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package nodecertificates

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/tlsprobe"
	"github.com/notafter/notafter/controllers/internal/pki"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

var somewhere = netip.MustParseAddrPort("10.0.0.1:10250")

func bundleOf(t *testing.T, ca *pkitest.CA) trusted {
	t.Helper()
	bundle, err := pki.NewTrustBundle(ca.PEM())
	if err != nil {
		t.Fatal(err)
	}
	return trusted{bundle: bundle}
}

func presented(chain []*x509.Certificate) tlsprobe.Result {
	return tlsprobe.Result{Outcome: v1alpha1.ProbeCertificatePresented, Chain: chain}
}

func TestNewEvidence(t *testing.T) {
	ca, other := pkitest.NewCA("cluster-ca"), pkitest.NewCA("other-ca")
	trust := bundleOf(t, ca)
	now := pkitest.Start().Add(time.Hour)
	good := []pkitest.Option{pkitest.Node("one"), pkitest.IPAddresses("10.0.0.1")}

	for name, test := range map[string]struct {
		result  tlsprobe.Result
		trust   trusted
		want    v1alpha1.ServingStatus
		message string
	}{
		"signed by the Cluster CA": {
			presented(ca.Leaf(good...).Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeClusterSigned, NameMatch: v1alpha1.NameMatches}, "",
		},
		"expired": {
			presented(ca.Leaf(append(good, pkitest.Lifetime(now.Add(-2*time.Minute), now.Add(-time.Minute)))...).Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeClusterSigned, NameMatch: v1alpha1.NameMatches}, "",
		},
		"another name": {
			presented(ca.Leaf(pkitest.Node("one"), pkitest.IPAddresses("10.0.0.2")).Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeClusterSigned, NameMatch: v1alpha1.NameMismatches}, "",
		},
		"self-signed by the kubelet": {
			presented(pkitest.KubeletSelfSigned("one").Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeSelfSigned, NameMatch: v1alpha1.NameMismatches}, "",
		},
		"self-signed as on AKS": {
			presented(pkitest.AKSSelfSigned("one").Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeSelfSigned, NameMatch: v1alpha1.NameMismatches}, "",
		},
		"another CA": {
			presented(other.Leaf(good...).Chain()), trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeExternallyManaged, NameMatch: v1alpha1.NameMatches},
			"unknown authority",
		},
		"no trust bundle": {
			presented(ca.Leaf(good...).Chain()), trusted{err: errors.New("there is no ConfigMap")},
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeUnknown, NameMatch: v1alpha1.NameMatches}, "there is no ConfigMap",
		},
		"no certificate": {
			tlsprobe.Result{Outcome: v1alpha1.ProbeNoCertificate, Message: "tls: internal error"}, trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeNone}, "tls: internal error",
		},
		"unreachable": {
			tlsprobe.Result{Outcome: v1alpha1.ProbeUnreachable, Message: "connection refused"}, trust,
			v1alpha1.ServingStatus{Mode: v1alpha1.ServingModeUnknown}, "connection refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			found := newEvidence(test.result, somewhere, test.trust, now)
			if !strings.Contains(found.serving.Message, test.message) || (test.message == "") != (found.serving.Message == "") {
				t.Errorf("message = %q, want %q in it", found.serving.Message, test.message)
			}
			test.want.Outcome, test.want.Address = test.result.Outcome, "10.0.0.1:10250"
			found.serving.Message = ""
			if diff := cmp.Diff(test.want, found.serving); diff != "" {
				t.Error(diff)
			}
			if (found.certificate != nil) != (test.result.Outcome == v1alpha1.ProbeCertificatePresented) {
				t.Errorf("certificate = %v", found.certificate)
			}
			if (found.trust == "") != (test.trust.bundle == nil) {
				t.Errorf("trust = %q", found.trust)
			}
		})
	}
}

func TestSameFacts(t *testing.T) {
	ca, renewed := pkitest.NewCA("cluster-ca"), pkitest.NewCA("cluster-ca")
	leaf := ca.Leaf(pkitest.IPAddresses("10.0.0.1"))
	first := newEvidence(presented(leaf.Chain()), somewhere, bundleOf(t, ca), pkitest.Start())
	again := newEvidence(presented(leaf.Chain()), somewhere, bundleOf(t, ca), pkitest.Start().Add(time.Hour))
	untrusted := newEvidence(presented(leaf.Chain()), somewhere, bundleOf(t, renewed), pkitest.Start())
	var none *evidence
	if !first.sameFacts(again) || !none.sameFacts(nil) {
		t.Error("equal evidence is not the same")
	}
	if first.sameFacts(untrusted) || first.sameFacts(nil) || none.sameFacts(first) {
		t.Error("other evidence is the same")
	}
}

func TestRecordsAreOfOneNode(t *testing.T) {
	all := newRecords()
	all.put("one", record{uid: "a", evidence: noAddress(errors.New("no address"))})
	if _, ok := all.get("one", "a"); !ok {
		t.Error("the record is lost")
	}
	if found, ok := all.get("one", "b"); ok || found.evidence != nil || found.uid != "b" {
		t.Errorf("a Node added again under its name has the record of the former one: %+v", found)
	}
	all.plan("two", time.Unix(1, 0))
	if due := all.firstDue(); !due.IsZero() {
		t.Errorf("due at %v, a Node that nothing is known of", due)
	}
	all.put("two", record{uid: "b", due: time.Unix(20, 0)})
	all.plan("one", time.Unix(10, 0))
	if due := all.firstDue(); !due.Equal(time.Unix(10, 0)) {
		t.Errorf("due first at %v", due)
	}
	all.forget("one")
	if _, ok := all.get("one", "a"); ok {
		t.Error("the record is kept")
	}
}
