// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package optional

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ErrNotSynced is the error of a source that has read nothing yet, and met no failure either.
var ErrNotSynced = errors.New("not read yet")

// DeniedError is the error of a source whose objects notafter is not allowed to read. It wraps the API server's answer, which
// apierrors.IsForbidden recognises.
type DeniedError struct {
	// Permission is what is missing, such as "list secrets in kube-system" or
	// "watch configmaps/kube-root-ca.crt in kube-system".
	Permission string
	// Err is the API server's answer, which names the user.
	Err error
}

// Error implements error.
func (e *DeniedError) Error() string { return fmt.Sprintf("may not %s: %v", e.Permission, e.Err) }

// Unwrap returns the API server's answer.
func (e *DeniedError) Unwrap() error { return e.Err }

// UnservedError is the error of a source whose API the API server does not serve.
type UnservedError struct {
	// Permission is what would be asked, such as "list clustertrustbundles.certificates.k8s.io".
	Permission string
	// Resource is what is not served, such as "clustertrustbundles.certificates.k8s.io".
	Resource string
	// Err says so in the words of the API server or its client.
	Err error
}

// Error implements error.
func (e *UnservedError) Error() string {
	return fmt.Sprintf("%s are not served: %v", e.Resource, e.Err)
}

// Unwrap returns the cause.
func (e *UnservedError) Unwrap() error { return e.Err }

// Err says why the objects can't be read: a *DeniedError, an *UnservedError, ErrNotSynced or, before the objects were first
// read, what else failed. It is nil when they can be read. Objects that were read once stay readable while the API server
// can't be reached, as in any cache; they do not when a permission is withdrawn, which shows in about a minute.
func (s *Source[T]) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.err == nil && !s.informer.HasSynced() {
		return fmt.Errorf("%s: %w", s.resource, ErrNotSynced)
	}
	return s.err
}

// Permission is what the verb on the source's objects is called, such as "list secrets in kube-system".
func (s *Source[T]) Permission(verb string) string {
	text := verb + " " + s.resource.String()
	if s.options.FieldSelector != nil {
		if name, ok := s.options.FieldSelector.RequiresExactMatch("metadata.name"); ok {
			text += "/" + name
		}
	}
	if s.options.Namespace != "" {
		text += " in " + s.options.Namespace
	}
	return text
}

// status is the API server's own answer, without what the client put around it.
func status(err error) error {
	if answer, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return answer
	}
	return err
}
