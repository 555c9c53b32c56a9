// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package optional

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
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

func (s *Source[T]) list(ctx context.Context, list client.ObjectList, options metav1.ListOptions) (runtime.Object, error) {
	err := s.client.List(ctx, list, s.narrowed(&options))
	if err != nil {
		s.refused("list")
		return nil, err //nolint:wrapcheck // the reflector tells errors apart by their type, and wraps them itself
	}
	if s.options.Ignore == nil {
		return list, nil
	}
	objects, err := meta.ExtractList(list)
	if err != nil {
		return nil, fmt.Errorf("reading the list of %s: %w", s.resource, err)
	}
	objects = slices.DeleteFunc(objects, s.ignored)
	if err := meta.SetList(list, objects); err != nil {
		return nil, fmt.Errorf("shortening the list of %s: %w", s.resource, err)
	}
	return list, nil
}

// ignored says that an object is to be ignored. What a watch has besides objects, bookmarks and errors, is not.
func (s *Source[T]) ignored(o runtime.Object) bool {
	object, ok := o.(T)
	return ok && s.options.Ignore(object)
}

func (s *Source[T]) watch(ctx context.Context, list client.ObjectList, options metav1.ListOptions) (watch.Interface, error) {
	options.TimeoutSeconds = new(WatchSeconds(s.options.WatchTime))
	watcher, err := s.client.Watch(ctx, list, s.narrowed(&options))
	if err != nil {
		s.refused("watch")
		return nil, err //nolint:wrapcheck // as above
	}
	s.mu.Lock()
	s.watched, s.refusals = true, 0
	s.mu.Unlock()
	// Who may watch may list as well, by way of the watch's initial events.
	s.set(ctx, nil)
	if s.options.Ignore != nil {
		watcher = watch.Filter(watcher, func(e watch.Event) (watch.Event, bool) { return e, !s.ignored(e.Object) })
	}
	return watcher, nil
}

// WatchSeconds is how long the next watch may run where watches run for this time, or DefaultWatchTime if that is zero.
func WatchSeconds(watchTime time.Duration) int64 {
	return int64(wait.Jitter(cmp.Or(watchTime, DefaultWatchTime), watchJitter).Seconds())
}

// narrowed are the reflector's options for what this source watches.
func (s *Source[T]) narrowed(raw *metav1.ListOptions) *client.ListOptions {
	return &client.ListOptions{
		Namespace: s.options.Namespace, FieldSelector: s.options.FieldSelector, LabelSelector: s.options.LabelSelector,
		Limit: raw.Limit, Continue: raw.Continue, Raw: raw,
	}
}

func (s *Source[T]) refused(verb string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verb = verb
}

// failed gets the error with which listing or watching ended, after which the reflector waits and tries again.
func (s *Source[T]) failed(ctx context.Context, reflector *toolscache.Reflector, err error) {
	s.mu.RLock()
	verb := s.verb
	s.mu.RUnlock()
	switch {
	case apierrors.IsForbidden(err):
		s.doubt(ctx, &DeniedError{Permission: s.Permission(verb), Err: status(err)})
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		s.doubt(ctx, &UnservedError{Permission: s.Permission(verb), Resource: s.resource.String(), Err: status(err)})
	default:
		s.resetDoubt()
		toolscache.DefaultWatchErrorHandler(ctx, reflector, err)
		if !s.informer.HasSynced() {
			s.set(ctx, fmt.Errorf("%s: %w", s.Permission(verb), err))
		}
	}
}

// doubt takes a refusal for what it says only when it was repeated. While an API server starts, it refuses for a moment what
// everybody may do, because it has not read its roles yet, and does not know of APIs that it will serve.
func (s *Source[T]) doubt(ctx context.Context, err error) {
	s.mu.Lock()
	s.refusals++
	believable := firstRefusals
	if s.watched {
		believable = laterRefusals
	}
	believed := s.refusals >= believable
	s.mu.Unlock()
	if believed {
		s.set(ctx, err)
	}
}

func (s *Source[T]) resetDoubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = 0
}

// status is the API server's own answer, without what the client put around it.
func status(err error) error {
	if answer, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return answer
	}
	return err
}

// set keeps the error, and tells those who watch if it is news.
func (s *Source[T]) set(ctx context.Context, err error) {
	s.mu.Lock()
	before := s.err
	s.err = err
	wake := s.wake
	s.mu.Unlock()
	if text(before) == text(err) {
		return
	}
	log := logf.FromContext(ctx).WithValues("resource", s.resource.String())
	if err != nil {
		log.Info("Cannot be read, going on without", "cause", err.Error())
		s.settle()
	} else {
		log.Info("Can be read again")
	}
	for _, each := range wake {
		each()
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *Source[T]) settle() { s.settledOnce.Do(func() { close(s.settled) }) }

// awaitSync tells those who watch when the objects were first read: an empty list has no other event.
func (s *Source[T]) awaitSync(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.informer.HasSyncedChecker().Done():
	}
	s.settle()
	s.mu.RLock()
	wake := s.wake
	s.mu.RUnlock()
	for _, each := range wake {
		each()
	}
}

func (s *Source[T]) onErrChange(wake func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake = append(s.wake, wake)
}
