// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	eventutil "k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// outbox writes Events, as a part of the evaluation that they are about. The manager's recorder would write them later, in the
// background, and they would be lost if the process ends before, as it does in every rollout.
type outbox struct {
	client client.Writer
	scheme *runtime.Scheme
	clock  clock.PassiveClock
	// instance is which replica reports.
	instance string

	mu sync.Mutex
	// waiting are the Events to write, and named is what made the name of the last one unique.
	waiting []*eventsv1.Event
	named   int64
}

// Eventf implements events.EventRecorder. The Event waits until it is delivered.
func (o *outbox) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	about, err := reference.GetReference(o.scheme, regarding)
	var other *corev1.ObjectReference
	if err == nil && related != nil {
		other, err = reference.GetReference(o.scheme, related)
	}
	if err != nil { // no object that Events are about is without a kind
		log.Log.Error(err, "An Event cannot be written", "reason", reason, "note", fmt.Sprintf(note, args...))
		return
	}
	now := o.clock.Now()
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: about.Namespace},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: reporterName, ReportingInstance: o.instance,
		Regarding: *about, Related: other,
		Type: eventType, Reason: reason, Action: action, Note: fmt.Sprintf(note, args...),
	}
	if event.Namespace == "" {
		event.Namespace = metav1.NamespaceDefault
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.named = max(o.named+1, now.UnixNano())
	event.Name = eventutil.GenerateEventName(about.Name, o.named)
	o.waiting = append(o.waiting, event)
}

// deliver writes the Events that wait. After an error, those that are not written go on waiting.
func (o *outbox) deliver(ctx context.Context) error {
	o.mu.Lock()
	events := o.waiting
	o.waiting = nil
	o.mu.Unlock()
	for i, event := range events {
		err := o.client.Create(ctx, event)
		switch {
		case err == nil:
		case apierrors.IsAlreadyExists(err): // it was written, but the answer did not arrive
		case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
			log.FromContext(ctx).Error(err, "The API server refused an Event", "reason", event.Reason, "note", event.Note)
		default:
			o.mu.Lock()
			o.waiting = append(events[i:], o.waiting...)
			o.mu.Unlock()
			return fmt.Errorf("writing the Event %s about %s %s: %w", event.Reason, event.Regarding.Kind, event.Regarding.Name, err)
		}
	}
	return nil
}
