// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package access keeps which permissions turned out to be missing for what notafter cannot do without: the objects in the
// manager's cache, and the writes of what was observed. Without them everything goes on as before, on facts that get old, which
// the policies have to say. What may be missing from the start is in package optional.
package access

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/enqueue"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// Missing are the permissions that are missing.
type Missing struct {
	mu sync.Mutex
	// refused are the denials by permission, and by who was refused.
	refused map[string]map[string]policy.Denial
	changed enqueue.Signal
}

// NewMissing returns that nothing is missing.
func NewMissing() *Missing {
	return &Missing{refused: map[string]map[string]policy.Denial{}, changed: enqueue.NewSignal()}
}

// Refused notes that the API server refused, with this error, what takes the denial's permission. who tells apart those who need
// it.
func (m *Missing) Refused(who string, d policy.Denial, err error) {
	// The rest names the object, of which there may be thousands.
	_, why, found := strings.Cut(err.Error(), " is forbidden: ")
	if !found {
		why = err.Error()
	}
	d.Reason, d.Message = v1alpha1.ReasonAccessDenied, why
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused[d.Permission] == nil {
		m.refused[d.Permission] = map[string]policy.Denial{}
		m.changed.Send()
	}
	m.refused[d.Permission][who] = d
}

// Granted notes that whatever was refused to these is not any more.
func (m *Missing) Granted(who string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for permission, refused := range m.refused {
		delete(refused, who)
		if len(refused) == 0 {
			delete(m.refused, permission)
			m.changed.Send()
		}
	}
}

// Denials are the permissions that are missing, in their order.
func (m *Missing) Denials() []policy.Denial {
	m.mu.Lock()
	defer m.mu.Unlock()
	var denials []policy.Denial
	for _, permission := range slices.Sorted(maps.Keys(m.refused)) {
		refused := m.refused[permission]
		denials = append(denials, refused[slices.Min(slices.Collect(maps.Keys(refused)))])
	}
	return denials
}

// Changed receives an event after a permission was found missing, or there again. It has one receiver.
func (m *Missing) Changed() <-chan event.GenericEvent { return m.changed }
