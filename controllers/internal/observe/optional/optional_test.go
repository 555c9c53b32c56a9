// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package optional_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/notafter/notafter/controllers/internal/observe/optional"
)

// refusals are the answers that a fake API server gives instead of serving.
type refusals struct {
	list, watch atomic.Pointer[error]
	// timeout is what the latest watch asked for, in seconds.
	timeout atomic.Pointer[int64]
}

func (r *refusals) client(objects ...client.Object) client.WithWatch {
	answer := func(verb *atomic.Pointer[error]) error {
		if err := verb.Load(); err != nil {
			return *err
		}
		return nil
	}
	name := func(o client.Object) []string { return []string{o.GetName()} }
	c := fake.NewClientBuilder().WithObjects(objects...).WithIndex(&corev1.ConfigMap{}, "metadata.name", name).
		WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
				if err := answer(&r.list); err != nil {
					return err
				}
				return c.List(ctx, list, o...)
			},
			Watch: func(
				ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption,
			) (watch.Interface, error) {
				if err := answer(&r.watch); err != nil {
					return nil, err
				}
				r.timeout.Store((&client.ListOptions{}).ApplyOptions(o).AsListOptions().TimeoutSeconds)
				return c.Watch(ctx, list, o...)
			},
		}).Build()
	return withoutInitialEvents{c}
}

// withoutInitialEvents says of the fake API server what it can't do.
type withoutInitialEvents struct{ client.WithWatch }

func (withoutInitialEvents) IsWatchListSemanticsUnSupported() bool { return true }

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"first": name[:1]}},
		Data:       map[string]string{"big": "data"},
	}
}

func start(t *testing.T, c client.WithWatch, o optional.Options) *optional.Source[*corev1.ConfigMap] {
	t.Helper()
	s, err := optional.New(c, &corev1.ConfigMap{}, o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Start() = %v", err)
		}
	})
	return s
}

// eventually polls: the source has no call that waits, on purpose.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticks, deadline := time.NewTicker(5*time.Millisecond), time.After(time.Minute)
	defer ticks.Stop()
	for !holds() {
		select {
		case <-ticks.C:
		case <-deadline:
			t.Fatal("not in time: " + what)
		}
	}
}

func readable(s *optional.Source[*corev1.ConfigMap]) func() bool {
	return func() bool { return s.Err() == nil }
}

func TestSourceReads(t *testing.T) {
	s := start(t, new(refusals).client(configMap("a"), configMap("b")), optional.Options{
		Namespace: "kube-system",
		Transform: func(o any) (any, error) {
			if object, ok := o.(*corev1.ConfigMap); ok {
				object.Data = nil
			}
			return o, nil
		},
	})
	eventually(t, "reading", readable(s))

	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Data != nil {
		t.Errorf("List() = %v, %v, want two without data", all, err)
	}
	object, found, err := s.Get(types.NamespacedName{Namespace: "kube-system", Name: "a"})
	if err != nil || !found || object.Name != "a" {
		t.Errorf("Get(a) = %v, %v, %v", object, found, err)
	}
	if _, found, err := s.Get(types.NamespacedName{Namespace: "kube-system", Name: "c"}); err != nil || found {
		t.Errorf("Get(c) = %v, %v, want none", found, err)
	}
}

// What is ignored is not there, whether it was before the source was or came later.
func TestIgnore(t *testing.T) {
	c := new(refusals).client(configMap("a"), configMap("ignored-1"))
	s := start(t, c, optional.Options{
		Ignore: func(o metav1.Object) bool { return strings.HasPrefix(o.GetName(), "ignored") },
	})
	eventually(t, "reading", readable(s))
	names := func() []string {
		all, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, each := range all {
			names = append(names, each.Name)
		}
		slices.Sort(names)
		return names
	}
	if got := names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("at first there are %v, want a only", got)
	}
	for _, name := range []string{"ignored-2", "b"} {
		if err := c.Create(t.Context(), configMap(name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the later one", func() bool { return slices.Contains(names(), "b") })
	if got := names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("then there are %v, want a and b", got)
	}
}

func TestIndex(t *testing.T) {
	const index = "first"
	s := start(t, new(refusals).client(configMap("a"), configMap("b")), optional.Options{
		Indexers: toolscache.Indexers{index: func(o any) ([]string, error) {
			object, _ := o.(*corev1.ConfigMap)
			return []string{object.Name[:1]}, nil
		}},
	})
	eventually(t, "reading", readable(s))

	one, err := s.ByIndex(index, "b")
	if err != nil || len(one) != 1 || one[0].Name != "b" {
		t.Errorf("ByIndex() = %v, %v, want b", one, err)
	}
	values, err := s.IndexValues(index)
	slices.Sort(values)
	if err != nil || !slices.Equal(values, []string{"a", "b"}) {
		t.Errorf("IndexValues() = %v, %v, want a and b", values, err)
	}
	if _, err := s.IndexValues("none"); err == nil {
		t.Error("IndexValues() knows an index that there is not")
	}
	if _, err := s.ByIndex("none", "b"); err == nil {
		t.Error("ByIndex() knows an index that there is not")
	}
}

func TestErrBeforeStart(t *testing.T) {
	s, err := optional.New(new(refusals).client(), &corev1.ConfigMap{}, optional.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); !errors.Is(err, optional.ErrNotSynced) {
		t.Errorf("List() = %v, want ErrNotSynced", err)
	}
}

func TestErr(t *testing.T) {
	answers := map[string]error{
		"forbidden":  apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("no RBAC rule")),
		"not served": &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, SearchedVersions: []string{"v1"}},
		"not found":  apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, ""),
		"broken":     apierrors.NewInternalError(errors.New("etcd is away")),
	}
	for name, test := range map[string]struct{ list, watch, wantDenied, wantUnserved, wantText string }{
		"may neither": {"forbidden", "forbidden", "list configmaps/a in kube-system", "", "no RBAC rule"},
		"may list":    {"", "forbidden", "watch configmaps/a in kube-system", "", "no RBAC rule"},
		"not served":  {"not served", "not served", "", "configmaps", "no matches for kind"},
		"removed":     {"not found", "not found", "", "configmaps", "not found"},
		"broken":      {"broken", "broken", "", "", "etcd is away"},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			if err := answers[test.list]; err != nil {
				r.list.Store(&err)
			}
			if err := answers[test.watch]; err != nil {
				r.watch.Store(&err)
			}
			s := start(t, r.client(), optional.Options{
				Namespace: "kube-system", FieldSelector: fields.OneTermEqualSelector("metadata.name", "a"),
			})
			eventually(t, "failing", func() bool {
				err := s.Err()
				return err != nil && !errors.Is(err, optional.ErrNotSynced)
			})
			var denied *optional.DeniedError
			var unserved *optional.UnservedError
			_, err := s.List()
			if errors.As(err, &denied) != (test.wantDenied != "") || denied != nil && denied.Permission != test.wantDenied {
				t.Errorf("List() = %v, want it denied: %q", err, test.wantDenied)
			}
			if errors.As(err, &unserved) != (test.wantUnserved != "") || unserved != nil && unserved.Resource != test.wantUnserved {
				t.Errorf("List() = %v, want it unserved: %q", err, test.wantUnserved)
			}
			if !strings.Contains(err.Error(), test.wantText) {
				t.Errorf("List() = %v, want %q in it", err, test.wantText)
			}
		})
	}
}

// TestWatchTime is about a watch that runs: it ends in time, or the API server never asks again whether it is allowed.
func TestWatchTime(t *testing.T) {
	for name, test := range map[string]struct{ watchTime, least, most time.Duration }{
		"by default":    {0, 40 * time.Second, time.Minute},
		"as it is said": {4 * time.Second, 4 * time.Second, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			s := start(t, r.client(), optional.Options{WatchTime: test.watchTime})
			eventually(t, "watching", func() bool { return readable(s)() && r.timeout.Load() != nil })
			if got := time.Duration(*r.timeout.Load()) * time.Second; got < test.least || got > test.most {
				t.Errorf("the watch ends after %s, want %s to %s", got, test.least, test.most)
			}
		})
	}
}

// TestRefusalsInPassing is about an API server that is restarted, and refuses what it will allow in a moment. Before it answers
// to the list after the refusals, the source has made up its mind about them.
func TestRefusalsInPassing(t *testing.T) {
	for _, test := range []struct {
		name     string
		refusals int32
		believed bool
	}{{"two", 2, false}, {"three", 3, true}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var forbidden error = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("no RBAC rule"))
			var refused atomic.Int32
			watcher := watch.NewFake()
			watching, listing, served := make(chan struct{}), make(chan struct{}), make(chan struct{})
			serve := sync.OnceFunc(func() { close(served) })
			c := fake.NewClientBuilder().WithObjects(configMap("a")).WithInterceptorFuncs(interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
					select {
					case <-watching: // it was read before
					default:
						return c.List(ctx, list, o...)
					}
					switch count := refused.Add(1); {
					case count <= test.refusals:
						return forbidden
					case count == test.refusals+1:
						close(listing)
					}
					<-served
					return c.List(ctx, list, o...)
				},
				Watch: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
					select {
					case <-watching: // once more, after the refusals
						return watch.NewFake(), nil
					default:
						close(watching)
						return watcher, nil
					}
				},
			}).Build()
			s := start(t, withoutInitialEvents{c}, optional.Options{})
			t.Cleanup(serve) // or the source would not end
			eventually(t, "reading", readable(s))
			<-watching
			expired := apierrors.NewResourceExpired("compacted").ErrStatus // so that it lists again
			watcher.Error(&expired)
			<-listing
			if got := apierrors.IsForbidden(s.Err()); got != test.believed {
				t.Errorf("after %d refusals, Err() = %v", test.refusals, s.Err())
			}
			if all, err := s.List(); !test.believed && (err != nil || len(all) != 1) {
				t.Errorf("List() = %v, %v, want what was read before", all, err)
			}
			serve()
			eventually(t, "reading again", readable(s))
		})
	}
}

// TestChanged is about a controller that watches a source which may not be read: it starts all the same, and hears of it
// when the permission was granted.
func TestChanged(t *testing.T) {
	var r refusals
	var forbidden error = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("no RBAC rule"))
	r.list.Store(&forbidden)
	r.watch.Store(&forbidden)
	s := start(t, r.client(configMap("a")), optional.Options{})

	var created, woken atomic.Int32
	watched := s.Changed(handler.TypedFuncs[*corev1.ConfigMap, reconcile.Request]{
		CreateFunc: func(
			context.Context, event.TypedCreateEvent[*corev1.ConfigMap],
			workqueue.TypedRateLimitingInterface[reconcile.Request],
		) {
			created.Add(1)
		},
		GenericFunc: func(
			context.Context, event.TypedGenericEvent[*corev1.ConfigMap],
			workqueue.TypedRateLimitingInterface[reconcile.Request],
		) {
			woken.Add(1)
		},
	})
	if err := watched.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := watched.WaitForSync(t.Context()); err != nil {
		t.Errorf("WaitForSync() = %v, want none: a controller must start without the permission", err)
	}
	eventually(t, "failing", func() bool { return apierrors.IsForbidden(s.Err()) })
	before := woken.Load()

	r.list.Store(nil)
	r.watch.Store(nil)
	eventually(t, "reading", readable(s))
	eventually(t, "events", func() bool { return created.Load() == 1 && woken.Load() > before })
}
