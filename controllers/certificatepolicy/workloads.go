// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// workloadUse is what workloads are read for.
var workloadUse = policy.Denial{
	Source:   "workloads that mount the kubelets' static serving certificate",
	Concerns: []string{v1alpha1.ConditionServingRotationEnabled},
}

// workloads are the DaemonSets, Deployments and StatefulSets of the cluster, of which only the mounts of static serving
// certificates are kept.
type workloads struct {
	daemonSets   *optional.OnDemand[*appsv1.DaemonSet]
	deployments  *optional.OnDemand[*appsv1.Deployment]
	statefulSets *optional.OnDemand[*appsv1.StatefulSet]
}

func newWorkloads(c client.WithWatch, watchTime time.Duration) (*workloads, error) {
	options := optional.Options{Transform: stripWorkload, WatchTime: watchTime}
	var w workloads
	var errs [3]error
	w.daemonSets, errs[0] = optional.NewOnDemand(c, &appsv1.DaemonSet{}, options)
	w.deployments, errs[1] = optional.NewOnDemand(c, &appsv1.Deployment{}, options)
	w.statefulSets, errs[2] = optional.NewOnDemand(c, &appsv1.StatefulSet{}, options)
	return &w, errors.Join(errs[:]...)
}

// stripWorkload keeps a workload's name, and the volumes that mount the static serving certificate: of most workloads, none.
func stripWorkload(o any) (any, error) {
	switch w := o.(type) {
	case *appsv1.DaemonSet:
		kept := &appsv1.DaemonSet{ObjectMeta: identity(&w.ObjectMeta)}
		kept.Spec.Template.Spec.Volumes = staticMounts(w.Spec.Template.Spec.Volumes)
		return kept, nil
	case *appsv1.Deployment:
		kept := &appsv1.Deployment{ObjectMeta: identity(&w.ObjectMeta)}
		kept.Spec.Template.Spec.Volumes = staticMounts(w.Spec.Template.Spec.Volumes)
		return kept, nil
	case *appsv1.StatefulSet:
		kept := &appsv1.StatefulSet{ObjectMeta: identity(&w.ObjectMeta)}
		kept.Spec.Template.Spec.Volumes = staticMounts(w.Spec.Template.Spec.Volumes)
		return kept, nil
	}
	return o, nil
}

// staticMounts are the volumes that are one of the files of the static serving certificate, on the host.
func staticMounts(volumes []corev1.Volume) []corev1.Volume {
	var kept []corev1.Volume
	for i := range volumes {
		host := volumes[i].HostPath
		if host != nil && slices.Contains(policy.StaticServingFiles, path.Clean(host.Path)) {
			kept = append(kept, corev1.Volume{Name: volumes[i].Name, VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: path.Clean(host.Path)},
			}})
		}
	}
	return kept
}

// mounts are the volumes that stripWorkload left, and the kind of their workload.
func mounts(workload client.Object) (v1alpha1.SubjectKind, []corev1.Volume) {
	switch w := workload.(type) {
	case *appsv1.DaemonSet:
		return v1alpha1.SubjectDaemonSet, w.Spec.Template.Spec.Volumes
	case *appsv1.Deployment:
		return v1alpha1.SubjectDeployment, w.Spec.Template.Spec.Volumes
	case *appsv1.StatefulSet:
		return v1alpha1.SubjectStatefulSet, w.Spec.Template.Spec.Volumes
	}
	return "", nil
}

// mountsChanged passes the workloads that begin or cease to mount the static serving certificate.
func mountsChanged[T client.Object]() predicate.TypedPredicate[T] {
	mounting := func(workload T) bool {
		_, volumes := mounts(workload)
		return len(volumes) > 0
	}
	return predicate.TypedFuncs[T]{
		CreateFunc: func(e event.TypedCreateEvent[T]) bool { return mounting(e.Object) },
		DeleteFunc: func(e event.TypedDeleteEvent[T]) bool { return mounting(e.Object) },
		UpdateFunc: func(e event.TypedUpdateEvent[T]) bool {
			_, before := mounts(e.ObjectOld)
			_, after := mounts(e.ObjectNew)
			return !equality.Semantic.DeepEqual(before, after)
		},
	}
}

// observe returns the workloads that mount the static serving certificate, and why not all of them are known.
func (w *workloads) observe(ctx context.Context) ([]policy.Workload, []policy.Denial) {
	var o observedWorkloads
	mounting(ctx, &o, w.daemonSets)
	mounting(ctx, &o, w.deployments)
	mounting(ctx, &o, w.statefulSets)
	return o.found, o.denied
}

type observedWorkloads struct {
	found  []policy.Workload
	denied []policy.Denial
}

func mounting[T client.Object](ctx context.Context, o *observedWorkloads, s *optional.OnDemand[T]) {
	s.Want(ctx)
	all, err := s.List()
	if err != nil {
		o.denied = append(o.denied, unread(workloadUse, s.Permission("list"), err))
		return
	}
	for _, workload := range all {
		kind, volumes := mounts(workload)
		if len(volumes) == 0 {
			continue
		}
		paths := make([]string, 0, len(volumes))
		for i := range volumes {
			paths = append(paths, volumes[i].HostPath.Path)
		}
		slices.Sort(paths)
		o.found = append(o.found, policy.Workload{
			Kind: kind, Namespace: workload.GetNamespace(), Name: workload.GetName(),
			Path: strings.Join(slices.Compact(paths), " and "),
		})
	}
}
