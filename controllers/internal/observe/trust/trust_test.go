// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/observe/trust"
	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

var name = types.NamespacedName{Namespace: "kube-system", Name: "kube-root-ca.crt"}

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Data: data}
}

// reader answers with what it holds: one ConfigMap, none, or an error.
type reader struct {
	configMap *corev1.ConfigMap
	err       error
}

func (r reader) Get(key types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	if r.err != nil || r.configMap == nil || client.ObjectKeyFromObject(r.configMap) != key {
		return nil, false, r.err
	}
	return r.configMap, true, nil
}

func TestBundleErrors(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, name.Name, nil)
	for test, source := range map[string]struct {
		reader reader
		want   string
	}{
		"no ConfigMap": {reader{}, "there is no ConfigMap"},
		"no key":       {reader{configMap: configMap(nil)}, "another key must be named"},
		"garbage": {
			reader{configMap: configMap(map[string]string{"ca.crt": "garbage"})},
			"it must hold the Cluster CA as PEM certificates",
		},
		"forbidden": {reader{err: forbidden}, "grant list and watch"},
		"not read":  {reader{err: optional.ErrNotSynced}, "not read yet"},
	} {
		t.Run(test, func(t *testing.T) {
			bundle, err := trust.New(source.reader, name, "ca.crt").Bundle()
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
	object.ResourceVersion = "1"
	api := &reader{configMap: object}
	source := trust.New(api, name, "ca.crt")

	before, err := source.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	again, err := source.Bundle()
	if err != nil || again != before {
		t.Errorf("the same ConfigMap was parsed twice: %v", err)
	}
	api.configMap = object.DeepCopy()
	api.configMap.Data["ca.crt"] += string(second.PEM())
	api.configMap.ResourceVersion = "2"
	after, err := source.Bundle()
	if err != nil || len(after.Certificates()) != 2 || after.Fingerprint() == before.Fingerprint() {
		t.Errorf("a changed ConfigMap is not seen: %v, %v", after, err)
	}
	api.configMap = nil
	if bundle, err := source.Bundle(); err == nil {
		t.Errorf("a deleted ConfigMap is not noticed: %v", bundle)
	}

	literal := trust.Source{Reader: api, ConfigMap: name, Key: "ca.crt"}
	if _, err := literal.Bundle(); err == nil {
		t.Error("a Source without memory finds a deleted ConfigMap")
	}
}

func TestChanged(t *testing.T) {
	changed := trust.Source{ConfigMap: name, Key: "ca.crt"}.Changed()
	bundle := configMap(map[string]string{"ca.crt": "one"})
	updated := func(data map[string]string) bool {
		return changed.Update(event.TypedUpdateEvent[*corev1.ConfigMap]{ObjectOld: bundle, ObjectNew: configMap(data)})
	}
	if !updated(map[string]string{"ca.crt": "two"}) || !updated(nil) {
		t.Error("another bundle, or none, is no change")
	}
	if updated(map[string]string{"ca.crt": "one", "other": "two"}) {
		t.Error("another key is a change")
	}
	if !changed.Delete(event.TypedDeleteEvent[*corev1.ConfigMap]{Object: bundle}) {
		t.Error("the deletion is no change")
	}
	other := bundle.DeepCopy()
	other.Name = "another"
	if changed.Create(event.TypedCreateEvent[*corev1.ConfigMap]{Object: other}) {
		t.Error("another ConfigMap is a change")
	}
}
