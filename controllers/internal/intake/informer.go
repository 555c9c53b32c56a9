// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/access"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// believed is how many refusals in a row are believed. While an API server starts, it refuses for a moment what everybody may do.
const believed = 3

// cachedKind is what is missing when the objects of a kind in the manager's cache may not be read.
func cachedKind(object runtime.Object) (resource string, missing policy.Denial) {
	nodes := []string{
		v1alpha1.ConditionCertificatesCurrent, v1alpha1.ConditionBootstrapHealthy, v1alpha1.ConditionServingRotationEnabled,
		v1alpha1.ConditionApprovalHealthy,
	}
	switch object.(type) {
	case *corev1.Node:
		return "nodes", policy.Denial{Source: "the Nodes, and what they say of themselves", Concerns: nodes}
	case *v1alpha1.NodeCertificates:
		return "nodecertificates.notafter.dev", policy.Denial{Source: "what it knows of the nodes' certificates", Concerns: nodes}
	case *v1alpha1.CertificatePolicy:
		return "certificatepolicies.notafter.dev", policy.Denial{Source: "what the policies say now"}
	default:
		return "", policy.Denial{}
	}
}

// newInformer makes the informers of the manager's cache. They are like any other, but that their watches end about once a
// minute, which is when the API server asks for permission again, and that they say when it is missing: they would go on with
// what they have for ever.
func newInformer(missing *access.Missing, watchTime time.Duration) func(
	toolscache.ListerWatcher, runtime.Object, time.Duration, toolscache.Indexers,
) toolscache.SharedIndexInformer {
	return func(
		lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers,
	) toolscache.SharedIndexInformer {
		resource, denial := cachedKind(object)
		if resource == "" {
			return toolscache.NewSharedIndexInformer(lw, object, resync, indexers)
		}
		reads := &reads{
			ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw),
			resource:                 resource, denial: denial, missing: missing, watchTime: watchTime,
		}
		return toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
			ListWithContextFunc: reads.list, WatchFuncWithContext: reads.watch,
		}, object, resync, indexers)
	}
}

// reads are the requests for the objects of one kind.
type reads struct {
	toolscache.ListerWatcherWithContext

	resource  string
	denial    policy.Denial
	missing   *access.Missing
	watchTime time.Duration

	mu sync.Mutex
	// refusals are those in a row.
	refusals int
}

func (r *reads) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := r.ListWithContext(ctx, options)
	r.note("list", err)
	return list, err // as it is: the reflector tells errors apart by their type
}

func (r *reads) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.TimeoutSeconds = new(optional.WatchSeconds(r.watchTime))
	watcher, err := r.WatchWithContext(ctx, options)
	r.note("watch", err)
	return watcher, err // likewise
}

// note keeps the answer. Only who may watch has what there is: a list alone does not say that.
func (r *reads) note(verb string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case apierrors.IsForbidden(err):
		if r.refusals++; r.refusals >= believed {
			denial := r.denial
			denial.Permission = verb + " " + r.resource
			r.missing.Granted(r.resource) // the other verb
			r.missing.Refused(r.resource, denial, err)
		}
	case err == nil && verb == "watch":
		r.refusals = 0
		r.missing.Granted(r.resource)
	}
}
