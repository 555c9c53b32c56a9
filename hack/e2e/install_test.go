// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/notafter/notafter/hack/cluster/node"
)

const (
	systemNamespace = "notafter-system"
	deploymentName  = "notafter-controller-manager"
	witness         = "witness"
)

// configDir holds the manifests.
var configDir = filepath.Join("..", "..", "config")

// imageArchive is where the image is that the nodes import.
var imageArchive = filepath.Join("..", "..", ".cache", "e2e", "image.tar")

// shippedImage is the name and the tag of the image that the manifests name.
func shippedImage() (name, tag string, err error) {
	path := filepath.Join(configDir, "manager", "kustomization.yaml")
	content, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	var kustomization struct {
		Images []struct{ NewName, NewTag string }
	}
	if err := yaml.Unmarshal(content, &kustomization); err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	if len(kustomization.Images) != 1 {
		return "", "", fmt.Errorf("%s: names %d images, want one", path, len(kustomization.Images))
	}
	return kustomization.Images[0].NewName, kustomization.Images[0].NewTag, nil
}

// buildImage builds the image as a release does, by the name that the manifests have for it.
func buildImage() error {
	name, tag, err := shippedImage()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join("..", "release", "image.sh"), imageArchive)
	cmd.Env = append(os.Environ(), "IMAGE="+name+":"+tag, "VERSION="+tag, "REVISION=e2e", "SOURCE_DATE_EPOCH=0",
		"PLATFORMS=linux/"+runtime.GOARCH)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	return nil
}

// install does what the guide says, and nothing else. In a cluster that was there already, $E2E_IMAGE may name an image that
// it can pull.
func install(ctx context.Context) {
	GinkgoHelper()
	dir := filepath.Join(configDir, "default")
	if image := os.Getenv(imageEnv); image != "" {
		dir = overlay(image)
	}
	run(ctx, "apply", "--server-side", "-k", dir)
	Eventually(func(g Gomega, ctx context.Context) {
		deployment := &appsv1.Deployment{}
		g.Expect(admin.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: deploymentName}, deployment)).To(Succeed())
		g.Expect(deployment.Status.ReadyReplicas).To(Equal(*deployment.Spec.Replicas), "%s", describe(ctx))
	}).WithContext(ctx).Should(Succeed())
}

// overlay is the default install with another image, as `make deploy` makes it.
func overlay(image string) string {
	GinkgoHelper()
	dir, err := os.MkdirTemp(configDir, ".e2e-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	name, tag := image, "latest"
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		name, tag = image[:colon], image[colon+1:]
	}
	shipped, _, err := shippedImage()
	Expect(err).NotTo(HaveOccurred())
	content := fmt.Sprintf("resources: [../default]\nimages: [{name: %s, newName: %s, newTag: %q}]\n", shipped, name, tag)
	Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o600)).To(Succeed())
	return dir
}

// startWitnesses runs a pod on every node whose logs can be asked for, which is what fails when a kubelet has no certificate.
func startWitnesses(ctx context.Context) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: witness}}
	Expect(admin.Create(ctx, namespace)).To(Succeed())
	labels := map[string]string{"app": witness}
	Expect(admin.Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: witness, Name: witness},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:  []corev1.Container{{Name: witness, Image: node.PauseImage, ImagePullPolicy: corev1.PullNever}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				},
			},
		},
	})).To(Succeed())
	Eventually(func(g Gomega, ctx context.Context) {
		for name := range nodes {
			g.Expect(witnessOn(ctx, name)).To(HaveField("Status.Phase", corev1.PodRunning))
		}
	}).WithContext(ctx).Should(Succeed())
}

// witnessOn returns the witness of a node.
func witnessOn(ctx context.Context, nodeName string) (*corev1.Pod, error) {
	pods := &corev1.PodList{}
	if err := admin.List(ctx, pods, client.InNamespace(witness)); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		if pods.Items[i].Spec.NodeName == nodeName && pods.Items[i].DeletionTimestamp.IsZero() {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no witness on %s", nodeName)
}

// logsOf asks for the logs of a node's witness, as a user does. The error is what the user sees.
func logsOf(ctx context.Context, nodeName string) error {
	pod, err := witnessOn(ctx, nodeName)
	if err != nil {
		return err
	}
	_, err = try(ctx, "logs", "--namespace="+witness, pod.Name)
	return err
}

// managers returns the manager's pods.
func managers(ctx context.Context) []corev1.Pod {
	GinkgoHelper()
	pods := &corev1.PodList{}
	Expect(admin.List(ctx, pods, client.InNamespace(systemNamespace),
		client.MatchingLabels{"app.kubernetes.io/component": "controller-manager"})).To(Succeed())
	return pods.Items
}

// describe says what became of the manager's pods.
func describe(ctx context.Context) string {
	output, err := try(ctx, "describe", "pods", "--namespace="+systemNamespace)
	if err != nil {
		return err.Error()
	}
	return output
}

// run runs kubectl, which must succeed.
func run(ctx context.Context, args ...string) string {
	GinkgoHelper()
	output, err := try(ctx, args...)
	Expect(err).NotTo(HaveOccurred())
	return output
}

// try runs kubectl. What it complains about is in the error.
func try(ctx context.Context, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig=" + kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		return "", errors.New("kubectl " + strings.Join(args, " ") + ": " + err.Error() + ": " + string(output))
	}
	return string(output), nil
}
