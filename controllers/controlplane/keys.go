// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/notafter/notafter/controllers/internal/text"
)

const (
	// keysPath is where the API server publishes the keys that verify service account tokens. They have no expiry.
	keysPath = "/openid/v1/jwks"
	// keysPermission is what reading it takes.
	keysPermission = "get " + keysPath
	// maxKeys and maxKeyID bound what is kept of the answer.
	maxKeys  = 64
	maxKeyID = 128
	// maxKeyFailures is how many failures in a row make the wait longer: up to a minute.
	maxKeyFailures = 3
)

// signingKeys are the IDs of the keys that verify service account tokens. It is used by one goroutine at a time.
type signingKeys struct {
	get  func(ctx context.Context) ([]byte, error)
	look look
	ids  []string
	err  error
}

// getKeys asks the API server.
func getKeys(client rest.Interface) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		data, err := client.Get().AbsPath(keysPath).Timeout(lookTimeout).Do(ctx).Raw()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", keysPath, answered(data, err))
		}
		return data, nil
	}
}

// answered is the error in the API server's own words, which the client leaves out of one about raw data.
func answered(data []byte, err error) error {
	var status metav1.Status
	if json.Unmarshal(data, &status) != nil || status.Status != metav1.StatusFailure {
		return err
	}
	return &apierrors.StatusError{ErrStatus: status}
}

// refresh asks for the keys if that is due, and says whether the answer is another one than the last. An API server that does
// not publish its keys has none.
func (k *signingKeys) refresh(ctx context.Context, now time.Time, jitter float64) (changed bool, err error) {
	if k.look.next().After(now) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	data, err := k.get(ctx)
	var ids []string
	switch {
	case apierrors.IsNotFound(err):
		err = nil
	case err == nil:
		ids, err = keyIDs(data)
	}
	known := !k.look.at.IsZero() && k.err == nil
	k.look, k.err = k.look.after(err != nil, now, jitter), err
	k.look.failures = min(k.look.failures, maxKeyFailures)
	if err != nil {
		return false, err // what was known stays
	}
	changed = known && !slices.Equal(k.ids, ids)
	k.ids = ids
	return changed, nil
}

// keyIDs reads the IDs from a JSON Web Key Set (RFC 7517), in order, each once.
func keyIDs(data []byte) ([]string, error) {
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("%s is not a JSON Web Key Set: %w", keysPath, err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%s has %d keys, more than the %d that are read", keysPath, len(set.Keys), maxKeys)
	}
	ids := make([]string, 0, len(set.Keys))
	for _, key := range set.Keys {
		if key.ID != "" {
			ids = append(ids, text.Field(key.ID, maxKeyID))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
