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
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/notafter/notafter/hack/cluster"
	"github.com/notafter/notafter/hack/dnsserver"
)

const (
	// bareApprovalsFlag makes this program the bare loop of approvals: a process of its own, as the manager is one.
	bareApprovalsFlag = "bare-approvals"
	approvalDomain    = "nodes.example"
	// creators is how many objects are created at once.
	creators = 32
)

// approvalLoad makes nodes and their requests.
type approvalLoad struct {
	nodes  int
	client kubernetes.Interface
	key    *ecdsa.PrivateKey
	// addresses of the nodes: on loopback, where nobody answers.
	addresses []netip.Addr
}

func newApprovalLoad(c *cluster.Cluster, nodes int) (*approvalLoad, error) {
	client, err := unlimited(c.Config())
	if err != nil {
		return nil, err
	}
	l := &approvalLoad{nodes: nodes, client: client}
	for address := netip.MustParseAddr("127.100.0.1"); len(l.addresses) < nodes; address = address.Next() {
		l.addresses = append(l.addresses, address)
	}
	l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return l, err
}

func unlimited(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.ContentType = -1, runtime.ContentTypeProtobuf
	return kubernetes.NewForConfig(config)
}

func approvalNode(i int) string { return nodeName(i) + "." + approvalDomain }

// silent is how many of the nodes' names resolve gives no answer for.
func (l *approvalLoad) silent() int { return (l.nodes + silentShare - 1) / silentShare }

// resolve is what DNS says of the nodes' names.
func (l *approvalLoad) resolve(name string) dnsserver.Reply {
	var i int
	if _, err := fmt.Sscanf(strings.TrimSuffix(name, "."+approvalDomain), "node-%05d", &i); err != nil || i >= l.nodes {
		return dnsserver.Reply{}
	}
	if i%silentShare == 0 {
		return dnsserver.Reply{BlackHole: true}
	}
	return dnsserver.Reply{Addresses: []netip.Addr{l.addresses[i]}}
}

func (l *approvalLoad) each(ctx context.Context, what string, create func(ctx context.Context, i int) error) error {
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range l.nodes {
		group.Go(func() error { return create(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("creating %s: %w", what, err)
	}
	reportTime(time.Since(began), "%d %s created", l.nodes, what)
	return nil
}

func (l *approvalLoad) createNodes(ctx context.Context) error {
	return l.each(ctx, "Nodes", func(ctx context.Context, i int) error {
		name := approvalNode(i)
		_, err := l.client.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: l.addresses[i].String()}, {Type: corev1.NodeHostName, Address: name},
			}},
		}, metav1.CreateOptions{})
		return err
	})
}

// createRequests files a request for each node, as that node.
func (l *approvalLoad) createRequests(ctx context.Context) error {
	return l.each(ctx, "signing requests of the nodes", func(ctx context.Context, i int) error {
		request, err := l.request(i)
		if err != nil {
			return err
		}
		return l.client.CertificatesV1().RESTClient().Post().Resource("certificatesigningrequests").
			SetHeader("Impersonate-User", "system:node:"+approvalNode(i)).
			SetHeader("Impersonate-Group", "system:nodes", "system:authenticated").
			Body(request).Do(ctx).Error()
	})
}

func (l *approvalLoad) request(i int) (*certificatesv1.CertificateSigningRequest, error) {
	name := approvalNode(i)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
		DNSNames: []string{name}, IPAddresses: []net.IP{l.addresses[i].AsSlice()},
	}, l.key)
	if err != nil {
		return nil, err
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeletServingSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, nil
}

func (l *approvalLoad) deleteRequests(ctx context.Context) error {
	return l.delete(ctx, certificatesv1.KubeletServingSignerName)
}

func (l *approvalLoad) deleteForeign(ctx context.Context) error { return l.delete(ctx, foreignSigner) }

// delete deletes the requests to a signer, one by one: to delete thousands at once takes the API server longer than it allows.
func (l *approvalLoad) delete(ctx context.Context, signer string) error {
	requests := l.client.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range list.Items {
		group.Go(func() error { return requests.Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{}) })
	}
	return group.Wait()
}

// approveAll is the bare loop: it lists the nodes' requests and writes an approval of each, unseen.
func approveAll(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := unlimited(config)
	if err != nil {
		return err
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeletServingSignerName})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i := range list.Items {
		group.Go(func() error {
			request := &list.Items[i]
			request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
				Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "BareLoop", Message: "approved unseen",
			}}
			_, err := requests.UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{})
			return err
		})
	}
	return group.Wait()
}
