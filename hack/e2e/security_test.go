// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podSpecs are about the manager's pods, as they are.
func podSpecs() {
	It("runs on two nodes, ready, and never restarted", func(ctx SpecContext) {
		pods := managers(ctx)
		Expect(pods).To(HaveLen(2))
		hosts := map[string]bool{}
		for i := range pods {
			hosts[pods[i].Spec.NodeName] = true
			Expect(pods[i].Status.ContainerStatuses).To(ConsistOf(And(
				HaveField("Ready", true), HaveField("RestartCount", BeZero()))))
		}
		if server != nil {
			Expect(hosts).To(HaveLen(2), "spread over nodes")
		}
	})

	It("is in a namespace that admits no more than the restricted Pod Security Standard", func(ctx SpecContext) {
		namespace := &corev1.Namespace{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: systemNamespace}, namespace)).To(Succeed())
		Expect(namespace.Labels).To(HaveKeyWithValue("pod-security.kubernetes.io/enforce", "restricted"))

		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "root"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "root", Image: "none"}}},
		}
		Expect(admin.Create(ctx, pod)).To(MatchError(ContainSubstring(`violates PodSecurity "restricted:latest"`)))
	})

	It("has no privilege in the kernel's own words", func(ctx SpecContext) {
		needsOwnCluster()
		for _, pod := range managers(ctx) {
			pid, err := nodes[pod.Spec.NodeName].ContainerPID(ctx, pod.Status.ContainerStatuses[0].ContainerID)
			Expect(err).NotTo(HaveOccurred())
			status := processStatus(pid)
			By(fmt.Sprintf("looking at process %d of pod %s", pid, pod.Name))
			Expect(status).To(HaveKeyWithValue("Name", "manager"))
			Expect(strings.Fields(status["Uid"])).To(HaveEach("65532"))
			Expect(strings.Fields(status["Gid"])).To(HaveEach("65532"))
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				Expect(status).To(HaveKeyWithValue(set, "0000000000000000"))
			}
			Expect(status).To(HaveKeyWithValue("NoNewPrivs", "1"))
			Expect(status).To(HaveKeyWithValue("Seccomp", "2"), "a filter: that of RuntimeDefault")
			Expect(rootOptions(pid)).To(ContainElement("ro"), "its root file system")
		}
	})
}

// processStatus reads what the kernel says of a process.
func processStatus(pid int) map[string]string {
	GinkgoHelper()
	content, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	Expect(err).NotTo(HaveOccurred())
	status := map[string]string{}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	return status
}

// rootOptions returns the mount options of a process's root file system.
func rootOptions(pid int) []string {
	GinkgoHelper()
	content, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "mounts"))
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[1] == "/" {
			return strings.Split(fields[3], ",")
		}
	}
	return nil
}
