// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"maps"

	"github.com/notafter/notafter/hack/cluster/node"
)

// The nodes. Each is for other scenarios, so that several things can go wrong at once; the manager runs on the steady ones.
const (
	steady1    = "steady-1"
	steady2    = "steady-2"
	unapproved = "unapproved"
	stopped    = "stopped"
	approved   = "approved" // by notafter: nobody else decides on its requests
	misset1    = "misset-1" // without serverTLSBootstrap at first
	misset2    = "misset-2" // without rotateCertificates at first
)

var fixtures = []node.Options{
	{Name: steady1},
	{Name: steady2},
	{Name: unapproved, Kubelet: tainted(nil)},
	{Name: stopped, Kubelet: tainted(nil)},
	{Name: approved, Kubelet: tainted(nil)},
	{Name: misset1, Kubelet: tainted(map[string]any{"serverTLSBootstrap": false})},
	{Name: misset2, Kubelet: tainted(map[string]any{"rotateCertificates": false})},
}

// tainted keeps all pods away but the witnesses.
func tainted(kubelet map[string]any) map[string]any {
	all := map[string]any{"registerWithTaints": []map[string]string{{"key": "notafter.dev/e2e", "effect": "NoSchedule"}}}
	maps.Copy(all, kubelet)
	return all
}
