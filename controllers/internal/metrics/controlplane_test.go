// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/policy"
)

type plane struct{ known *policy.ControlPlane }

func (p plane) Snapshot() (*policy.ControlPlane, []policy.Denial) { return p.known, nil }

func TestControlPlaneSeries(t *testing.T) {
	lasting := func(purpose v1alpha1.CertificatePurpose, source string, life time.Duration) policy.Certificate {
		return policy.Certificate{Purpose: purpose, Source: source, NotBefore: start, NotAfter: start.Add(life)}
	}
	collector := NewControlPlane(plane{&policy.ControlPlane{Certificates: []policy.Certificate{
		lasting(v1alpha1.PurposeClusterCA, "kube-system/kube-root-ca.crt", 2*time.Hour),
		lasting(v1alpha1.PurposeClusterCA, "kube-system/kube-root-ca.crt", -time.Hour),
		lasting(v1alpha1.PurposeAPIServer, "10.0.0.1:6443", time.Hour),
		lasting(v1alpha1.PurposeAPIServer, "[fd00::1]:6443", time.Hour),
	}}})
	compare(t, collector, "controlplane.prom")
	problems, err := testutil.CollectAndLint(collector)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if err := testutil.CollectAndCompare(NewControlPlane(plane{}), strings.NewReader("")); err != nil {
		t.Errorf("before anything is known: %v", err)
	}
}
