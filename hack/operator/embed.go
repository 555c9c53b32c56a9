// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

const (
	// ProbeInterval is how often policies by PolicyFor have kubelets probed: as often as can be.
	ProbeInterval = 10 * time.Second
	// probeTimeout is the longest for that interval: on a busy machine, that a kubelet does not answer in time would be news.
	probeTimeout = ProbeInterval
	// stopTimeout is how long an embedded operator may take to end.
	stopTimeout = time.Minute
)

// Embed runs the operator in this process, as a user, until the test ends, which it must not do before.
func Embed(tb testing.TB, user *rest.Config, changes ...func(*controllers.Options)) {
	tb.Helper()
	options := controllers.Options{
		TrustConfigMap: types.NamespacedName{Namespace: "kube-system", Name: cluster.RootCAConfigMap}, TrustKey: "ca.crt",
		ProbeConcurrency: 8, ProbeLoopback: true,
		// The series of several operators in one process would clash.
		Registerer: prometheus.NewRegistry(),
	}
	for _, change := range changes {
		change(&options)
	}
	mgr, err := ctrl.NewManager(user, ctrl.Options{
		Scheme:     controllers.NewScheme(),
		Cache:      options.CacheOptions(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := controllers.Setup(mgr, options); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	tb.Cleanup(func() {
		select {
		case err := <-done:
			tb.Errorf("the operator ended by itself: %v", err)
			cancel()
			return
		default:
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("the operator ended: %v", err)
			}
		case <-time.After(stopTimeout):
			tb.Error("the operator does not end")
		}
	})
}

// PolicyFor is a policy for the nodes of one pool, called like that, without the floor that certificates of tests are under.
func PolicyFor(pool string) *v1alpha1.CertificatePolicy {
	policy := &v1alpha1.CertificatePolicy{ObjectMeta: metav1.ObjectMeta{Name: pool}}
	policy.Spec.Expiry.MinimumRemaining = &metav1.Duration{}
	policy.Spec.Nodes.Selector.MatchLabels = map[string]v1alpha1.LabelValue{kubelet.LabelAgentPool: v1alpha1.LabelValue(pool)}
	policy.Spec.Nodes.Probe.Interval = &metav1.Duration{Duration: ProbeInterval}
	policy.Spec.Nodes.Probe.Timeout = &metav1.Duration{Duration: probeTimeout}
	return policy
}

// NodesOnly leaves the control plane, the trust bundles and workloads out.
func NodesOnly(spec *v1alpha1.CertificatePolicySpec) {
	spec.ControlPlane = v1alpha1.ControlPlaneSpec{
		ClusterCA: v1alpha1.WatchIgnored, APIServer: v1alpha1.WatchIgnored,
		ClientCA: v1alpha1.WatchIgnored, Aggregation: v1alpha1.WatchIgnored,
		Expiry: v1alpha1.ControlPlaneExpirySpec{MinimumRemaining: &metav1.Duration{}},
	}
	spec.TrustBundles = v1alpha1.TrustBundlesSpec{
		APIServices: v1alpha1.WatchIgnored, Webhooks: v1alpha1.WatchIgnored, ConversionWebhooks: v1alpha1.WatchIgnored,
	}
	spec.Nodes.StaticServingMounts = v1alpha1.WatchIgnored
}

// Verdicts are the policy's conditions, as status and reason, without Ready and its kin.
func Verdicts(policy *v1alpha1.CertificatePolicy) map[string]string {
	found := map[string]string{}
	for _, condition := range policy.Status.Conditions {
		switch condition.Type {
		case v1alpha1.ConditionReady, v1alpha1.ConditionStalled, v1alpha1.ConditionReconciling:
		default:
			found[condition.Type] = string(condition.Status) + " " + condition.Reason
		}
	}
	return found
}
