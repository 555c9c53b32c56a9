// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Decision is what the Approver does with a request.
type Decision string

const (
	// Approve approves it. The default.
	Approve Decision = "Approve"
	// Deny denies it.
	Deny Decision = "Deny"
	// Ignore leaves it pending, as if nobody approved.
	Ignore Decision = "Ignore"
)

// Verdict is a decision and, for a denial, its reason and message.
type Verdict struct {
	Decision Decision
	Reason   string
	Message  string
}

// Approver decides about kubelet-serving CertificateSigningRequests, which nothing in Kubernetes approves. It is for
// tests and the demo ONLY: it does not check what it approves, and would give any node a certificate for any name.
type Approver struct {
	client   kubernetes.Interface
	informer cache.SharedIndexInformer
	queue    workqueue.TypedRateLimitingInterface[string]
	cancel   context.CancelFunc
	done     sync.WaitGroup

	mu       sync.Mutex
	verdicts map[string]Verdict
	fallback Verdict
}

// StartApprover starts one with the permissions of config. fallback is the verdict for nodes that have none of their own.
// ctx bounds the start only.
func StartApprover(ctx context.Context, config *rest.Config, fallback Verdict) (*Approver, error) {
	const workers = 8
	config = rest.CopyConfig(config)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("start the approver: %w", err)
	}
	servingOnly := func(o *metav1.ListOptions) {
		signer := fields.OneTermEqualSelector("spec.signerName", certificatesv1.KubeletServingSignerName)
		o.FieldSelector = signer.String()
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(servingOnly))
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 5*time.Second)
	a := &Approver{
		client:   client,
		informer: factory.Certificates().V1().CertificateSigningRequests().Informer(),
		queue:    workqueue.NewTypedRateLimitingQueue(limiter),
		verdicts: map[string]Verdict{},
		fallback: fallback,
	}
	enqueue := func(obj any) {
		if request, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
			a.queue.Add(request.Name)
		}
	}
	_, err = a.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, obj any) { enqueue(obj) },
	})
	if err != nil {
		return nil, fmt.Errorf("start the approver: %w", err)
	}
	var life context.Context
	life, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.done.Go(func() { a.informer.RunWithContext(life) })
	if !cache.WaitForCacheSync(ctx.Done(), a.informer.HasSynced) {
		a.Stop()
		return nil, errors.New("start the approver: the list of requests did not arrive in time")
	}
	for range workers {
		a.done.Go(func() {
			for a.next(life) {
			}
		})
	}
	return a, nil
}

// Set sets the verdict for a node, and applies it to its pending requests too.
func (a *Approver) Set(node string, verdict Verdict) {
	a.mu.Lock()
	a.verdicts[node] = verdict
	a.mu.Unlock()
	a.requeue()
}

// SetDefault sets the verdict for the nodes that have none of their own, and applies it to their pending requests too.
func (a *Approver) SetDefault(verdict Verdict) {
	a.mu.Lock()
	a.fallback = verdict
	a.mu.Unlock()
	a.requeue()
}

// Stop ends it.
func (a *Approver) Stop() {
	a.cancel()
	a.queue.ShutDown()
	a.done.Wait()
}

func (a *Approver) requeue() {
	for _, name := range a.informer.GetStore().ListKeys() {
		a.queue.Add(name)
	}
}

func (a *Approver) verdict(request *certificatesv1.CertificateSigningRequest) Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v, ok := a.verdicts[strings.TrimPrefix(request.Spec.Username, "system:node:")]; ok {
		return v
	}
	return a.fallback
}

func (a *Approver) next(ctx context.Context) bool {
	name, shutdown := a.queue.Get()
	if shutdown {
		return false
	}
	defer a.queue.Done(name)
	if err := a.decide(ctx, name); err != nil {
		a.queue.AddRateLimited(name)
	} else {
		a.queue.Forget(name)
	}
	return true
}

func (a *Approver) decide(ctx context.Context, name string) error {
	obj, exists, err := a.informer.GetStore().GetByKey(name)
	if err != nil || !exists {
		return err
	}
	request, ok := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || len(request.Status.Conditions) > 0 {
		return nil
	}
	v := a.verdict(request)
	condition := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "TestOnlyApproved", Message: "approved unseen by the approver for tests and the demo",
	}
	switch v.Decision {
	case Ignore:
		return nil
	case Approve:
	case Deny:
		condition.Type = certificatesv1.CertificateDenied
		condition.Reason, condition.Message = v.Reason, v.Message
		if condition.Reason == "" {
			condition.Reason = "TestOnlyDenied"
		}
	}
	request = request.DeepCopy()
	request.Status.Conditions = append(request.Status.Conditions, condition)
	_, err = a.client.CertificatesV1().CertificateSigningRequests().
		UpdateApproval(ctx, name, request, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
