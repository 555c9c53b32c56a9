// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package trust reads the trust bundle against which the kubelets' serving certificates are judged.
package trust

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/notafter/notafter/controllers/internal/pki"
)

// Reader reads ConfigMaps: an *optional.Source of them does.
type Reader interface {
	// Get returns the ConfigMap and whether there is one.
	Get(name types.NamespacedName) (*corev1.ConfigMap, bool, error)
}

// Source is the ConfigMap that holds the trust bundle. Its fields may be set by hand; New adds the memory that spares
// parsing the same bundle again.
type Source struct {
	// Reader reads the ConfigMap.
	Reader Reader
	// ConfigMap is where the bundle is.
	ConfigMap types.NamespacedName
	// Key is the key in the ConfigMap's data whose value is the bundle, as PEM blocks.
	Key string

	memo *memo
}

// memo is the bundle that was parsed last.
type memo struct {
	sync.Mutex
	version version
	bundle  *pki.TrustBundle
	err     error
}

// version identifies what a ConfigMap held.
type version struct {
	uid             types.UID
	resourceVersion string
}

// New returns a Source that parses each version of the ConfigMap once. Its copies share that memory.
func New(reader Reader, configMap types.NamespacedName, key string) Source {
	return Source{Reader: reader, ConfigMap: configMap, Key: key, memo: &memo{}}
}

// Changed passes what changes the trust bundle, of all that happens to ConfigMaps.
func (s Source) Changed() predicate.TypedPredicate[*corev1.ConfigMap] {
	named := predicate.NewTypedPredicateFuncs(func(configMap *corev1.ConfigMap) bool {
		return client.ObjectKeyFromObject(configMap) == s.ConfigMap
	})
	return predicate.And[*corev1.ConfigMap](named, predicate.TypedFuncs[*corev1.ConfigMap]{
		UpdateFunc: func(e event.TypedUpdateEvent[*corev1.ConfigMap]) bool {
			return e.ObjectOld.Data[s.Key] != e.ObjectNew.Data[s.Key]
		},
	})
}

// Bundle returns the trust bundle. The error names the ConfigMap, the key and what to do; it is the same as long as its
// cause is the same.
func (s Source) Bundle() (*pki.TrustBundle, error) {
	configMap, found, err := s.Reader.Get(s.ConfigMap)
	if err != nil {
		return nil, s.explain(err)
	}
	if !found {
		return nil, fmt.Errorf("there is no ConfigMap %s to read the Cluster CA from key %q of: create it, or name another",
			s.ConfigMap, s.Key)
	}
	if s.memo == nil {
		return s.parse(configMap)
	}
	s.memo.Lock()
	defer s.memo.Unlock()
	current := version{uid: configMap.UID, resourceVersion: configMap.ResourceVersion}
	// An object without a resourceVersion did not come from an API server.
	if current.resourceVersion == "" || s.memo.version != current {
		s.memo.bundle, s.memo.err = s.parse(configMap)
		s.memo.version = current
	}
	return s.memo.bundle, s.memo.err
}

func (s Source) parse(configMap *corev1.ConfigMap) (*pki.TrustBundle, error) {
	data, ok := configMap.Data[s.Key]
	if !ok {
		return nil, fmt.Errorf("ConfigMap %s has no key %q: it must hold the Cluster CA, or another key must be named",
			s.ConfigMap, s.Key)
	}
	bundle, err := pki.NewTrustBundle([]byte(data))
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s, key %q: %w: it must hold the Cluster CA as PEM certificates",
			s.ConfigMap, s.Key, err)
	}
	return bundle, nil
}

func (s Source) explain(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("ConfigMap %s, key %q may not be read: grant list and watch on that ConfigMap: %w",
			s.ConfigMap, s.Key, err)
	}
	return fmt.Errorf("reading ConfigMap %s, key %q: %w", s.ConfigMap, s.Key, err)
}
