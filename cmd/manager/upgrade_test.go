// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/operator"
)

// previous has what config/default was in an earlier version, and objects as a manager of that version left them.
var previous = filepath.Join("testdata", "v0.1.0")

// An upgrade by kubectl apply keeps objects and their status, and the new manager goes on where the old one stopped.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	w := newEmptyWorld(t, cluster.Options{})
	w.kubectl("apply", "--server-side", "-f", w.unpacked(filepath.Join(previous, "manifests.yaml.gz")))
	w.kubectl("wait", "--for=condition=Established", "--timeout=1m", "crd", "--all")
	w.leaveBehind(filepath.Join(previous, "objects.yaml"))
	policy, facts := &v1alpha1.CertificatePolicy{}, &v1alpha1.NodeCertificates{}
	key := client.ObjectKey{Name: "old"}
	w.Expect(w.admin.Get(t.Context(), key, policy)).To(Succeed())
	w.Expect(w.admin.Get(t.Context(), key, facts)).To(Succeed())
	w.Expect(policy.Status.Findings).To(HaveLen(1))
	w.Expect(facts.Status.Certificates).To(HaveLen(2))

	w.Expect(operator.Install(t.Context(), w.cluster, manifests)).To(Succeed())
	upgradedPolicy, upgradedFacts := &v1alpha1.CertificatePolicy{}, &v1alpha1.NodeCertificates{}
	// For a while, because the API server goes on serving the old definitions for a moment.
	w.Consistently(func(g Gomega) {
		g.Expect(w.admin.Get(t.Context(), key, upgradedPolicy)).To(Succeed())
		g.Expect(w.admin.Get(t.Context(), key, upgradedFacts)).To(Succeed())
		g.Expect(upgradedPolicy).To(Equal(policy))
		g.Expect(upgradedFacts).To(Equal(facts))
	}, 3*time.Second).Should(Succeed())

	replica := w.start()
	w.Eventually(w.leads).WithArguments(replica).Should(BeTrue())
	w.Eventually(func() (string, error) {
		err := w.admin.Get(t.Context(), key, upgradedFacts)
		return string(upgradedFacts.Status.Serving.Outcome), err
	}).Should(Equal(string(v1alpha1.ProbeNoAddress)), "the new manager has looked")
	w.Expect(upgradedFacts.UID).To(Equal(facts.UID))
	w.Expect(upgradedFacts.Status.Certificates).To(Equal(facts.Status.Certificates))
	w.Expect(upgradedFacts.Status.SigningRequests).To(Equal(facts.Status.SigningRequests))

	w.Eventually(func() ([]string, error) {
		err := w.admin.Get(t.Context(), key, upgradedPolicy)
		return broken(upgradedPolicy), err
	}).Should(ConsistOf(v1alpha1.ReasonExpired+" old", v1alpha1.ReasonProbeFailed+" old"))
	w.Expect(upgradedPolicy.Spec).To(Equal(policy.Spec))
	w.Expect(verdict(upgradedPolicy)).To(Equal("False " + v1alpha1.ReasonExpired))
	since := func(p *v1alpha1.CertificatePolicy) metav1.Time {
		return meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionCompliant).LastTransitionTime
	}
	w.Expect(since(upgradedPolicy)).To(Equal(since(policy)))
	w.Eventually(w.events).Should(HaveKey("Node " + v1alpha1.ReasonProbeFailed + " old"))
	w.Expect(w.events()).NotTo(HaveKey("Node "+v1alpha1.ReasonExpired+" old"), "the old manager has said that")
}

// unpacked unpacks a file into a folder of the test's own.
func (w *world) unpacked(path string) string {
	w.t.Helper()
	packed, err := os.Open(path)
	w.Expect(err).NotTo(HaveOccurred())
	defer packed.Close() //nolint:errcheck // it was only read
	reader, err := gzip.NewReader(packed)
	w.Expect(err).NotTo(HaveOccurred())
	content, err := io.ReadAll(reader)
	w.Expect(err).NotTo(HaveOccurred())
	file := filepath.Join(w.t.TempDir(), "manifests.yaml")
	w.Expect(os.WriteFile(file, content, 0o600)).To(Succeed())
	return file
}

// leaveBehind makes the objects of a file, with their status, and those of a Node its own.
func (w *world) leaveBehind(path string) {
	w.t.Helper()
	content, err := os.ReadFile(path)
	w.Expect(err).NotTo(HaveOccurred())
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		w.Expect(err).NotTo(HaveOccurred())
		object := &unstructured.Unstructured{}
		w.Expect(yaml.Unmarshal(document, &object.Object)).To(Succeed())
		owners := object.GetOwnerReferences()
		for i := range owners {
			owner := &corev1.Node{}
			w.Expect(w.admin.Get(w.t.Context(), client.ObjectKey{Name: owners[i].Name}, owner)).To(Succeed())
			owners[i].UID = owner.UID
		}
		object.SetOwnerReferences(owners)
		status := object.Object["status"]
		// A kind that is established may take a moment to be served.
		w.Eventually(func() error { return w.admin.Create(w.t.Context(), object) }).Should(Succeed())
		object.Object["status"] = status
		w.Expect(w.admin.Status().Update(w.t.Context(), object)).To(Succeed())
	}
}
