// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	eventutil "k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// maxWaiting is how many Events wait at most while the API server cannot be reached.
	maxWaiting = 1000
	// failurePatience is how long the API server may fail at an Event before it is dropped.
	failurePatience = 10 * time.Minute
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
		logf.Log.Error(err, "An Event cannot be written", "reason", reason, "note", fmt.Sprintf(note, args...))
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

// deliver writes the Events that wait. Those that the API server cannot be reached for, or has no time for, go on waiting, as
// many as there is room for, and so does for a while what it fails at, as it does where a webhook of somebody's is broken: that
// one holds up no other. What is refused would be refused again, and is logged.
func (o *outbox) deliver(ctx context.Context) error {
	o.mu.Lock()
	events := o.waiting
	o.waiting = nil
	o.mu.Unlock()
	var later []*eventsv1.Event
	var failure error
	for i, event := range events {
		err := o.client.Create(ctx, event)
		switch {
		case err == nil:
		case apierrors.IsAlreadyExists(err): // it was written, but the answer did not arrive
		case mayPass(err):
			o.keep(ctx, append(later, events[i:]...))
			return unwritten(event, err)
		case apierrors.IsInternalError(err) && o.clock.Since(event.EventTime.Time) < failurePatience:
			later, failure = append(later, event), unwritten(event, err)
		default:
			logf.FromContext(ctx).Error(err, "The API server refused an Event", "reason", event.Reason, "note", event.Note)
		}
	}
	o.keep(ctx, later)
	return failure
}

func unwritten(event *eventsv1.Event, err error) error {
	return fmt.Errorf("writing the Event %s about %s %s: %w", event.Reason, event.Regarding.Kind, event.Regarding.Name, err)
}

// mayPass says that the same write may succeed later: the API server did not answer, or asked for patience.
func mayPass(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err)
}

// keep has the Events wait before all others. The oldest give way if there is no room.
func (o *outbox) keep(ctx context.Context, events []*eventsv1.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(events, o.waiting...)
	if excess := len(o.waiting) - maxWaiting; excess > 0 {
		logf.FromContext(ctx).Error(nil, "Too many Events wait to be written, and the oldest are dropped", "dropped", excess)
		o.waiting = slices.Clone(o.waiting[excess:])
	}
}
