// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package optional

import (
	"cmp"
	"context"
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

func (s *Source[T]) list(ctx context.Context, list client.ObjectList, options metav1.ListOptions) (runtime.Object, error) {
	err := s.client.List(ctx, list, s.narrowed(&options))
	if err != nil {
		s.refused("list")
		return nil, err // as it is: the reflector tells errors apart by their type
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
		return nil, err // likewise
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
