// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/intake"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/hack/cluster"
)

const (
	// soon is how long anything may take on a busy machine.
	soon = 60 * time.Second
	// user is who the controller is while a permission is missing.
	user = "observer"
)

var (
	trustBundle = types.NamespacedName{Namespace: "kube-system", Name: "cluster-ca"}
	server      *cluster.Cluster
	c           client.Client
	scheme      = runtime.NewScheme()
	store       *Store
	stopManager func()
)

func TestControlPlane(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "ControlPlane")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme,
	} {
		Expect(add(scheme)).To(Succeed())
	}
	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		Log: GinkgoWriter, InstallCRDs: []string{filepath.Join("..", "..", "config", "crd", "bases")},
	})
	var err error
	c, err = client.New(server.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	Expect(c.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: trustBundle.Namespace, Name: trustBundle.Name},
		Data:       map[string]string{"ca.crt": string(server.CACertPEM())},
	})).To(Succeed())
	startManager(server.Config())
	DeferCleanup(func() { stopManager() })
}, NodeTimeout(10*time.Minute))

// startManager starts the controller, wired as controllers.Setup does it, and sets store and stopManager.
func startManager(restConfig *rest.Config) {
	GinkgoHelper()
	restConfig.QPS = -1
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:  scheme,
		Cache:   intake.CacheOptions(access.NewMissing(), 0),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// Several managers run in this process, one after the other.
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	Expect(err).NotTo(HaveOccurred())
	watching, err := client.NewWithWatch(server.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	configMap, err := intake.AddConfigMap(mgr, watching, trustBundle, 0)
	Expect(err).NotTo(HaveOccurred())
	store, err = Add(mgr, Options{
		Clock: clock.RealClock{}, Trust: trust.New(configMap, trustBundle, "ca.crt"), TrustConfigMap: configMap,
	})
	Expect(err).NotTo(HaveOccurred())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopManager = func() {
		cancel()
		Eventually(done).Should(Receive(BeNil()))
		stopManager = func() {}
	}
}

// grant lets the user do what the rules say, until the spec ends.
func grant(ctx context.Context, name string, rules ...rbacv1.PolicyRule) {
	GinkgoHelper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	create(ctx, role)
	create(ctx, binding)
}

// create makes an object that goes with the spec.
func create(ctx context.Context, object client.Object) {
	GinkgoHelper()
	Expect(c.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx context.Context) error { return client.IgnoreNotFound(c.Delete(ctx, object)) })
}
