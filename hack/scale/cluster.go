// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

const (
	// requestsPerKubelet is how many signing requests each kubelet makes: for its client and its serving certificate.
	requestsPerKubelet = 2
	foreignSigner      = "example.com/foreign"
)

// startFleet starts the kubelets and waits until each serves a certificate that the cluster signed.
func startFleet(ctx context.Context, c *cluster.Cluster, dir string, nodes int) (*kubelet.Fleet, error) {
	token, err := c.BootstrapToken(ctx, time.Hour)
	if err != nil {
		return nil, err
	}
	approver, err := kubelet.StartApprover(ctx, c.Config(), kubelet.Verdict{Decision: kubelet.Approve})
	if err != nil {
		return nil, err
	}
	defer approver.Stop()
	fleet, err := kubelet.NewFleet(kubelet.Join{API: c.Config(), BootstrapToken: token}, dir)
	if err != nil {
		return nil, err
	}
	all := make([]kubelet.Options, nodes)
	for i := range all {
		all[i] = kubelet.Options{
			Name: nodeName(i), Heartbeat: kubelet.NoHeartbeat,
			Labels: kubelet.AKSLabels("pool", "AKSUbuntu-2204gen2containerd-202501.12.0"),
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := errors.Join(fleet.StartAll(ctx, all...), fleet.WaitServing(ctx)); err != nil {
		fleet.Stop()
		return nil, err
	}
	reportTime(time.Since(began), "%d simulated kubelets joined, with client and serving certificates", nodes)
	return fleet, nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

func addresses(fleet *kubelet.Fleet) []string {
	var all []string
	for _, k := range fleet.Kubelets() {
		all = append(all, k.Addr().String())
	}
	return all
}

// createForeignRequests makes signing requests that the manager has no business with.
func createForeignRequests(ctx context.Context, c *cluster.Cluster, count int) error {
	const atOnce = 32
	request, err := certificateRequest()
	if err != nil {
		return err
	}
	objects, err := newClient(c)
	if err != nil {
		return err
	}
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range count {
		group.Go(func() error {
			return objects.Create(ctx, &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("foreign-%05d", i)},
				Spec: certificatesv1.CertificateSigningRequestSpec{
					Request: request, SignerName: foreignSigner,
					Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
				},
			})
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("creating signing requests to %s: %w", foreignSigner, err)
	}
	reportTime(time.Since(began), "%d signing requests to %s created", count, foreignSigner)
	return nil
}

func certificateRequest() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "somebody", Organization: []string{"example"}}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func newClient(c *cluster.Cluster) (client.Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.New(c.Config(), client.Options{Scheme: scheme})
}
