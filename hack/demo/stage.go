// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
	"github.com/notafter/notafter/hack/operator"
)

const (
	// patience is how long to wait for anything that the demo announces.
	patience = 90 * time.Second
	tokenTTL = time.Hour
)

// stage is where the demo plays: a cluster, its kubelets and the manager.
type stage struct {
	cluster *cluster.Cluster
	client  client.Client
	config  string // the folder of manifests
	binary  string // the manager
	dir     string // for the kubelets' and the manager's files

	kubelets *kubelet.Fleet
	approver *kubelet.Approver
	manager  *operator.Operator
}

func newStage(ctx context.Context, c *cluster.Cluster, binary, config string) (*stage, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	s := &stage{cluster: c, config: config, binary: binary}
	var err error
	if s.client, err = client.New(c.Config(), client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	token, err := c.BootstrapToken(ctx, tokenTTL)
	if err != nil {
		return nil, err
	}
	join := kubelet.Join{API: c.Config(), BootstrapToken: token, ClientCA: c.CACertPEM()}
	if s.dir, err = os.MkdirTemp("", "notafter-demo-"); err != nil {
		return nil, err
	}
	if s.kubelets, err = kubelet.NewFleet(join, s.dir); err != nil {
		return nil, err
	}
	s.approver, err = kubelet.StartApprover(ctx, c.Config(), kubelet.Verdict{Decision: kubelet.Ignore})
	return s, err
}

func (s *stage) close() {
	if s.manager != nil {
		if err := s.manager.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
		}
	}
	s.approver.Stop()
	s.kubelets.Stop()
	_ = os.RemoveAll(s.dir) // what stays is in the system's folder for temporary files
}

// explain adds the end of the manager's log to an error.
func (s *stage) explain(err error) error {
	if s.manager == nil {
		return err
	}
	return fmt.Errorf("%w\nThe end of the manager's log:\n%s", err, s.manager.LogTail())
}

// say tells the reader something.
func say(text string) {
	fmt.Printf("\n\033[1m# %s\033[0m\n", text)
}

// show runs kubectl and prints the command and what it answers.
func (s *stage) show(ctx context.Context, args ...string) error {
	out, err := s.kubectl(ctx, args...)
	fmt.Printf("$ kubectl %s\n%s", strings.Join(quoted(args), " "), out)
	return err
}

func (s *stage) kubectl(ctx context.Context, args ...string) (string, error) {
	return s.cluster.RunKubectl(ctx, "", args...)
}

// quoted makes arguments that a shell would split or expand readable as one.
func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if out[i] = arg; strings.ContainsAny(arg, " {}[]?()*\"") {
			out[i] = "'" + arg + "'"
		}
	}
	return out
}

// awaitPolicy waits until the policy's status is as wanted.
func (s *stage) awaitPolicy(ctx context.Context, what string, wanted func(*v1alpha1.CertificatePolicyStatus) bool) error {
	const interval = 100 * time.Millisecond
	policy := &v1alpha1.CertificatePolicy{}
	err := wait.PollUntilContextTimeout(ctx, interval, patience, true, func(ctx context.Context) (bool, error) {
		err := s.client.Get(ctx, client.ObjectKey{Name: policyName}, policy)
		return err == nil && wanted(&policy.Status), client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w; the findings are %v", what, err, policy.Status.Findings)
	}
	return nil
}

// compliant waits for the verdict, and for the reason if one is given.
func (s *stage) compliant(ctx context.Context, status metav1.ConditionStatus, reason string) error {
	what := fmt.Sprintf("Compliant=%s %s", status, reason)
	return s.awaitPolicy(ctx, what, func(p *v1alpha1.CertificatePolicyStatus) bool {
		c := meta.FindStatusCondition(p.Conditions, v1alpha1.ConditionCompliant)
		if c == nil || c.Status != status || reason != "" && c.Reason != reason {
			return false
		}
		fmt.Printf("%s  Compliant=%s  %s\n          %s\n", time.Now().Format(time.TimeOnly), c.Status, c.Reason, c.Message)
		return true
	})
}
