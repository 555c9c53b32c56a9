// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"crypto/x509"
	"testing"

	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
	"github.com/notafter/notafter/controllers/internal/policy"
)

func TestStoreTellsOfNewsOnly(t *testing.T) {
	ca := pkitest.NewCA("ca").X509
	known := func(names ...string) *policy.ControlPlane {
		found := &policy.ControlPlane{Certificates: describedBundle("ClusterCA", "a/b", []*x509.Certificate{ca})}
		for _, name := range names {
			found.Bundles = append(found.Bundles, policy.Bundle{Name: name})
		}
		return found
	}
	store := newStore()
	for i, step := range []struct {
		snapshot *policy.ControlPlane
		denied   []policy.Denial
		news     bool
	}{
		{nil, nil, false},
		{known(), nil, true},
		{known(), nil, false},
		{known("a"), nil, true},
		{known("a"), []policy.Denial{{Permission: "list a"}}, true},
		{known("a"), []policy.Denial{{Permission: "list a"}}, false},
		{nil, nil, true},
	} {
		store.set(step.snapshot, step.denied)
		if news := len(store.changed) > 0; news != step.news {
			t.Errorf("step %d: news %v, want %v", i, news, step.news)
		}
		if len(store.changed) > 0 {
			<-store.Changed()
		}
	}
	store.set(known("a"), nil)
	store.set(known("b"), nil) // does not wait for who has not taken the first event
	if len(store.changed) != 1 {
		t.Errorf("%d events wait, want one", len(store.changed))
	}
}

func TestStoreSettlesOnceItIsSet(t *testing.T) {
	store := newStore()
	select {
	case <-store.Settled():
		t.Error("settled before anything was observed")
	default:
	}
	for range 2 {
		store.set(nil, nil) // no policy asks for anything
		select {
		case <-store.Settled():
		default:
			t.Error("not settled after there was nothing to observe")
		}
	}
}
