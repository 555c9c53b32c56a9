// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/notafter/notafter/hack/cluster/binaries"
	"github.com/notafter/notafter/hack/cluster/internal/filelock"
)

// eventually is how long anything may take on a busy machine.
const eventually = 2 * time.Minute

func TestTwoClustersAtOnce(t *testing.T) {
	t.Parallel()
	crds := filepath.Join("..", "..", "config", "crd", "bases")
	started := make(chan *Cluster, 2)
	t.Run("start", func(t *testing.T) {
		for range 2 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				c, err := Start(t.Context(), Options{InstallCRDs: []string{crds}, Log: t.Output()})
				if err != nil {
					t.Fatal(err)
				}
				started <- c
			})
		}
	})
	if len(started) != 2 {
		t.FailNow()
	}
	a, b := <-started, <-started
	for _, c := range []*Cluster{a, b} {
		client := clientOf(t, c.Config())
		configMap, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), RootCAConfigMap, metav1.GetOptions{})
		if err != nil || configMap.Data["ca.crt"] != string(c.CACertPEM()) {
			t.Errorf("kube-root-ca.crt without a controller manager: %v, %v", configMap.Data, err)
		}
		if _, err := client.Discovery().ServerResourcesForGroupVersion("notafter.dev/v1alpha1"); err != nil {
			t.Errorf("the CustomResourceDefinitions are not installed: %v", err)
		}
	}

	stranger := a.Config()
	stranger.Host = b.Config().Host
	_, err := clientOf(t, stranger).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("one cluster's client at the other one: got %v, want an unknown authority", err)
	}

	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	expectNothingOf(t, a.Dir())
	if _, err := clientOf(t, b.Config()).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("stopping one cluster broke the other: %v", err)
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	expectNothingOf(t, b.Dir())
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	const lifetime = 7 * time.Minute
	c := StartForTest(t, Options{ControllerManager: true, SigningDuration: lifetime, Log: t.Output()})
	admin := clientOf(t, c.Config())

	t.Run("kubelet serving, signed for the set duration", func(t *testing.T) {
		request := fileRequest(t, c, "serving-1", certificatesv1.KubeletServingSignerName)
		approve(t, admin, request)
		cert := parseIssued(t, eventuallyIssued(t, admin, request.Name))
		if left := time.Until(cert.NotAfter); left > lifetime || left < lifetime-time.Minute {
			t.Errorf("certificate is valid for another %s, want nearly %s", left, lifetime)
		}
		verify(t, c, cert, x509.ExtKeyUsageServerAuth)
	})

	t.Run("kubelet client, by bootstrap token", func(t *testing.T) {
		token, err := c.BootstrapToken(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		config := rest.AnonymousClientConfig(c.Config())
		config.BearerToken = token
		request := newRequest(t, "client-1", certificatesv1.KubeAPIServerClientKubeletSignerName)
		create(t, clientOf(t, config), request)
		verify(t, c, parseIssued(t, eventuallyIssued(t, admin, request.Name)), x509.ExtKeyUsageClientAuth)
		if _, err := c.BootstrapToken(t.Context(), time.Hour); err != nil {
			t.Errorf("a second token: %v", err)
		}
	})

	t.Run("approved but not issued while the controller manager is stopped", func(t *testing.T) {
		if err := c.StopControllerManager(); err != nil {
			t.Fatal(err)
		}
		if found, err := running(c.Dir(), binaries.ControllerManager); err != nil || len(found) > 0 {
			t.Errorf("still running: %v, %v", found, err)
		}
		request := fileRequest(t, c, "serving-2", certificatesv1.KubeletServingSignerName)
		approve(t, admin, request)
		looks := 0
		err := wait.PollUntilContextTimeout(t.Context(), pollInterval, 2*time.Second, true,
			func(context.Context) (bool, error) {
				certificate, err := issued(t.Context(), admin, request.Name)
				looks++
				return certificate != nil, err
			})
		if !wait.Interrupted(err) || looks == 0 {
			t.Errorf("issued, or failed to look, after %d looks: %v", looks, err)
		}
		for range 2 { // the second does nothing
			if err := c.StartControllerManager(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		eventuallyIssued(t, admin, request.Name)
	})

	t.Run("access", func(t *testing.T) { testAccess(t, c) })
	t.Run("listens on loopback only", func(t *testing.T) { expectLoopbackOnly(t, c) })
}

func testAccess(t *testing.T, c *Cluster) {
	t.Helper()
	t.Run("the Cluster CA can make what the signer would not", func(t *testing.T) {
		cert, key := c.CA()
		if !cert.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Error("the key is not that of the certificate")
		}
	})

	t.Run("users have what RBAC grants", func(t *testing.T) {
		config, err := c.UserConfig("jane", "some-group")
		if err != nil {
			t.Fatal(err)
		}
		_, err = clientOf(t, config).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane" cannot list`) {
			t.Errorf("listing nodes: got %v, want Forbidden", err)
		}
	})

	t.Run("kubeconfig and folder", func(t *testing.T) {
		config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigPath())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := clientOf(t, config).CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		_, err = Start(t.Context(), Options{Dir: c.Dir(), Log: t.Output()})
		if !errors.Is(err, filelock.ErrHeld) {
			t.Errorf("a second cluster in the same folder: got %v", err)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	precious := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func() error{
		"Start": func() error { _, err := Start(t.Context(), Options{Dir: dir}); return err },
		"Up":    func() error { _, _, err := Up(t.Context(), Options{Dir: dir}); return err },
		"Down":  func() error { _, err := Down(t.Context(), dir); return err },
	} {
		if err := start(); err == nil || !strings.Contains(err.Error(), "choose an empty folder") {
			t.Errorf("%s in a folder with other files: got %v", name, err)
		}
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "precious" {
		t.Errorf("somebody's file was touched: %q, %v", data, err)
	}
	if _, err := Start(t.Context(), Options{SigningDuration: -1}); err == nil {
		t.Error("negative signing duration accepted")
	}
	if _, _, err := Up(t.Context(), Options{}); err == nil {
		t.Error("detached cluster without a folder accepted")
	}
	for _, name := range []string{"", "..", "a/b", "A", "-a", strings.Repeat("a", 41)} {
		if dir, err := NamedDir(name); err == nil {
			t.Errorf("name %q accepted: %s", name, dir)
		}
	}
	if dir, err := NamedDir("a-1"); err != nil || filepath.Base(dir) != "a-1" {
		t.Errorf("name a-1: %s, %v", dir, err)
	}
}

// Not parallel: it changes the environment.
func TestStartShowsTheLogOfWhatFailed(t *testing.T) {
	good, err := binaries.Find(t.Context(), t.Output(), binaries.ControlPlane()...)
	if err != nil {
		t.Fatal(err)
	}
	assets := t.TempDir()
	for program, path := range good {
		if err := os.Symlink(path, filepath.Join(assets, string(program))); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(assets, string(binaries.APIServer))
	script := "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho a line of the past\necho the flux capacitor is empty >&2\nexit 3\n"
	if err := errors.Join(os.Remove(broken), os.WriteFile(broken, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv(binaries.AssetsEnv, assets)

	dir := t.TempDir()
	_, err = Start(t.Context(), Options{Dir: dir, Log: t.Output()})
	if err == nil {
		t.Fatal("started with a broken API server")
	}
	for _, want := range []string{"kube-apiserver", "exit status 3", "the flux capacitor is empty"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not tell %q:\n%v", want, err)
		}
	}
	expectNoProcesses(t, dir)
}

func TestStartTriesOtherPorts(t *testing.T) {
	t.Parallel()
	taken := func() *child {
		p := &child{log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
		if err := os.WriteFile(p.log, []byte("listen tcp 127.0.0.1:1: bind: address already in use\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		close(p.done)
		return p
	}
	bad := errors.New("it ended")
	seen := map[int]bool{}
	err := onFreePorts(t.Context(), 2, func(ports []int) (*child, error) {
		seen[ports[0]], seen[ports[1]] = true, true
		if len(seen) < 6 {
			return taken(), bad
		}
		return nil, nil
	})
	if err != nil || len(seen) != 6 {
		t.Errorf("got %v after the ports %v, want success at the third attempt", err, seen)
	}

	attempts := 0
	err = onFreePorts(t.Context(), 1, func([]int) (*child, error) { attempts++; return taken(), bad })
	if !errors.Is(err, bad) || attempts != portAttempts {
		t.Errorf("ports that are always taken: got %v after %d attempts", err, attempts)
	}

	attempts = 0
	err = onFreePorts(t.Context(), 1, func([]int) (*child, error) { attempts++; return nil, bad })
	if !errors.Is(err, bad) || attempts != 1 {
		t.Errorf("another failure: got %v after %d attempts, want one", err, attempts)
	}
}

func clientOf(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

const testNode = "system:node:node-1"

// newRequest makes what a kubelet called node-1 would ask of a signer.
func newRequest(t *testing.T, name, signer string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	usage := certificatesv1.UsageServerAuth
	template := x509.CertificateRequest{Subject: subject(testNode, "system:nodes")}
	if signer == certificatesv1.KubeletServingSignerName {
		template.DNSNames = []string{"node-1"}
	} else {
		usage = certificatesv1.UsageClientAuth
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: requestPEM(t, template),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}
}

func create(t *testing.T, client kubernetes.Interface, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	_, err := client.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// fileRequest files a request as the kubelet itself.
func fileRequest(t *testing.T, c *Cluster, name, signer string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	config, err := c.UserConfig(testNode, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	request := newRequest(t, name, signer)
	create(t, clientOf(t, config), request)
	return request
}

func approve(t *testing.T, client kubernetes.Interface, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", Message: "approved by a test",
	})
	_, err := client.CertificatesV1().CertificateSigningRequests().UpdateApproval(
		t.Context(), request.Name, request, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func issued(ctx context.Context, client kubernetes.Interface, name string) ([]byte, error) {
	request, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return request.Status.Certificate, nil
}

func eventuallyIssued(t *testing.T, client kubernetes.Interface, name string) (certificate []byte) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, eventually, true,
		func(ctx context.Context) (bool, error) {
			var err error
			certificate, err = issued(ctx, client, name)
			return certificate != nil, err
		})
	if err != nil {
		t.Fatalf("signing request %s: no certificate: %v", name, err)
	}
	return certificate
}

func verify(t *testing.T, c *Cluster, cert *x509.Certificate, usage x509.ExtKeyUsage) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CACertPEM())
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Errorf("the Cluster CA did not sign it: %v", err)
	}
	if cert.Subject.CommonName != testNode {
		t.Errorf("certificate of %q, want %q", cert.Subject.CommonName, testNode)
	}
}
