// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/notafter/notafter/hack/operator"
)

// audit is the API server's own record of what the manager asked of it.
type audit struct{ policy, log string }

func newAudit(dir string) (audit, error) {
	a := audit{policy: filepath.Join(dir, "audit-policy.json"), log: filepath.Join(dir, "audit.log")}
	policy, err := json.Marshal(auditv1.Policy{
		TypeMeta:   metav1.TypeMeta{APIVersion: auditv1.SchemeGroupVersion.String(), Kind: "Policy"},
		OmitStages: []auditv1.Stage{auditv1.StageRequestReceived},
		Rules:      []auditv1.PolicyRule{{Level: auditv1.LevelMetadata, Users: []string{operator.ServiceAccount}}},
	})
	if err != nil {
		return audit{}, err
	}
	return a, os.WriteFile(a.policy, policy, 0o600)
}

func (a audit) flags() []string {
	return []string{"--audit-policy-file=" + a.policy, "--audit-log-path=" + a.log}
}

// requests counts what was asked, by verb and resource.
type requests map[string]int

// read counts the requests so far. A watch counts when it begins, any other request when it is answered.
func (a audit) read() (requests, error) {
	log, err := os.Open(a.log)
	if errors.Is(err, os.ErrNotExist) {
		return requests{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // it is only read
	counts := requests{}
	for events := json.NewDecoder(log); ; {
		var event auditv1.Event
		err := events.Decode(&event)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // it is being written
			return counts, nil
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", a.log, err)
		case (event.Verb == "watch") == (event.Stage == auditv1.StageResponseStarted):
			counts[kindOf(&event)]++
		}
	}
}

// follower reads the audit log as it grows.
type follower struct {
	audit       audit
	offset      int64
	seen        int
	first, last time.Time
}

// follow counts the approvals that are written from now on.
func (a audit) follow() *follower {
	f := &follower{audit: a}
	if info, err := os.Stat(a.log); err == nil {
		f.offset = info.Size()
	}
	return f
}

// read reads what was added to the log.
func (f *follower) read() error {
	log, err := os.Open(f.audit.log)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // it is only read
	if _, err := log.Seek(f.offset, io.SeekStart); err != nil {
		return err
	}
	start := f.offset
	for events := json.NewDecoder(log); ; {
		var event auditv1.Event
		err := events.Decode(&event)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // it is being written
			return nil
		case err != nil:
			return fmt.Errorf("reading %s: %w", f.audit.log, err)
		}
		f.offset = start + events.InputOffset()
		if kindOf(&event) == "update certificatesigningrequests/approval" {
			f.note(event.RequestReceivedTimestamp.Time, event.StageTimestamp.Time)
		}
	}
}

func (f *follower) note(received, answered time.Time) {
	f.seen++
	if f.first.IsZero() || received.Before(f.first) {
		f.first = received
	}
	if answered.After(f.last) {
		f.last = answered
	}
}

// await waits until so many approvals were written, and says how long that took: from when the API server received the first
// until it had answered the last.
func (f *follower) await(ctx context.Context, expected int) (time.Duration, error) {
	const interval = 100 * time.Millisecond
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(context.Context) (bool, error) {
		err := f.read()
		return f.seen >= expected, err
	})
	if err != nil {
		return 0, fmt.Errorf("waiting for %d approvals (%d so far): %w", expected, f.seen, err)
	}
	return f.last.Sub(f.first), nil
}

func kindOf(event *auditv1.Event) string {
	what, _, _ := strings.Cut(event.RequestURI, "?")
	if object := event.ObjectRef; object != nil {
		what = strings.TrimSuffix(object.Resource+"/"+object.Subresource, "/")
	}
	kind := event.Verb + " " + what
	if status := event.ResponseStatus; status != nil && status.Code >= http.StatusBadRequest {
		kind += fmt.Sprintf(" (%d)", status.Code)
	}
	return kind
}

func (r requests) since(before requests) requests {
	difference := requests{}
	for kind, count := range r {
		if more := count - before[kind]; more > 0 {
			difference[kind] = more
		}
	}
	return difference
}

// writes counts the requests that change something stored.
func (r requests) writes() int {
	count := 0
	for kind, n := range r {
		switch verb, what, _ := strings.Cut(kind, " "); {
		case strings.HasSuffix(what, "reviews"), strings.HasSuffix(what, "/token"): // these are questions
		case slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, verb):
			count += n
		}
	}
	return count
}

func (r requests) String() string {
	if len(r) == 0 {
		return "none"
	}
	var texts []string
	for _, kind := range slices.Sorted(maps.Keys(r)) {
		texts = append(texts, fmt.Sprintf("%d %s", r[kind], kind))
	}
	return strings.Join(texts, ", ")
}
