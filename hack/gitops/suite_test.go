// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gitops tests the delivery of notafter by Flux: the real source-controller and kustomize-controller take what
// docs/gitops.md says from a Git server and apply it to a real API server. `make test-gitops` builds what that takes.
//
// No Pod can run here, so the Deployment is scaled to zero by a patch in Flux's Kustomization, and the manager runs outside
// the cluster, with the permissions of its ServiceAccount.
package gitops

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

const (
	// soon is how long anything may take on a busy machine. What has to be quick is measured.
	soon = 2 * time.Minute
	// fluxNamespace is where Flux lives.
	fluxNamespace = "flux-system"
	// node is one that violates the policies: it serves a certificate of its own making.
	node = "self-signed"
)

// root is the repository's.
var root = filepath.Join("..", "..")

// Programs, by the environment variables that name them.
var programs = map[string]string{"SOURCE_CONTROLLER": "", "KUSTOMIZE_CONTROLLER": "", "MANAGER": ""}

var (
	server  *cluster.Cluster
	k8s     client.Client
	release *repository // what the project publishes
	fleet   *repository // what an admin keeps
)

func TestGitOps(t *testing.T) {
	for name := range programs {
		if programs[name] = os.Getenv(name); programs[name] == "" {
			t.Skipf("$%s names no program: make test-gitops builds what this needs, and runs it", name)
		}
	}
	RegisterFailHandler(Fail)
	RunSpecs(t, "GitOps")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)

	crds := func(name string) string {
		return filepath.Join(moduleDir(ctx, name), "config", "crd", "bases")
	}
	server = cluster.StartForTest(GinkgoTB(), cluster.Options{
		ControllerManager: true, Log: GinkgoWriter,
		// Flux waits until the Deployment is Available.
		ExtraControllers: []string{"deployment-controller", "replicaset-controller"},
		InstallCRDs:      []string{crds("source-controller"), crds("kustomize-controller")},
	})
	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	var err error
	k8s, err = client.New(server.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	Expect(k8s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fluxNamespace}})).To(Succeed())

	release, fleet = newRepository("notafter"), newRepository("fleet")
	Expect(os.CopyFS(filepath.Join(release.dir, "config"), os.DirFS(filepath.Join(root, "config")))).To(Succeed())
	release.commit(ctx, "The manifests")
	startFlux(ctx)
	startNode(ctx)
}, NodeTimeout(10*time.Minute))

// moduleDir returns the source folder of a Flux controller, from whose Go module the program was built.
func moduleDir(ctx SpecContext, name string) string {
	GinkgoHelper()
	module := "github.com/fluxcd/" + name
	command := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	command.Dir = filepath.Join(root, "hack", "tools", "flux")
	output, err := command.Output()
	Expect(err).NotTo(HaveOccurred(), string(output))
	var answer struct{ Dir string }
	Expect(json.Unmarshal(output, &answer)).To(Succeed())
	return answer.Dir
}

// startNode starts the kubelet of the node that violates every policy.
func startNode(ctx SpecContext) {
	GinkgoHelper()
	token, err := server.BootstrapToken(ctx, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	k, err := kubelet.Start(ctx, kubelet.Options{
		Join: kubelet.Join{API: server.Config(), BootstrapToken: token}, Name: node, Dir: GinkgoT().TempDir(),
		Port: kubelet.AnyPort, Serving: kubelet.ServingSelfSigned,
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(k.Stop)
	Expect(k.WaitRegistered(ctx)).To(Succeed())
}
