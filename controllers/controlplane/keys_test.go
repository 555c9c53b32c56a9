// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/notafter/notafter/controllers/internal/pki/pkitest"
)

func TestSigningKeys(t *testing.T) {
	var answer string
	var failure error
	asked := 0
	keys := signingKeys{get: func(context.Context) ([]byte, error) {
		asked++
		return []byte(answer), failure
	}}
	now := pkitest.Start()
	refresh := func(after time.Duration) (bool, error) {
		now = now.Add(after)
		return keys.refresh(t.Context(), now, 0)
	}
	want := func(changed bool, ids ...string) {
		t.Helper()
		got, err := refresh(lookInterval)
		if err != nil || got != changed || !slices.Equal(keys.ids, ids) {
			t.Errorf("changed %v, keys %v, error %v: want %v, %v", got, keys.ids, err, changed, ids)
		}
	}
	answer = `{"keys":[{"kid":"b","kty":"RSA"},{"kid":"a"},{"kid":"a"},{}]}`
	want(false, "a", "b") // the first answer is no change
	if _, err := refresh(time.Minute); err != nil || asked != 1 {
		t.Errorf("asked %d times within the interval, error %v", asked, err)
	}
	want(false, "a", "b")
	answer = `{"keys":[{"kid":"c"}]}`
	want(true, "c")

	failure = errors.New("no answer")
	if changed, err := refresh(lookInterval); err == nil || changed || !slices.Equal(keys.ids, []string{"c"}) {
		t.Errorf("after a failure: changed %v, error %v, keys %v", changed, err, keys.ids)
	}
	if next := keys.look.next().Sub(now); next != firstBackoff {
		t.Errorf("tried again after %s, want %s", next, firstBackoff)
	}
	failure = apierrors.NewNotFound(schema.GroupResource{}, "")
	want(false)
	failure, answer = nil, "<html>"
	if _, err := refresh(lookInterval); err == nil || !strings.Contains(err.Error(), "JSON Web Key Set") {
		t.Errorf("got error %v", err)
	}
	if _, err := keyIDs([]byte(`{"keys":[` + strings.Repeat(`{"kid":"x"},`, maxKeys) + `{}]}`)); err == nil {
		t.Error("an endless key set is taken")
	}
}
