// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
)

// authenticationConfigMap is where the API server publishes the CAs that it was started with, for aggregated API servers.
var authenticationConfigMap = types.NamespacedName{
	Namespace: metav1.NamespaceSystem, Name: "extension-apiserver-authentication",
}

const (
	clientCAKey      = "client-ca-file"
	aggregationCAKey = "requestheader-client-ca-file"
	// apiServerService is the Service, in the namespace default, whose endpoints are the API servers.
	apiServerService   = "kubernetes"
	apiServerEndpoints = metav1.NamespaceDefault + "/" + apiServerService
)

// lister is an optional.Source, as far as it is read here.
type lister[T client.Object] interface {
	List() ([]T, error)
}

// sources are the watches on what is observed. None of them runs before a policy asks for what it gives.
type sources struct {
	endpoints      lister[*discoveryv1.EndpointSlice]
	authentication lister[*corev1.ConfigMap]
	trustBundles   lister[*certificatesv1.ClusterTrustBundle]
	apiServices    lister[*apiService]
	validating     lister[*admissionregistrationv1.ValidatingWebhookConfiguration]
	mutating       lister[*admissionregistrationv1.MutatingWebhookConfiguration]
	definitions    lister[*definition]
	// starts start what a purpose needs, once.
	starts map[v1alpha1.CertificatePurpose][]func(context.Context)
}

// want starts the watches that give what is demanded. They are not stopped again when nobody wants it any more: policies
// come and go, and what they leave is small.
func (s *sources) want(ctx context.Context, d demand) {
	var started sync.WaitGroup
	for purpose := range d.purposes {
		for _, start := range s.starts[purpose] {
			started.Go(func() { start(ctx) })
		}
	}
	started.Wait()
}

// adder adds sources to a manager and collects what the controller has to watch.
type adder struct {
	manager   manager.Manager
	client    client.WithWatch
	watchTime time.Duration
	sources   *sources
	watched   []source.Source
	errs      []error
}

// addSources makes the sources and adds them to the manager. The controller must watch what is returned.
func addSources(mgr manager.Manager, c client.WithWatch, watchTime time.Duration) (*sources, []source.Source, error) {
	s := &sources{starts: map[v1alpha1.CertificatePurpose][]func(context.Context){}}
	a := &adder{manager: mgr, client: c, watchTime: watchTime, sources: s}
	s.endpoints = addSource(a, &discoveryv1.EndpointSlice{}, optional.Options{
		Namespace:     metav1.NamespaceDefault,
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: apiServerService}),
	}, v1alpha1.PurposeAPIServer)
	s.authentication = addSource(a, &corev1.ConfigMap{}, optional.Options{
		Namespace:     authenticationConfigMap.Namespace,
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, authenticationConfigMap.Name),
	}, v1alpha1.PurposeClientCA, v1alpha1.PurposeAggregationCA)
	s.trustBundles = addSource(a, &certificatesv1.ClusterTrustBundle{}, optional.Options{},
		v1alpha1.PurposeClusterTrustBundle)
	s.apiServices = addSource(a, &apiService{}, optional.Options{}, v1alpha1.PurposeAPIServiceCA)
	s.validating = addSource(a, &admissionregistrationv1.ValidatingWebhookConfiguration{}, optional.Options{},
		v1alpha1.PurposeWebhookCA)
	s.mutating = addSource(a, &admissionregistrationv1.MutatingWebhookConfiguration{}, optional.Options{},
		v1alpha1.PurposeWebhookCA)
	s.definitions = addSource(a, &definition{}, optional.Options{}, v1alpha1.PurposeConversionWebhookCA)
	if err := errors.Join(a.errs...); err != nil {
		return nil, nil, err
	}
	return s, a.watched, nil
}

func addSource[T client.Object](
	a *adder, kind T, o optional.Options, needed ...v1alpha1.CertificatePurpose,
) lister[T] {
	o.Transform, o.WatchTime = strip, a.watchTime
	s, err := optional.NewOnDemand(a.client, kind, o)
	if err != nil {
		a.errs = append(a.errs, err)
		return nil
	}
	if err := a.manager.Add(s); err != nil {
		a.errs = append(a.errs, fmt.Errorf("adding the source of %T: %w", kind, err))
		return nil
	}
	a.watched = append(a.watched, s.Changed(wake[T]()))
	for _, purpose := range needed {
		a.sources.starts[purpose] = append(a.sources.starts[purpose], s.Want)
	}
	return s
}
