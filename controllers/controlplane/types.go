// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Two kinds are decoded into the fields that are read, which no other field costs memory for, not even on the way: a
// CustomResourceDefinition's schemas are most of what an API server sends about it. They have no protobuf encoding.

var (
	apiServiceVersion = schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"}
	definitionVersion = schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}
)

// newScheme returns a scheme with the kinds that this package reads, and none that it does not.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(apiServiceVersion.WithKind("APIService"), &apiService{})
	scheme.AddKnownTypeWithName(apiServiceVersion.WithKind("APIServiceList"), &apiServiceList{})
	scheme.AddKnownTypeWithName(definitionVersion.WithKind("CustomResourceDefinition"), &definition{})
	scheme.AddKnownTypeWithName(definitionVersion.WithKind("CustomResourceDefinitionList"), &definitionList{})
	metav1.AddToGroupVersion(scheme, apiServiceVersion)
	metav1.AddToGroupVersion(scheme, definitionVersion)
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, admissionregistrationv1.AddToScheme, certificatesv1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	return scheme
}

// apiService is what is read of an APIService.
type apiService struct {
	// Both parts of every object's metadata. Without them by name, nobody takes this for a kind of notafter's own API.
	metav1.PartialObjectMetadata `json:",inline"`

	Spec   apiServiceSpec   `json:"spec,omitempty"`
	Status apiServiceStatus `json:"status,omitempty"`
}

type apiServiceSpec struct {
	// Service is nil for an API that the API server serves itself, which has no caBundle either.
	Service  *apiServiceReference `json:"service,omitempty"`
	CABundle []byte               `json:"caBundle,omitempty"`
}

type apiServiceReference struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

type apiServiceStatus struct {
	Conditions []apiServiceCondition `json:"conditions,omitempty"`
}

type apiServiceCondition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason,omitempty"`
	Message string                 `json:"message,omitempty"`
}

type apiServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []apiService `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (s *apiService) DeepCopyObject() runtime.Object {
	result := *s
	result.PartialObjectMetadata = *s.DeepCopy()
	if s.Spec.Service != nil {
		result.Spec.Service = new(*s.Spec.Service)
	}
	result.Spec.CABundle = slices.Clone(s.Spec.CABundle)
	result.Status.Conditions = slices.Clone(s.Status.Conditions)
	return &result
}

// DeepCopyObject implements runtime.Object.
func (l *apiServiceList) DeepCopyObject() runtime.Object {
	result := *l
	result.ListMeta = *l.DeepCopy()
	result.Items = make([]apiService, 0, len(l.Items))
	for i := range l.Items {
		if item, ok := l.Items[i].DeepCopyObject().(*apiService); ok {
			result.Items = append(result.Items, *item)
		}
	}
	return &result
}

// definition is what is read of a CustomResourceDefinition.
type definition struct {
	// Both parts of every object's metadata. Without them by name, nobody takes this for a kind of notafter's own API.
	metav1.PartialObjectMetadata `json:",inline"`

	Spec definitionSpec `json:"spec,omitempty"`
}

type definitionSpec struct {
	Conversion definitionConversion `json:"conversion,omitempty"`
}

type definitionConversion struct {
	Webhook definitionWebhook `json:"webhook,omitempty"`
}

type definitionWebhook struct {
	ClientConfig definitionClientConfig `json:"clientConfig,omitempty"`
}

type definitionClientConfig struct {
	CABundle []byte `json:"caBundle,omitempty"`
}

func (d *definition) caBundle() []byte { return d.Spec.Conversion.Webhook.ClientConfig.CABundle }

type definitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []definition `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (d *definition) DeepCopyObject() runtime.Object {
	result := *d
	result.PartialObjectMetadata = *d.DeepCopy()
	result.Spec.Conversion.Webhook.ClientConfig.CABundle = slices.Clone(d.caBundle())
	return &result
}

// DeepCopyObject implements runtime.Object.
func (l *definitionList) DeepCopyObject() runtime.Object {
	result := *l
	result.ListMeta = *l.DeepCopy()
	result.Items = make([]definition, 0, len(l.Items))
	for i := range l.Items {
		if item, ok := l.Items[i].DeepCopyObject().(*definition); ok {
			result.Items = append(result.Items, *item)
		}
	}
	return &result
}

// strip is a cache transform that leaves of an object what is read. What it does not know, it leaves as it is: that is the
// cache's own tombstones.
func strip(o any) (any, error) {
	object, ok := o.(client.Object)
	if !ok {
		return o, nil
	}
	// Annotations above all: kubectl apply keeps the whole object in one, with all its schemas.
	object.SetManagedFields(nil)
	object.SetAnnotations(nil)
	object.SetOwnerReferences(nil)
	object.SetFinalizers(nil)
	switch object := o.(type) {
	case *apiService:
		object.Labels = nil
		object.Status.Conditions = slices.DeleteFunc(object.Status.Conditions,
			func(c apiServiceCondition) bool { return c.Type != conditionAvailable })
	case *definition:
		object.Labels = nil
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		object.Labels = nil
		for i := range object.Webhooks {
			w := &object.Webhooks[i]
			*w = admissionregistrationv1.ValidatingWebhook{Name: w.Name, ClientConfig: onlyBundle(w.ClientConfig)}
		}
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		object.Labels = nil
		for i := range object.Webhooks {
			w := &object.Webhooks[i]
			*w = admissionregistrationv1.MutatingWebhook{Name: w.Name, ClientConfig: onlyBundle(w.ClientConfig)}
		}
	}
	return o, nil
}

func onlyBundle(c admissionregistrationv1.WebhookClientConfig) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{CABundle: c.CABundle}
}
