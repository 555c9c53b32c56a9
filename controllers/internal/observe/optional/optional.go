// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package optional watches resources that notafter may do without: the permission to read them may be missing, or their API
// not be served. The manager's own cache is no place for them, because a controller that watches one there does not start
// before it is synced, and ends the manager when that takes too long.
//
// A Source never holds up anybody. What it could not read, Err and List say; it tries again by itself, at the latest after
// a minute, and wakes those who watch it when that changes.
//
// The API server asks for permission when a watch begins, and not again while it runs. A Source therefore ends its watches
// itself, about once a minute, and begins them anew from where they were: what may no longer be read is not taken for known.
package optional

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// SettleTime is how long a controller waits, when it starts, for the first answer of a source. Most answer at once, and the
// controller is then spared to work twice.
const SettleTime = 10 * time.Second

const (
	// DefaultWatchTime is how long a watch runs.
	DefaultWatchTime = 40 * time.Second
	// watchJitter is the share of it that one watch may run longer than another, so that they don't all end together.
	watchJitter = 0.5
)

// firstRefusals in a row are believed at the start, and laterRefusals of what could be read before. The reflector waits
// longer and longer between attempts, so that this takes a second or two, and a few seconds.
const firstRefusals, laterRefusals = 2, 3

// Options say which objects a Source watches, and how it keeps them.
type Options struct {
	// Namespace limits the source to one namespace. Empty: all of them, or a resource that has none.
	Namespace string
	// FieldSelector and LabelSelector limit the objects further. Nil: all. A permission that is given for one object by its
	// name needs the field selector metadata.name.
	FieldSelector fields.Selector
	LabelSelector labels.Selector
	// WatchTime is how long a watch runs before it is begun anew, which is when a permission that was withdrawn shows. Zero:
	// DefaultWatchTime.
	WatchTime time.Duration
	// Ignore says that an object is not even kept stripped, as if it did not exist; nil: none. It has to be the same for all
	// versions of one object.
	Ignore func(metav1.Object) bool
	// Transform strips objects of what is not used before they are kept. It may change the object that it gets.
	Transform toolscache.TransformFunc
	// Indexers are what ByIndex looks up by. They get objects of the source's type.
	Indexers toolscache.Indexers
}

// Source watches objects of one type. It is a manager.Runnable: add it to the manager, or nothing is ever read.
type Source[T client.Object] struct {
	client   client.WithWatch
	options  Options
	resource schema.GroupResource
	informer toolscache.SharedIndexInformer

	mu sync.RWMutex
	// err is why the objects can't be read; nil while they can, as far as is known.
	err error
	// verb is the request that was refused last, and refusals counts those in a row.
	verb     string
	refusals int
	// watched says that a watch was begun once.
	watched bool
	// settled is closed when the first request was answered, whatever the answer.
	settled     chan struct{}
	settledOnce sync.Once
	// wake tells those who watch that Err changed.
	wake []func()
}

// New returns a source of the objects of this kind: an empty object, or an Unstructured or PartialObjectMetadata with
// apiVersion and kind.
func New[T client.Object](c client.WithWatch, kind T, o Options) (*Source[T], error) {
	gvk, err := apiutil.GVKForObject(kind, c.Scheme())
	if err != nil {
		return nil, fmt.Errorf("optional source of %T: %w", kind, err)
	}
	newList, err := listMaker(c.Scheme(), kind, gvk)
	if err != nil {
		return nil, fmt.Errorf("optional source of %s: %w", gvk.Kind, err)
	}
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	s := &Source[T]{client: c, options: o, resource: plural.GroupResource(), settled: make(chan struct{})}
	lister := toolscache.ToListWatcherWithWatchListSemantics(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return s.list(ctx, newList(), options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return s.watch(ctx, newList(), options)
		},
	}, c)
	s.informer = toolscache.NewSharedIndexInformerWithOptions(lister, kind,
		toolscache.SharedIndexInformerOptions{Indexers: o.Indexers, ObjectDescription: s.resource.String()})
	if err := s.informer.SetWatchErrorHandlerWithContext(s.failed); err != nil {
		return nil, fmt.Errorf("optional source of %s: %w", s.resource, err)
	}
	if o.Transform != nil {
		if err := s.informer.SetTransform(o.Transform); err != nil {
			return nil, fmt.Errorf("optional source of %s: %w", s.resource, err)
		}
	}
	return s, nil
}

// listMaker returns what makes the empty lists that the answers are read into.
func listMaker(scheme *runtime.Scheme, kind client.Object, gvk schema.GroupVersionKind) (func() client.ObjectList, error) {
	listKind := gvk.GroupVersion().WithKind(gvk.Kind + "List")
	if _, ok := kind.(*metav1.PartialObjectMetadata); ok {
		return func() client.ObjectList {
			list := &metav1.PartialObjectMetadataList{}
			list.SetGroupVersionKind(listKind)
			return list
		}, nil
	}
	if _, ok := kind.(runtime.Unstructured); ok {
		return func() client.ObjectList {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(listKind)
			return list
		}, nil
	}
	object, err := scheme.New(listKind)
	if err != nil {
		return nil, fmt.Errorf("its list: %w", err)
	}
	list, ok := object.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is no list", object)
	}
	return func() client.ObjectList {
		fresh, _ := list.DeepCopyObject().(client.ObjectList)
		return fresh
	}, nil
}

// Start watches until the context ends. It implements manager.Runnable.
func (s *Source[T]) Start(ctx context.Context) error {
	go s.awaitSync(ctx)
	s.informer.RunWithContext(ctx)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: a replica that takes over knows everything already.
func (*Source[T]) NeedLeaderElection() bool { return false }

// List returns all objects, in no particular order, or Err. They are shared: copy one before you change it.
func (s *Source[T]) List() ([]T, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	return typed[T](s.informer.GetStore().List()), nil
}

// ByIndex returns the objects with this value in the index, or Err. They are shared: copy one before you change it.
func (s *Source[T]) ByIndex(index, value string) ([]T, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	objects, err := s.informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil, fmt.Errorf("looking up %s by %s: %w", s.resource, index, err)
	}
	return typed[T](objects), nil
}

// IndexValues returns every value that some object has in the index, in no particular order, or Err.
func (s *Source[T]) IndexValues(index string) ([]string, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	indexer := s.informer.GetIndexer()
	if _, ok := indexer.GetIndexers()[index]; !ok {
		return nil, fmt.Errorf("looking up %s by %s: there is no such index", s.resource, index)
	}
	return indexer.ListIndexFuncValues(index), nil
}

// Get returns the object and whether it exists, or Err. It is shared: copy it before you change it.
func (s *Source[T]) Get(key types.NamespacedName) (object T, found bool, err error) {
	if err := s.Err(); err != nil {
		return object, false, err
	}
	stored, exists, err := s.informer.GetStore().GetByKey(toolscache.NewObjectName(key.Namespace, key.Name).String())
	if err != nil {
		return object, false, fmt.Errorf("looking up %s %s: %w", s.resource, key, err)
	}
	if !exists {
		return object, false, nil
	}
	object, found = stored.(T)
	return object, found, nil
}

func typed[T client.Object](objects []any) []T {
	result := make([]T, 0, len(objects))
	for _, object := range objects {
		if object, ok := object.(T); ok {
			result = append(result, object)
		}
	}
	return result
}

// Changed is a source for a controller: the handler gets the objects that come, change and go, as far as the predicates let
// them through. When what Err says changed, the handler's Generic gets an event without an object, past the predicates.
//
// The controller's start waits for the first answer of the API server, whatever that is, and never for long.
func (s *Source[T]) Changed(
	h handler.TypedEventHandler[T, reconcile.Request], predicates ...predicate.TypedPredicate[T],
) source.SyncingSource {
	return &changed[T]{source: s, handler: h, predicates: predicates}
}

type changed[T client.Object] struct {
	source     *Source[T]
	handler    handler.TypedEventHandler[T, reconcile.Request]
	predicates []predicate.TypedPredicate[T]
}

// Start implements source.Source.
func (c *changed[T]) Start(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	c.source.onErrChange(func() { c.handler.Generic(ctx, event.TypedGenericEvent[T]{}, queue) })
	events := source.TypedInformer[T, reconcile.Request]{
		Informer: c.source.informer, Handler: c.handler, Predicates: c.predicates,
	}
	if err := events.Start(ctx, queue); err != nil {
		return fmt.Errorf("watching %s: %w", c.source.resource, err)
	}
	return nil
}

// WaitForSync implements source.SyncingSource.
func (c *changed[T]) WaitForSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, SettleTime)
	defer cancel()
	select {
	case <-c.source.settled:
	case <-ctx.Done():
		logf.FromContext(ctx).Info("No answer yet, going on without", "resource", c.source.resource.String())
	}
	return nil
}
