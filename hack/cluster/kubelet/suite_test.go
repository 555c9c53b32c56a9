// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/cluster/kubelet"
)

// patience is how long anything may take on a busy machine.
const patience = 2 * time.Minute

var (
	local    *cluster.Cluster
	admin    kubernetes.Interface
	join     kubelet.Join
	approver *kubelet.Approver
	roots    = x509.NewCertPool()
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // the programs may have to be built first
	defer cancel()
	local, err = cluster.Start(ctx, cluster.Options{
		ControllerManager:      true,
		SigningDuration:        time.Hour,
		ControllerManagerFlags: []string{"--kube-api-qps=500", "--kube-api-burst=1000"},
	})
	if err != nil {
		return 1, err
	}
	defer func() {
		if stopErr := local.Stop(); err == nil {
			err = stopErr
		}
	}()
	if admin, err = kubernetes.NewForConfig(local.Config()); err != nil {
		return 1, err
	}
	roots.AppendCertsFromPEM(local.CACertPEM())
	join.API = local.Config()
	if join.BootstrapToken, err = local.BootstrapToken(ctx, time.Hour); err != nil {
		return 1, err
	}
	// Nobody approves, as in Kubernetes, until a test says so.
	approver, err = kubelet.StartApprover(ctx, local.Config(), kubelet.Verdict{Decision: kubelet.Ignore})
	if err != nil {
		return 1, err
	}
	defer approver.Stop()
	return m.Run(), nil
}

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// startKubelet starts a kubelet named after the test and waits for its Node.
func startKubelet(t *testing.T, change func(*kubelet.Options)) *kubelet.Kubelet {
	t.Helper()
	o := kubelet.Options{Join: join, Name: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), Dir: t.TempDir()}
	if change != nil {
		change(&o)
	}
	ctx := withTimeout(t)
	k, err := kubelet.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	if err := k.WaitRegistered(ctx); err != nil {
		t.Fatal(err)
	}
	return k
}

func approve(t *testing.T, k *kubelet.Kubelet) {
	t.Helper()
	approver.Set(k.Name(), kubelet.Verdict{Decision: kubelet.Approve})
	if err := k.WaitServing(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
}

// handshake returns what the endpoint presents.
func handshake(k *kubelet.Kubelet) ([]*x509.Certificate, error) { return handshakeWithin(patience, k) }

func handshakeWithin(timeout time.Duration, k *kubelet.Kubelet) ([]*x509.Certificate, error) {
	dialer := &net.Dialer{Timeout: timeout}
	conn, err := tls.DialWithDialer(dialer, "tcp", k.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates, nil
}

func verify(chain []*x509.Certificate, k *kubelet.Kubelet) error {
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: k.Addr().Addr().String()})
	return err
}

// get asks the endpoint for a path, after it verified the certificate.
func get(t *testing.T, k *kubelet.Kubelet, path, token string) (int, string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(withTimeout(t), http.MethodGet, "https://"+k.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// requests returns the signing requests of a node and signer.
func requests(t *testing.T, k *kubelet.Kubelet, signer string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	list, err := admin.CertificatesV1().CertificateSigningRequests().List(withTimeout(t),
		metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
	if err != nil {
		t.Fatal(err)
	}
	var found []certificatesv1.CertificateSigningRequest
	for _, request := range list.Items {
		if request.Spec.Username == "system:node:"+k.Name() {
			found = append(found, request)
		}
	}
	return found
}

// answersWithAlert says that the handshake ended with the alert internal_error, as Go's client sees it: not as a
// tls.AlertError, but as an OpError that says who sent it.
func answersWithAlert(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" && remote.Err.Error() == "tls: internal error"
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextCancel(withTimeout(t), 50*time.Millisecond, true, func(context.Context) (bool, error) {
		return condition(), nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func currentPEM(t *testing.T, k *kubelet.Kubelet, name string) *x509.Certificate {
	t.Helper()
	path := filepath.Join(k.Dir(), "pki", name)
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// mint issues a certificate from the Cluster CA.
func mint(t *testing.T, leaf kubelet.Leaf) *tls.Certificate {
	t.Helper()
	pair, err := kubelet.ClusterCA(local.CA()).Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// issue mints a serving certificate for a kubelet that runs.
func issue(t *testing.T, k *kubelet.Kubelet, percent int) *tls.Certificate {
	t.Helper()
	notBefore, notAfter := kubelet.Window(time.Hour, percent)
	return mint(t, kubelet.ServingLeaf(k.Name(), k.Addr().Addr().AsSlice(), notBefore, notAfter))
}

func encode(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}
