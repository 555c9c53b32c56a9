// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

const (
	requestTimeout   = 10 * time.Second
	leaseSeconds     = 40
	statusPostPeriod = 5 * time.Minute // nodeStatusReportFrequency of a kubelet
)

// describe sets what the kubelet knows about its Node.
func (p *process) describe(node *corev1.Node) {
	o := p.options
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	maps.Copy(node.Labels, map[string]string{
		corev1.LabelHostname:   o.Name,
		corev1.LabelOSStable:   "linux",
		corev1.LabelArchStable: runtime.GOARCH,
	})
	maps.Copy(node.Labels, o.Labels)

	status := &node.Status
	status.Addresses = nil
	if !o.NoAddress {
		status.Addresses = append(status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: o.Address.String()})
	}
	status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: o.Name})
	status.DaemonEndpoints.KubeletEndpoint.Port = int32(o.Port)
	status.NodeInfo.KubeletVersion = o.Version
	status.NodeInfo.OSImage = "simulated"
	status.NodeInfo.ContainerRuntimeVersion = "none://simulated"
	status.NodeInfo.OperatingSystem = "linux"
	status.NodeInfo.Architecture = runtime.GOARCH
	setReady(node, time.Now())
}

func setReady(node *corev1.Node, now time.Time) {
	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
		Message:            "simulated kubelet: no container runtime",
		LastHeartbeatTime:  metav1.NewTime(now),
		LastTransitionTime: metav1.NewTime(now),
	}
	for i, old := range node.Status.Conditions {
		if old.Type == ready.Type {
			if old.Status == ready.Status {
				ready.LastTransitionTime = old.LastTransitionTime
			}
			node.Status.Conditions[i] = ready
			return
		}
	}
	node.Status.Conditions = append(node.Status.Conditions, ready)
}

// register creates the Node, or brings the one that an earlier life created up to date.
func (p *process) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.options.Name}}
	p.describe(node)
	created, err := p.own.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return p.updateNode(ctx, p.describe)
	case err != nil:
		return fmt.Errorf("create Node %q: %w", p.options.Name, err)
	}
	p.serving.observe(p.options.Name, created.Status.Addresses)
	return nil
}

func (p *process) updateNode(ctx context.Context, change func(*corev1.Node)) error {
	nodes := p.own.CoreV1().Nodes()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		current, err := nodes.Get(ctx, p.options.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		wanted := current.DeepCopy()
		change(wanted)
		if !equality.Semantic.DeepEqual(current.ObjectMeta, wanted.ObjectMeta) {
			status := wanted.Status
			if current, err = nodes.Update(ctx, wanted, metav1.UpdateOptions{}); err != nil {
				return err
			}
			wanted = current.DeepCopy()
			wanted.Status = status
		}
		if !equality.Semantic.DeepEqual(current.Status, wanted.Status) {
			if current, err = nodes.UpdateStatus(ctx, wanted, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		p.serving.observe(p.options.Name, current.Status.Addresses)
		return nil
	})
	if err != nil {
		return fmt.Errorf("update Node %q: %w", p.options.Name, err)
	}
	return nil
}

// heartbeat is what is remembered from one to the next.
type heartbeat struct {
	lease  *coordinationv1.Lease
	posted time.Time // when the Node's status was last posted
	failed bool
}

// beat renews the Lease. Every few minutes, and after a failure, it posts the Node's status too.
func (p *process) beat(h *heartbeat) error {
	ctx, cancel := context.WithTimeout(p.ctx, requestTimeout)
	defer cancel()
	now := time.Now()
	err := p.renewLease(ctx, h, now)
	if err == nil && (h.failed || now.Sub(h.posted) >= statusPostPeriod) {
		err = p.updateNode(ctx, func(node *corev1.Node) { setReady(node, now) })
		if err == nil {
			h.posted = now
		}
	}
	h.failed = err != nil
	return err
}

func (p *process) renewLease(ctx context.Context, h *heartbeat, now time.Time) error {
	leases := p.own.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	name := p.options.Name
	var err error
	if h.lease == nil {
		h.lease, err = leases.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			h.lease, err = leases.Create(ctx, p.newLease(ctx), metav1.CreateOptions{})
		}
		if err != nil {
			h.lease = nil
			return fmt.Errorf("get or create Lease %q: %w", name, err)
		}
	}
	lease := h.lease.DeepCopy()
	lease.Spec.RenewTime = new(metav1.NewMicroTime(now))
	if h.lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		h.lease = nil
		return fmt.Errorf("renew Lease %q: %w", name, err)
	}
	return nil
}

func (p *process) newLease(ctx context.Context) *coordinationv1.Lease {
	name := p.options.Name
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       new(name),
			LeaseDurationSeconds: ptr.To[int32](leaseSeconds),
		},
	}
	// The owner lets the Lease go with the Node. Without it, the Lease merely stays behind.
	node, err := p.own.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		p.note(fmt.Errorf("get Node %q as the owner of its Lease: %w", name, err), "Lease without an owner")
		return lease
	}
	lease.OwnerReferences = []metav1.OwnerReference{
		*metav1.NewControllerRef(node, corev1.SchemeGroupVersion.WithKind("Node")),
	}
	lease.OwnerReferences[0].Controller, lease.OwnerReferences[0].BlockOwnerDeletion = nil, nil
	return lease
}
