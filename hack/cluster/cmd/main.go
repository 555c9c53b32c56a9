// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command cmd starts and stops local Kubernetes clusters by name.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/binaries"
)

func main() {
	logf.SetLogger(logr.Discard()) // what installs CustomResourceDefinitions would chat
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "cluster",
		Short: "Run a Kubernetes control plane on this machine, without root or containers",
		Long: `Run a Kubernetes control plane on this machine, without root or containers: etcd, kube-apiserver and
kube-controller-manager, on 127.0.0.1 only. There are no nodes; simulated ones can join.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(upCommand(), downCommand(), binariesCommand())
	return root
}

func nameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "name", "default", "which cluster; any number of them can run at once")
}

func upCommand() *cobra.Command {
	var name string
	options := cluster.Options{ControllerManager: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster in the background, unless it runs, and print how to use it",
		Example: `  eval "$(go run ./hack/cluster/cmd up)"
  kubectl get namespaces`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd, name, options) },
	}
	nameFlag(cmd, &name)
	cmd.Flags().DurationVar(&options.SigningDuration, "signing-duration", 0,
		"longest lifetime of the certificates that the cluster signs, such as 3m (default one year); "+
			"without effect on a cluster that runs")
	cmd.Flags().StringSliceVar(&options.InstallCRDs, "crds", nil, "files or folders of CustomResourceDefinitions to install")
	return cmd
}

func up(cmd *cobra.Command, name string, options cluster.Options) error {
	dir, err := cluster.NamedDir(name)
	if err != nil {
		return err
	}
	options.Dir, options.Log = dir, cmd.ErrOrStderr()
	c, started, err := cluster.Up(cmd.Context(), options)
	if err != nil {
		return err
	}
	state := "runs already"
	if started {
		state = "is ready"
	}
	cmd.PrintErrf("Cluster %q %s at %s. Its logs are in %s, its kubectl is %s.\n",
		name, state, c.Config().Host, c.LogsDir(), c.Kubectl())
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "export KUBECONFIG=%s\n", quote(c.KubeconfigPath()))
	return err
}

// quote makes one word of a path for a POSIX shell.
func quote(path string) string {
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

func downCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a cluster, in whatever state it is, and remove all of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cluster.NamedDir(name)
			if err != nil {
				return err
			}
			found, err := cluster.Down(cmd.Context(), dir)
			switch {
			case err != nil:
				return err
			case found:
				cmd.PrintErrf("Cluster %q is gone.\n", name)
			default:
				cmd.PrintErrf("There is no cluster %q.\n", name)
			}
			return nil
		},
	}
	nameFlag(cmd, &name)
	return cmd
}

func binariesCommand() *cobra.Command {
	var nodes bool
	cmd := &cobra.Command{
		Use:   "binaries",
		Short: "Find, download or build the programs of a cluster and print their paths",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			programs := binaries.ControlPlane()
			if nodes {
				programs = binaries.All()
			}
			paths, err := binaries.Find(cmd.Context(), cmd.ErrOrStderr(), programs...)
			if err != nil {
				return err
			}
			for _, program := range programs {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), paths[program]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&nodes, "nodes", false, "also those of real nodes: the scheduler, kubelet, containerd and what they need")
	return cmd
}
