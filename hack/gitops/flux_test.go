// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package gitops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/hack/cluster"
)

// requestedAt is the annotation by which one asks Flux to reconcile now.
const requestedAt = "reconcile.fluxcd.io/requestedAt"

// startFlux runs Flux's controllers as their Deployments do, except that they listen on loopback addresses and retry sooner.
func startFlux(ctx context.Context) {
	GinkgoHelper()
	storage := freeAddress(ctx)
	start(ctx, "source-controller", programs["SOURCE_CONTROLLER"],
		"--storage-path="+GinkgoT().TempDir(), "--storage-addr="+storage, "--storage-adv-addr="+storage)
	start(ctx, "kustomize-controller", programs["KUSTOMIZE_CONTROLLER"], "--requeue-dependency=1s", "--no-remote-bases")
}

// start runs a controller to the end of the suite, and returns when it is healthy.
func start(ctx context.Context, name, program string, args ...string) {
	GinkgoHelper()
	log, err := os.Create(filepath.Join(GinkgoT().TempDir(), name+".log"))
	Expect(err).NotTo(HaveOccurred())
	health := freeAddress(ctx)
	command := exec.CommandContext(context.WithoutCancel(ctx), program, append(args,
		"--health-addr="+health, "--metrics-addr=127.0.0.1:0", "--log-level=info", "--log-encoding=json")...)
	command.Env = append(os.Environ(), "KUBECONFIG="+server.KubeconfigPath(), "RUNTIME_NAMESPACE="+fluxNamespace)
	command.Stdout, command.Stderr = log, log
	Expect(command.Start()).To(Succeed())
	DeferCleanup(func() {
		Expect(command.Process.Signal(syscall.SIGTERM)).To(Or(Succeed(), MatchError(os.ErrProcessDone)))
		ended := command.Wait()
		text, err := os.ReadFile(log.Name())
		Expect(errors.Join(err, log.Close())).To(Succeed())
		GinkgoWriter.Printf("The log of %s:\n%s\n", name, text)
		Expect(ended).NotTo(HaveOccurred(), name)
	})
	Eventually(func() error { return healthy(ctx, health) }).Should(Succeed(), name)
}

func healthy(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return errors.Join(err, response.Body.Close())
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) string {
	GinkgoHelper()
	free, err := cluster.FreeAddresses(ctx, 1)
	Expect(err).NotTo(HaveOccurred())
	return free[0].String()
}

// documented is the object as the guide shows it, to be copied.
func documented(kind, name string) *unstructured.Unstructured {
	GinkgoHelper()
	guide, err := os.ReadFile(filepath.Join(root, "docs", "gitops.md"))
	Expect(err).NotTo(HaveOccurred())
	for _, block := range strings.Split(string(guide), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
		for {
			object := &unstructured.Unstructured{}
			err := decoder.Decode(&object.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			Expect(err).NotTo(HaveOccurred(), text)
			if object.GetKind() == kind && object.GetName() == name {
				return object
			}
		}
	}
	Fail(fmt.Sprintf("docs/gitops.md shows no %s %s", kind, name))
	return nil
}

// set sets a field of an object's spec.
func set(object *unstructured.Unstructured, value any, field string) {
	GinkgoHelper()
	Expect(unstructured.SetNestedField(object.Object, value, "spec", field)).To(Succeed())
}

// fluxObject reads an object of Flux.
func fluxObject(ctx context.Context, kind, name string) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	switch kind {
	case "GitRepository":
		object.SetAPIVersion("source.toolkit.fluxcd.io/v1")
	default:
		object.SetAPIVersion("kustomize.toolkit.fluxcd.io/v1")
	}
	object.SetKind(kind)
	return object, k8s.Get(ctx, client.ObjectKey{Namespace: fluxNamespace, Name: name}, object)
}

// reconcile asks Flux to reconcile an object now, as `flux reconcile` does, and returns when it has begun to.
func reconcile(ctx context.Context, kind, name string) {
	GinkgoHelper()
	object, err := fluxObject(ctx, kind, name)
	Expect(err).NotTo(HaveOccurred())
	token := time.Now().Format(time.RFC3339Nano)
	patch := client.RawPatch("application/merge-patch+json",
		fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, requestedAt, token))
	Expect(k8s.Patch(ctx, object, patch)).To(Succeed())
	Eventually(func(g Gomega) {
		object, err := fluxObject(ctx, kind, name)
		g.Expect(err).NotTo(HaveOccurred())
		handled, _, _ := unstructured.NestedString(object.Object, "status", "lastHandledReconcileAt")
		g.Expect(handled).To(Equal(token))
	}).Should(Succeed())
}

// ready is the Ready condition of a Kustomization: status, reason and message; empty while it is about another revision than
// the one that Flux has last taken from Git, or another generation.
func ready(ctx context.Context, name string) func() (string, error) {
	return func() (string, error) {
		object, err := fluxObject(ctx, "Kustomization", name)
		if err != nil {
			return "", err
		}
		source, _, _ := unstructured.NestedString(object.Object, "spec", "sourceRef", "name")
		git, err := fluxObject(ctx, "GitRepository", source)
		if err != nil {
			return "", err
		}
		revision, _, _ := unstructured.NestedString(git.Object, "status", "artifact", "revision")
		attempted, _, _ := unstructured.NestedString(object.Object, "status", "lastAttemptedRevision")
		if revision == "" || attempted != revision {
			return "", nil
		}
		all, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
		for _, item := range all {
			c, _ := item.(map[string]any)
			if c["type"] == "Ready" && c["observedGeneration"] == object.GetGeneration() {
				return fmt.Sprintf("%s %s: %s", c["status"], c["reason"], c["message"]), nil
			}
		}
		return "", nil
	}
}

// reconciliations is how often Flux has reconciled a Kustomization to the state that it is in.
func reconciliations(ctx context.Context, name string) int64 {
	GinkgoHelper()
	object, err := fluxObject(ctx, "Kustomization", name)
	Expect(err).NotTo(HaveOccurred())
	history, _, _ := unstructured.NestedSlice(object.Object, "status", "history")
	Expect(history).NotTo(BeEmpty())
	count, _, _ := unstructured.NestedInt64(history[0].(map[string]any), "totalReconciliations")
	return count
}
