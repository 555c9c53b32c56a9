// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/notafter/notafter/hack/cluster/kubelet"
)

func TestBootstrapsRegistersAndServes(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) {
		o.Version = "v1.33.1"
		o.Labels = kubelet.AKSLabels("userpool", "AKSUbuntu-2204gen2containerd-202501.12.0")
	})
	approve(t, k)

	chain, err := handshake(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(chain, k); err != nil {
		t.Errorf("the Cluster CA did not sign what is served: %v", err)
	}
	for name, held := range map[string]*x509.Certificate{
		"kubelet-client-current.pem": k.ClientCertificate(), "kubelet-server-current.pem": k.ServingCertificate(),
	} {
		if !currentPEM(t, k, name).Equal(held) {
			t.Errorf("%s is not the certificate in use", name)
		}
	}

	ctx := withTimeout(t)
	node, err := admin.CoreV1().Nodes().Get(ctx, k.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if node.Labels[kubelet.LabelServingCA] != "cluster" || node.Labels[kubelet.LabelAgentPool] != "userpool" {
		t.Errorf("labels: %v", node.Labels)
	}
	wantAddresses := []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: k.Addr().Addr().String()}, {Type: corev1.NodeHostName, Address: k.Name()},
	}
	if diff := cmp.Diff(wantAddresses, node.Status.Addresses); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if got := node.Status.DaemonEndpoints.KubeletEndpoint.Port; got != kubelet.DefaultPort {
		t.Errorf("port %d", got)
	}
	if got := node.Status.NodeInfo.KubeletVersion; got != "v1.33.1" {
		t.Errorf("kubelet version %q", got)
	}
	eventually(t, "Lease", func() bool {
		_, err := admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, k.Name(), metav1.GetOptions{})
		return err == nil
	})
}

func TestWithoutApproverAnswersWithAlert(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, nil)
	eventually(t, "pending request", func() bool {
		return len(requests(t, k, certificatesv1.KubeletServingSignerName)) == 1
	})
	if _, err := handshake(k); !answersWithAlert(err) {
		t.Fatalf("want the alert internal_error, got %#v", err)
	}
	node, err := admin.CoreV1().Nodes().Get(withTimeout(t), k.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ready := node.Status.Conditions[0]; ready.Type != corev1.NodeReady || ready.Status != corev1.ConditionTrue {
		t.Errorf("the Node must look Ready: %v", ready)
	}

	approve(t, k)
	if chain, err := handshake(k); err != nil || verify(chain, k) != nil {
		t.Errorf("after the approval: %v", err)
	}
}

func TestDenied(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, nil)
	approver.Set(k.Name(), kubelet.Verdict{Decision: kubelet.Deny, Reason: "NotOnTheList", Message: "who is that?"})
	eventually(t, "denial", func() bool {
		all := requests(t, k, certificatesv1.KubeletServingSignerName)
		return len(all) > 0 && len(all[0].Status.Conditions) == 1 &&
			all[0].Status.Conditions[0].Type == certificatesv1.CertificateDenied &&
			all[0].Status.Conditions[0].Reason == "NotOnTheList"
	})
	if _, err := handshake(k); !answersWithAlert(err) {
		t.Errorf("want the alert internal_error, got %#v", err)
	}
	// The endpoint presents another certificate, so that the metrics can be read.
	presented := issue(t, k, 1)
	k.ServeCertificate(presented)
	metrics := token(t, "metrics")
	failed := regexp.MustCompile(`(?m)^kubelet_server_expiration_renew_errors [1-9]`)
	eventually(t, "renewal error", func() bool {
		_, body := get(t, k, "/metrics", metrics)
		return failed.MatchString(body) && strings.Contains(body, "kubelet_certificate_manager_server_ttl_seconds +Inf\n")
	})
}

func TestRenewsWhatIsDue(t *testing.T) {
	t.Parallel()
	var oldServing, oldClient *x509.Certificate
	k := startKubelet(t, func(o *kubelet.Options) {
		notBefore, notAfter := kubelet.Window(time.Hour, 95)
		client := mint(t, kubelet.ClientLeaf(o.Name, notBefore, notAfter))
		o.Address = kubelet.PickAddress()
		serving := mint(t, kubelet.ServingLeaf(o.Name, o.Address.AsSlice(), notBefore, notAfter))
		o.ClientCertificate, o.ServingCertificate = client, serving
		oldServing, oldClient = serving.Leaf, client.Leaf
	})
	if !k.ServingCertificate().Equal(oldServing) {
		t.Error("it does not serve the overdue certificate that nobody approves a successor of")
	}
	eventually(t, "client certificate renewed", func() bool { return !k.ClientCertificate().Equal(oldClient) })
	renewal := requests(t, k, certificatesv1.KubeAPIServerClientKubeletSignerName)
	if len(renewal) == 0 {
		t.Error("the client certificate was not renewed by the node itself")
	}
	approver.Set(k.Name(), kubelet.Verdict{Decision: kubelet.Approve})
	eventually(t, "serving certificate renewed", func() bool { return !k.ServingCertificate().Equal(oldServing) })
	_, body := get(t, k, "/metrics", token(t, "metrics"))
	if !strings.Contains(body, "\nkubelet_certificate_manager_server_rotation_seconds_count 1\n") {
		t.Errorf("no rotation in the metrics:\n%s", body)
	}
}

func TestExpiredClientCertificateBootstrapsAgain(t *testing.T) {
	t.Parallel()
	for name, noRotation := range map[string]bool{"rotation": false, "no rotation": true} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			k := startKubelet(t, func(o *kubelet.Options) {
				notBefore, notAfter := kubelet.Window(time.Hour, 110)
				o.ClientCertificate = mint(t, kubelet.ClientLeaf(o.Name, notBefore, notAfter))
				o.NoClientRotation = noRotation
			})
			if time.Now().After(k.ClientCertificate().NotAfter) {
				t.Error("it still uses the expired certificate")
			}
		})
	}
}

func TestSelfSigned(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned })
	chain, err := handshake(k)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	if !strings.HasPrefix(leaf.Subject.CommonName, k.Name()+"@") ||
		!strings.HasPrefix(leaf.Issuer.CommonName, k.Name()+"-ca@") {
		t.Errorf("subject %q, issuer %q", leaf.Subject, leaf.Issuer)
	}
	if len(chain) != 2 || leaf.CheckSignatureFrom(chain[1]) != nil {
		t.Error("the chain does not end in the CA that signed it")
	}
	if verify(chain, k) == nil {
		t.Error("the Cluster CA vouches for it")
	}
	if got := requests(t, k, certificatesv1.KubeletServingSignerName); len(got) > 0 {
		t.Errorf("%d serving requests", len(got))
	}
}

func TestAKSSelfSigned(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) { o.Serving = kubelet.ServingStatic })
	chain, err := handshake(k)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	if leaf.Subject.String() != leaf.Issuer.String() || !leaf.IsCA || len(leaf.IPAddresses) > 0 {
		t.Errorf("subject %q, issuer %q, CA %t, IP SANs %v", leaf.Subject, leaf.Issuer, leaf.IsCA, leaf.IPAddresses)
	}
	if years := leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24 / 365; years != 20 {
		t.Errorf("lives %v years", years)
	}
}

func TestServesWhatItIsGiven(t *testing.T) {
	t.Parallel()
	notBefore, notAfter := kubelet.Window(time.Hour, 110)
	other, err := kubelet.NewCA("another", notBefore, notAfter.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	k := startKubelet(t, func(o *kubelet.Options) {
		o.Serving = kubelet.ServingStatic
		o.Address = kubelet.PickAddress()
		// A static certificate is served although it expired: nobody looks.
		o.ServingCertificate = mint(t, kubelet.ServingLeaf(o.Name, o.Address.AsSlice(), notBefore, notAfter))
	})
	presents := func(want error) {
		t.Helper()
		chain, err := handshake(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(chain, k); err == nil || err.Error() != want.Error() {
			t.Errorf("want %v, got %v", want, err)
		}
	}
	chain, err := handshake(k)
	if err != nil {
		t.Fatal(err)
	}
	var invalid x509.CertificateInvalidError
	if err := verify(chain, k); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("want an expired certificate, got %v", err)
	}

	notBefore, notAfter = kubelet.Window(time.Hour, 1)
	foreign, err := other.Issue(kubelet.ServingLeaf(k.Name(), k.Addr().Addr().AsSlice(), notBefore, notAfter))
	if err != nil {
		t.Fatal(err)
	}
	k.ServeCertificate(foreign)
	presents(x509.UnknownAuthorityError{Cert: foreign.Leaf})

	wrongName := mint(t, kubelet.ServingLeaf(k.Name(), net.IPv4(127, 0, 0, 9), notBefore, notAfter))
	k.ServeCertificate(wrongName)
	presents(x509.HostnameError{Certificate: wrongName.Leaf, Host: k.Addr().Addr().String()})
}

func TestEndpointModes(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) { o.Serving = kubelet.ServingSelfSigned })
	isTimeout := func(err error) bool {
		var timeout net.Error
		return errors.As(err, &timeout) && timeout.Timeout()
	}
	connects := func(timeout time.Duration) bool {
		conn, err := net.DialTimeout("tcp", k.Addr().String(), timeout)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
	for _, test := range []struct {
		mode     kubelet.Endpoint
		connects bool
		want     func(error) bool
	}{
		{kubelet.EndpointHangs, true, isTimeout},
		{kubelet.EndpointRefuses, false, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }},
		{kubelet.EndpointBlackHole, false, isTimeout},
		{kubelet.EndpointGarbage, true, func(err error) bool {
			var record tls.RecordHeaderError
			return errors.As(err, &record)
		}},
		{kubelet.EndpointServes, true, func(err error) bool { return err == nil }},
	} {
		if err := k.SetEndpoint(test.mode); err != nil {
			t.Fatal(err)
		}
		connecting, shaking := patience, patience
		switch test.mode {
		case kubelet.EndpointBlackHole:
			connecting, shaking = time.Second, time.Second
		case kubelet.EndpointHangs:
			shaking = time.Second
		default:
		}
		if got := connects(connecting); got != test.connects {
			t.Errorf("%s: connects: %t", test.mode, got)
		}
		if _, err := handshakeWithin(shaking, k); !test.want(err) {
			t.Errorf("%s: handshake: %v", test.mode, err)
		}
	}
	if err := k.SetEndpoint("Sings"); err == nil {
		t.Error("an unknown mode is accepted")
	}
}

func TestNodeWithoutAddressRequestsNothing(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) { o.NoAddress = true })
	// One that has an address, and starts later, asks.
	later := startKubelet(t, func(o *kubelet.Options) { o.Name += "-later" })
	eventually(t, "request of another kubelet", func() bool {
		return len(requests(t, later, certificatesv1.KubeletServingSignerName)) > 0
	})
	if got := requests(t, k, certificatesv1.KubeletServingSignerName); len(got) > 0 {
		t.Fatalf("%d serving requests", len(got))
	}
	err := k.UpdateNode(withTimeout(t), func(node *corev1.Node) {
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: k.Addr().Addr().String()})
	})
	if err != nil {
		t.Fatal(err)
	}
	approve(t, k)
}

func TestStopAndResume(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, nil)
	approve(t, k)
	before, addr := k.ServingCertificate(), k.Addr()
	k.Stop()
	if _, err := handshake(k); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stopped: %v", err)
	}
	if k.WaitServing(withTimeout(t)) == nil {
		t.Error("a stopped kubelet serves")
	}
	ctx := withTimeout(t)
	err := k.Resume(ctx, func(o *kubelet.Options) {
		o.Version = "v1.40.0"
		o.Labels = map[string]string{kubelet.LabelNodeImageVersion: "AKSUbuntu-2204gen2containerd-202602.13.5"}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.WaitRegistered(ctx); err != nil {
		t.Fatal(err)
	}
	chain, err := handshake(k)
	if err != nil {
		t.Fatal(err)
	}
	if k.Addr() != addr || !chain[0].Equal(before) {
		t.Error("it came back elsewhere or with another certificate")
	}
	node, err := admin.CoreV1().Nodes().Get(ctx, k.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if node.Status.NodeInfo.KubeletVersion != "v1.40.0" || node.Labels[kubelet.LabelNodeImageVersion] == "" {
		t.Errorf("version %q, labels %v", node.Status.NodeInfo.KubeletVersion, node.Labels)
	}
}

func TestNodeIsRestricted(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, nil)
	err := k.UpdateNode(withTimeout(t), func(node *corev1.Node) {
		node.Labels["node-restriction.kubernetes.io/tier"] = "gold"
	})
	if err == nil || !strings.Contains(err.Error(), "is not allowed to modify labels") {
		t.Errorf("a node may label itself as it likes: %v", err)
	}
}

func TestMetricsAndConfigzNeedPermission(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, nil)
	approve(t, k)
	metricsOnly, all := token(t, "metrics"), token(t, "metrics", "configz")
	for _, test := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", "", 401},
		{"/metrics", "invalid", 401},
		{"/healthz", "", 401},
		{"/metrics", metricsOnly, 200},
		{"/configz", metricsOnly, 403},
		{"/healthz", metricsOnly, 403},
		{"/pods", metricsOnly, 403},
		{"/configz", all, 200},
		{"/pods", token(t, "proxy"), 404},
	} {
		if got, body := get(t, k, test.path, test.token); got != test.want {
			t.Errorf("%s: want %d, got %d: %s", test.path, test.want, got, body)
		}
	}
	_, body := get(t, k, "/metrics", all)
	for _, series := range []string{
		"kubelet_certificate_manager_client_ttl_seconds 3", "kubelet_certificate_manager_server_ttl_seconds 3", // of 3600
		"kubelet_certificate_manager_client_expiration_renew_errors 0", "kubelet_server_expiration_renew_errors 0",
		"kubelet_certificate_manager_server_rotation_seconds_count 0",
	} {
		if !strings.Contains(body, "\n"+series) {
			t.Errorf("no %s in\n%s", series, body)
		}
	}
}

func TestRotationOffShowsInConfigzAndMetrics(t *testing.T) {
	t.Parallel()
	k := startKubelet(t, func(o *kubelet.Options) {
		o.NoClientRotation = true
		o.Serving = kubelet.ServingStatic
		o.Address = kubelet.PickAddress()
		notBefore, notAfter := kubelet.Window(time.Hour, 1)
		o.ServingCertificate = mint(t, kubelet.ServingLeaf(o.Name, o.Address.AsSlice(), notBefore, notAfter))
	})
	all := token(t, "metrics", "configz")
	_, body := get(t, k, "/configz", all)
	var got struct {
		KubeletConfig map[string]any `json:"kubeletconfig"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	_, rotates := got.KubeletConfig["rotateCertificates"]
	_, bootstraps := got.KubeletConfig["serverTLSBootstrap"]
	if file, _ := got.KubeletConfig["tlsCertFile"].(string); rotates || bootstraps || file == "" {
		t.Errorf("configz: %s", body)
	} else if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if _, body := get(t, k, "/metrics", all); strings.Contains(body, "ttl_seconds") {
		t.Errorf("metrics of a rotation that is off:\n%s", body)
	}
	if request := bootstrapRequest(t, k); !strings.HasPrefix(request, "node-csr-") {
		t.Errorf("bootstrap request %q", request)
	}
}

func TestNothingIsRegisteredWithoutAToken(t *testing.T) {
	t.Parallel()
	k, err := kubelet.Start(t.Context(), kubelet.Options{
		Join: kubelet.Join{API: local.Config(), BootstrapToken: "abcdef.0123456789abcdef"},
		Name: "intruder", Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop()
	// One that has a token, and starts later, gets a certificate and a Node.
	startKubelet(t, nil)
	if k.ClientCertificate() != nil {
		t.Error("it has a client certificate")
	}
	if _, err := admin.CoreV1().Nodes().Get(withTimeout(t), k.Name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it has a Node: %v", err)
	}
	if _, err := handshake(k); !answersWithAlert(err) {
		t.Errorf("want the alert internal_error, got %#v", err)
	}
}

func bootstrapRequest(t *testing.T, k *kubelet.Kubelet) string {
	t.Helper()
	list, err := admin.CertificatesV1().CertificateSigningRequests().List(withTimeout(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range list.Items {
		if strings.HasPrefix(request.Spec.Username, "system:bootstrap:") &&
			strings.Contains(string(request.Status.Certificate), "BEGIN") {
			pair := k.ClientCertificate()
			if strings.Contains(string(request.Status.Certificate), encode(pair)) {
				return request.Name
			}
		}
	}
	return ""
}

// mayGet asks the API server, which takes note of permissions a little later, whether the ServiceAccount has this one.
func mayGet(t *testing.T, account, subresource string) bool {
	t.Helper()
	review, err := admin.AuthorizationV1().SubjectAccessReviews().Create(withTimeout(t), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:default:" + account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes", Subresource: subresource},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// token returns one of a new ServiceAccount that may get the subresources of nodes.
func token(t *testing.T, subresources ...string) string {
	t.Helper()
	ctx := withTimeout(t)
	var resources []string
	for _, subresource := range subresources {
		resources = append(resources, "nodes/"+subresource)
	}
	account, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "scraper-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: account.Name},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: resources, Verbs: []string{"get"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: account.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: account.Name}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, subresource := range subresources {
		eventually(t, "permission for nodes/"+subresource, func() bool { return mayGet(t, account.Name, subresource) })
	}
	issued, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, account.Name,
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Status.Token
}
