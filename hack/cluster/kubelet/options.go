// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
)

const (
	// DefaultPort is where a kubelet listens unless it is told otherwise.
	DefaultPort = 10250
	// AnyPort picks a free port.
	AnyPort = -1
	// DefaultVersion is the kubelet version that a Node reports unless it is told otherwise.
	DefaultVersion = "v1.37.2"
	// DefaultHeartbeat is how often a Lease is renewed. The node lifecycle controller gives up after 50 s.
	DefaultHeartbeat = 20 * time.Second
	// NoHeartbeat switches heartbeats off. After 50 s the node lifecycle controller, where it runs, sets Ready to Unknown.
	NoHeartbeat = -1

	// LabelServingCA is how a node of AKS says that serving certificate rotation is on; its value is then "cluster".
	LabelServingCA = "kubernetes.azure.com/kubelet-serving-ca"
	// LabelNodeImageVersion names the node image on AKS.
	LabelNodeImageVersion = "kubernetes.azure.com/node-image-version"
	// LabelAgentPool names the node pool on AKS.
	LabelAgentPool = "agentpool"
)

// AKSLabels returns the labels of a node of AKS with serving certificate rotation.
func AKSLabels(pool, nodeImageVersion string) map[string]string {
	return map[string]string{
		LabelServingCA:        "cluster",
		LabelNodeImageVersion: nodeImageVersion,
		LabelAgentPool:        pool,
	}
}

// ServingMode says where the serving certificate comes from.
type ServingMode string

const (
	// ServingRotation asks the API server for it and renews it: serverTLSBootstrap. The default.
	ServingRotation ServingMode = "Rotation"
	// ServingSelfSigned makes one for a year and never renews it: neither serverTLSBootstrap nor tlsCertFile.
	ServingSelfSigned ServingMode = "SelfSigned"
	// ServingStatic reads it from a file: tlsCertFile. The file holds Options.ServingCertificate, or, when that is nil,
	// what AKS puts there without serving certificate rotation: self-signed, CA:TRUE, 20 years, a DNS SAN only.
	ServingStatic ServingMode = "Static"
)

// Endpoint says how the kubelet's port treats a connection.
type Endpoint string

const (
	// EndpointServes speaks TLS, and answers with the alert internal_error while there is no certificate. The default.
	EndpointServes Endpoint = "Serves"
	// EndpointHangs accepts the connection and never says a word.
	EndpointHangs Endpoint = "Hangs"
	// EndpointRefuses refuses the connection.
	EndpointRefuses Endpoint = "Refuses"
	// EndpointBlackHole drops the packets of the connection, so that it times out.
	EndpointBlackHole Endpoint = "BlackHole"
	// EndpointGarbage answers with bytes that are not TLS.
	EndpointGarbage Endpoint = "Garbage"
)

// Join is what a bootstrap kubeconfig holds: how to reach the API server and with which token.
type Join struct {
	// API gives the API server's address and the CA to verify it with. Credentials in it are never used.
	API *rest.Config
	// BootstrapToken has the form id.secret; (*cluster.Cluster).BootstrapToken makes one. It may be empty for a kubelet
	// that has a ClientCertificate already.
	BootstrapToken string
	// ClientCA is the PEM bundle that client certificates at the kubelet's own endpoint are verified with. Defaults to
	// the CA data of API.
	ClientCA []byte
	// Log receives what a kubelet would log. The zero value discards it.
	Log logr.Logger
}

// Options describe one kubelet. Name is required, and Join and Dir too unless a Fleet starts it.
type Options struct {
	// Join says how to join the cluster. A Fleet fills it in.
	Join Join
	// Name of the Node.
	Name string
	// Dir stands for /var/lib/kubelet: the certificates are in its subfolder pki. Defaults to a folder of the Fleet.
	Dir string
	// Address to listen on and to report as InternalIP. Defaults to a free one in 127.64.0.0/10.
	Address netip.Addr
	// Port to listen on. 0 means DefaultPort, AnyPort a free one.
	Port int
	// Labels of the Node, besides the ones every kubelet sets.
	Labels map[string]string
	// Version that the Node reports. Defaults to DefaultVersion.
	Version string
	// NoAddress leaves the InternalIP out of the Node's addresses, so that no serving certificate is ever requested.
	NoAddress bool
	// NoClientRotation switches rotateCertificates off: the client certificate is requested once and never renewed.
	NoClientRotation bool
	// Serving says where the serving certificate comes from. Defaults to ServingRotation.
	Serving ServingMode
	// ServingCertificate is what is on the disk at the first start: with ServingRotation as if an earlier life of the
	// kubelet had stored it (an expired one is then not served), with ServingStatic as the static file.
	ServingCertificate *tls.Certificate
	// ClientCertificate is the client certificate on the disk at the first start; a kubelet with a valid one does not
	// bootstrap.
	ClientCertificate *tls.Certificate
	// Heartbeat is how often the Lease is renewed. 0 means DefaultHeartbeat, NoHeartbeat never.
	Heartbeat time.Duration
	// Endpoint says how the port treats connections at the start. Defaults to EndpointServes.
	Endpoint Endpoint
}

func (o *Options) complete() error {
	if o.Name == "" {
		return errors.New("kubelet options: name is empty: set the Node's name")
	}
	if o.Dir == "" {
		return fmt.Errorf("kubelet %q: options: dir is empty: set a folder for its certificates", o.Name)
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Endpoint == "" {
		o.Endpoint = EndpointServes
	}
	switch o.Serving {
	case "":
		o.Serving = ServingRotation
	case ServingRotation, ServingSelfSigned, ServingStatic:
	default:
		return fmt.Errorf("kubelet %q: options: serving %q is unknown: use Rotation, SelfSigned or Static", o.Name, o.Serving)
	}
	return nil
}
