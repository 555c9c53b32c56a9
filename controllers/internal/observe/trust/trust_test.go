// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

var name = types.NamespacedName{Namespace: "kube-system", Name: "kube-root-ca.crt"}

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Data: data}
}

func TestBundleErrors(t *testing.T) {
	forbidden := interceptor.Funcs{Get: func(
		context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption,
	) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, name.Name, nil)
	}}
	for test, source := range map[string]struct {
		builder *fake.ClientBuilder
		want    string
	}{
		"no ConfigMap": {fake.NewClientBuilder(), "there is no ConfigMap"},
		"no key":       {fake.NewClientBuilder().WithObjects(configMap(nil)), "another key must be named"},
		"garbage": {
			fake.NewClientBuilder().WithObjects(configMap(map[string]string{"ca.crt": "garbage"})),
			"it must hold the Cluster CA as PEM certificates",
		},
		"forbidden": {fake.NewClientBuilder().WithInterceptorFuncs(forbidden), "grant get, list and watch"},
	} {
		t.Run(test, func(t *testing.T) {
			bundle, err := trust.New(source.builder.Build(), name, "ca.crt").Bundle(t.Context())
			if bundle != nil || err == nil {
				t.Fatalf("Bundle() = %v, %v", bundle, err)
			}
			for _, want := range []string{source.want, "kube-system/kube-root-ca.crt", `"ca.crt"`} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
		})
	}
}

func TestBundleIsParsedOncePerVersion(t *testing.T) {
	first, second := pkitest.NewCA("first"), pkitest.NewCA("second")
	object := configMap(map[string]string{"ca.crt": string(first.PEM())})
	c := fake.NewClientBuilder().WithObjects(object).Build()
	source := trust.New(c, name, "ca.crt")

	before, err := source.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := source.Bundle(t.Context())
	if err != nil || again != before {
		t.Errorf("the same ConfigMap was parsed twice: %v", err)
	}
	object.Data["ca.crt"] += string(second.PEM())
	if err := c.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	after, err := source.Bundle(t.Context())
	if err != nil || len(after.Certificates()) != 2 || after.Fingerprint() == before.Fingerprint() {
		t.Errorf("a changed ConfigMap is not seen: %v, %v", after, err)
	}
	if err := c.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	if bundle, err := source.Bundle(t.Context()); err == nil {
		t.Errorf("a deleted ConfigMap is not noticed: %v", bundle)
	}

	literal := trust.Source{Reader: c, ConfigMap: name, Key: "ca.crt"}
	if _, err := literal.Bundle(t.Context()); err == nil {
		t.Error("a Source without memory finds a deleted ConfigMap")
	}
}
