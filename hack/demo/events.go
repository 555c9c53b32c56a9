// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/api/v1alpha1"
)

// recoveryEvent waits for the Event that tells the recovery, and shows those about the node.
func (s *stage) recoveryEvent(ctx context.Context) error {
	args := []string{"get", "events.v1.events.k8s.io", "--sort-by=.metadata.creationTimestamp",
		"--field-selector=regarding.name=" + stuck,
		"-o", "custom-columns=TYPE:.type,REASON:.reason,NOTE:.note"}
	const interval = 200 * time.Millisecond
	if err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		out, err := s.kubectl(ctx, args...)
		return strings.Contains(out, v1alpha1.ReasonRecovered), err
	}); err != nil {
		return fmt.Errorf("waiting for the Event about the recovery of %s: %w", stuck, err)
	}
	return s.show(ctx, args...)
}
