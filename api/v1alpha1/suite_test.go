// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"path/filepath"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
)

var crds = filepath.Join("..", "..", "config", "crd", "bases")

// The API server of the suite, and a client that may do everything.
var (
	server    *cluster.Cluster
	k8sClient client.Client
)

func TestAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "API suite")
}

var _ = BeforeSuite(func() {
	server = cluster.StartForTest(GinkgoTB(), cluster.Options{InstallCRDs: []string{crds}, Log: GinkgoWriter})
	types := runtime.NewScheme()
	Expect(scheme.AddToScheme(types)).To(Succeed())
	Expect(v1alpha1.AddToScheme(types)).To(Succeed())
	var err error
	k8sClient, err = client.New(server.Config(), client.Options{Scheme: types})
	Expect(err).NotTo(HaveOccurred())
})
