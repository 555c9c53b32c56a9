// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

func TestReplaceCA(t *testing.T) {
	t.Parallel()
	c := StartForTest(t, Options{ControllerManager: true, Log: t.Output()})
	old, _ := c.CA()

	if err := c.AddCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectPublished(t, c, 2)
	current, _ := c.CA()
	if bytes.Equal(old.SubjectKeyId, current.SubjectKeyId) {
		t.Error("the CA that signs is still the old one")
	}
	client := clientOf(t, c.Config()) // has a certificate of the old CA, and trusts both
	request := fileRequest(t, c, "serving-1", certificatesv1.KubeletServingSignerName)
	approve(t, client, request)
	if err := parseIssued(t, eventuallyIssued(t, client, request.Name)).CheckSignatureFrom(current); err != nil {
		t.Errorf("a certificate issued now: %v", err)
	}

	if err := c.RenewAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	served, err := servedBy(t.Context(), c.Config().Host)
	if err == nil {
		err = served.CheckSignatureFrom(current)
	}
	if err != nil {
		t.Errorf("the API server's certificate: %v", err)
	}

	if err := c.DropOldCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectPublished(t, c, 1)
	if _, err := clientOf(t, c.Config()).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a client with a certificate of the old CA: %v", err)
	}
}

// expectPublished waits until so many certificates are published as the Cluster CA.
func expectPublished(t *testing.T, c *Cluster, count int) {
	t.Helper()
	client := clientOf(t, c.Config())
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, eventually, true, func(ctx context.Context) (bool, error) {
		object, err := client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, RootCAConfigMap, metav1.GetOptions{})
		return err == nil && strings.Count(object.Data[rootCAKey], "BEGIN CERTIFICATE") == count, nil
	})
	if err != nil {
		t.Errorf("waiting for %d published certificates: %v", count, err)
	}
}
