// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster/binaries"
)

func TestServersGoAndComeBack(t *testing.T) {
	t.Parallel()
	c := StartForTest(t, Options{Log: t.Output()})
	client := clientOf(t, c.Config())
	read := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := client.CoreV1().ConfigMaps("kube-system").Get(ctx, RootCAConfigMap, metav1.GetOptions{})
		return err
	}
	for _, server := range []struct {
		program binaries.Program
		stop    func() error
		start   func(context.Context) error
	}{
		{binaries.APIServer, c.StopAPIServer, c.StartAPIServer},
		{binaries.Etcd, c.StopEtcd, c.StartEtcd},
	} {
		if err := server.stop(); err != nil {
			t.Fatal(err)
		}
		if err := read(t.Context()); err == nil {
			t.Errorf("the API can be read without %s", server.program)
		}
		for range 2 { // the second does nothing
			if err := server.start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		// The same client finds the same data at the same place. The API server needs a moment to find etcd again.
		if err := wait.PollUntilContextTimeout(t.Context(), pollInterval, eventually, true,
			func(ctx context.Context) (bool, error) { return read(ctx) == nil, nil }); err != nil {
			t.Errorf("the API cannot be read after %s came back: %v", server.program, read(t.Context()))
		}
	}

	opened, err := Open(t.Context(), c.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if opened.StartAPIServer(t.Context()) == nil || opened.StartEtcd(t.Context()) == nil {
		t.Error("a cluster that was only opened starts on ports that it does not know")
	}
}
