// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	adminUser  = "kubernetes-admin"
	adminGroup = "system:masters"

	// Tests do in seconds what clients elsewhere do in hours.
	clientQPS   = 1000
	clientBurst = 2000
)

// Config returns a new configuration for a client that may do everything.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// UserConfig returns a configuration for a client with the given name and groups, which may do what RBAC grants them.
func (c *Cluster) UserConfig(user string, groups ...string) (*rest.Config, error) {
	return c.clientConfig(c.config.Host, user, groups...)
}

// KubeconfigPath returns a file with the same access as Config.
func (c *Cluster) KubeconfigPath() string { return adminKubeconfig(c.options.Dir) }

// Port returns the port that the API server listens on.
func (c *Cluster) Port() string {
	_, port, _ := strings.Cut(strings.TrimPrefix(c.config.Host, "https://"), ":")
	return port
}

// Dir returns the cluster's folder.
func (c *Cluster) Dir() string { return c.options.Dir }

// LogsDir returns the folder with the log of each component.
func (c *Cluster) LogsDir() string { return logsDir(c.options.Dir) }

// CACertPEM returns the Cluster CA's certificate, or both while it is being replaced.
func (c *Cluster) CACertPEM() []byte { return c.trust }

// CA returns the Cluster CA's certificate and key, to make certificates that the signer would refuse or never make, such
// as expired ones.
func (c *Cluster) CA() (*x509.Certificate, crypto.Signer) {
	return c.pki.cluster.cert, c.pki.cluster.key
}

// clientConfig makes a client certificate and a configuration that uses it.
func (c *Cluster) clientConfig(host, user string, groups ...string) (*rest.Config, error) {
	pair, err := c.pki.cluster.sign(clientTemplate(user, groups...))
	if err != nil {
		return nil, fmt.Errorf("client certificate of %s: %w", user, err)
	}
	key, err := keyPEM(pair.key)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: host,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: c.trust, CertData: certPEM(pair.cert), KeyData: key,
		},
		QPS: clientQPS, Burst: clientBurst,
	}, nil
}

// WriteKubeconfig writes a kubeconfig file with the access of a configuration.
func WriteKubeconfig(path string, config *rest.Config) error {
	const name = "notafter"
	file := clientcmdapi.NewConfig()
	file.Clusters[name] = &clientcmdapi.Cluster{
		Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile,
	}
	file.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
	}
	file.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	file.CurrentContext = name
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", path, err)
	}
	return nil
}
