// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/notafter/notafter/api/v1alpha1"
)

func inPool(name, pool string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if pool != "" {
		n.Labels = map[string]string{"agentpool": pool}
	}
	return n
}

func poolReader(t *testing.T, objects ...client.Object) client.Reader {
	t.Helper()
	scheme := newScheme(t)
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func TestPoolSeries(t *testing.T) {
	const day = 24 * time.Hour
	serving := func(lifetime time.Duration) v1alpha1.CertificateStatus {
		return certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, lifetime)
	}
	endOnly := serving(100 * day)
	endOnly.NotBefore = metav1.Time{}
	reader := poolReader(t,
		// After 80 days, of 100, of 400, and of 50.
		inPool("a", "blue"), node("a", serving(100*day),
			certificate(v1alpha1.PurposeKubeletClient, v1alpha1.SourceSigningRequest, 400*day),
			// Not in use, as far as anybody knows.
			certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceSigningRequest, 500*day)),
		inPool("b", "blue"), node("b", serving(50*day)),
		inPool("c", ""), node("c", serving(-day)),
		inPool("d", "green"), node("d", endOnly),
		node("without-a-node", serving(100*day)),
	)
	collector := NewPools(reader, clocktesting.NewFakePassiveClock(start.Add(80*day)))
	compare(t, collector, "pools.prom")
	problems, err := testutil.CollectAndLint(collector)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if err := testutil.CollectAndCompare(NewPools(blocked{}, clocktesting.NewFakePassiveClock(start)), strings.NewReader("")); err != nil {
		t.Errorf("while the cache can't be read: %v", err)
	}
}

// A node labels itself, so anybody's nodes can be of any number of pools.
func TestPoolsAreBounded(t *testing.T) {
	var objects []client.Object
	for i := range 3 * maxPools {
		name := fmt.Sprintf("node-%03d", i)
		objects = append(objects, inPool(name, name),
			node(name, certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, time.Hour)))
	}
	objects = append(objects, inPool("zz-1", "zz"), inPool("zz-2", "zz"),
		node("zz-1", certificate(v1alpha1.PurposeKubeletServing, v1alpha1.SourceHandshake, time.Hour)))
	collector := NewPools(poolReader(t, objects...), clocktesting.NewFakePassiveClock(start))
	if count := testutil.CollectAndCount(collector); count != maxPools {
		t.Errorf("%d histograms, want %d", count, maxPools)
	}
	text, err := testutil.CollectAndFormat(collector, expfmt.TypeTextPlain, "notafter_certificate_lifetime_used_ratio")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{ // the largest keeps its name
		`_count{node_pool="zz",purpose="KubeletServing"} 1`, fmt.Sprintf(`_count{node_pool="(others)",purpose="KubeletServing"} %d`, 2*maxPools+2),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
