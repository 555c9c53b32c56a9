// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/notafter/notafter/api/v1alpha1"
)

// apiServer takes Events, and gives answers of the test's choice, in order.
type apiServer struct {
	client.Writer

	answers []error
	written []*eventsv1.Event
}

func (a *apiServer) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	var answer error
	if len(a.answers) > 0 {
		answer, a.answers = a.answers[0], a.answers[1:]
	}
	if event, ok := object.(*eventsv1.Event); ok && answer == nil {
		a.written = append(a.written, event)
	}
	return answer
}

func newTestScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

func TestOutboxWritesEachEventOnce(t *testing.T) {
	event := eventsv1.Resource("events")
	for _, test := range []struct {
		name    string
		answers []error // to the first attempts
		failed  bool    // the first time
		want    []string
	}{
		{"all goes well", nil, false, []string{"one", "two", "three"}},
		{"the API server is away", []error{nil, errors.New("connection refused")}, true, []string{"one", "two", "three"}},
		{"written, and the answer lost", []error{apierrors.NewAlreadyExists(event, "x")}, false, []string{"two", "three"}},
		{"refused", []error{apierrors.NewForbidden(event, "x", nil)}, false, []string{"two", "three"}},
		{"failing at one", []error{apierrors.NewInternalError(errors.New("webhook"))}, true, []string{"two", "three", "one"}},
		{"busy", []error{apierrors.NewTooManyRequests("busy", 1)}, true, []string{"one", "two", "three"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &apiServer{answers: test.answers}
			box := &outbox{client: server, scheme: newTestScheme(t), clock: testingclock.NewFakePassiveClock(start)}
			for _, note := range []string{"one", "two", "three"} {
				box.Eventf(newPolicy(), nil, corev1.EventTypeNormal, "Reason", "Action", "%s", note)
			}
			if err := box.deliver(t.Context()); (err != nil) != test.failed {
				t.Errorf("delivering: %v", err)
			}
			for range 2 {
				if err := box.deliver(t.Context()); err != nil {
					t.Errorf("delivering again: %v", err)
				}
			}
			var notes []string
			names := map[string]bool{}
			for _, event := range server.written {
				notes = append(notes, event.Note)
				names[event.Name] = true
			}
			if diff := cmp.Diff(test.want, notes); diff != "" {
				t.Errorf("Events (-want +got):\n%s", diff)
			}
			if len(names) != len(notes) {
				t.Errorf("%d Events have %d names", len(notes), len(names))
			}
		})
	}
}

// While nothing can be written, the memory that Events take has a bound, and the latest are kept.
func TestOutboxHasRoomForSoMany(t *testing.T) {
	server := &apiServer{answers: []error{errors.New("connection refused")}}
	box := &outbox{client: server, scheme: newTestScheme(t), clock: testingclock.NewFakePassiveClock(start)}
	for i := range maxWaiting + 5 {
		box.Eventf(newPolicy(), nil, corev1.EventTypeNormal, "Reason", "Action", "%d", i)
	}
	if err := box.deliver(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if err := box.deliver(t.Context()); err != nil || len(server.written) != maxWaiting || server.written[0].Note != "5" {
		t.Errorf("%d Events, %v, want the last %d", len(server.written), err, maxWaiting)
	}
}

// What fails for long, such as because of somebody's webhook, is given up.
func TestOutboxGivesUp(t *testing.T) {
	broken := apierrors.NewInternalError(errors.New("webhook"))
	server, now := &apiServer{answers: []error{broken, broken}}, testingclock.NewFakePassiveClock(start)
	box := &outbox{client: server, scheme: newTestScheme(t), clock: now}
	box.Eventf(newPolicy(), nil, corev1.EventTypeNormal, "Reason", "Action", "lost")
	if err := box.deliver(t.Context()); err == nil {
		t.Error("no error at first")
	}
	now.SetTime(start.Add(failurePatience))
	for range 2 {
		if err := box.deliver(t.Context()); err != nil || len(server.written) > 0 {
			t.Errorf("%d Events, %v, want it dropped", len(server.written), err)
		}
	}
}

func TestOutboxFillsInEvents(t *testing.T) {
	server := &apiServer{}
	box := &outbox{
		client: server, scheme: newTestScheme(t), clock: testingclock.NewFakePassiveClock(start), instance: "notafter-host",
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "2"}}
	box.Eventf(newPolicy(), node, corev1.EventTypeWarning, "Expired", "Judge", "%d%%", 100)
	if err := box.deliver(t.Context()); err != nil || len(server.written) != 1 {
		t.Fatalf("%d Events, %v", len(server.written), err)
	}
	got := server.written[0].DeepCopy()
	if got.Name == "" {
		t.Error("the Event has no name")
	}
	got.Name = ""
	want := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault}, EventTime: metav1.NewMicroTime(start),
		ReportingController: "notafter", ReportingInstance: "notafter-host",
		Regarding: corev1.ObjectReference{
			APIVersion: "notafter.dev/v1alpha1", Kind: "CertificatePolicy", Name: "cluster", UID: "1",
		},
		Related: &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "a", UID: "2"},
		Type:    corev1.EventTypeWarning, Reason: "Expired", Action: "Judge", Note: "100%",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Event (-want +got):\n%s", diff)
	}
}

// The cache of a process that takes over may lack what the one before it wrote last.
func TestMemoryIsOfTheStoredStatus(t *testing.T) {
	finding := onNode(v1alpha1.ReasonExpired, "a", v1alpha1.PurposeKubeletServing)
	cached, stored := newPolicy(), newPolicy(finding)
	r := &reconciler{
		stored: fake.NewClientBuilder().WithScheme(newTestScheme(t)).WithObjects(stored).Build(), memories: map[string]*memory{},
	}
	m, err := r.remember(t.Context(), cached)
	if err != nil {
		t.Fatal(err)
	}
	if _, announced := m.announced[keyOf(&finding)]; !announced {
		t.Error("what the cache does not know yet would be announced again")
	}
	if again, err := r.remember(t.Context(), cached); err != nil || again != m {
		t.Errorf("another memory of the same policy, %v", err)
	}
}
