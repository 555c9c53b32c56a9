// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/wait"
)

// AddCA begins to replace the Cluster CA, as a careful admin does: from now on a new CA signs, and both are trusted and
// published. The cluster must have a controller manager. Configurations that Config returned before trust the old one alone.
func (c *Cluster) AddCA(ctx context.Context) error {
	next, err := newCA(clusterCAName)
	if err != nil {
		return fmt.Errorf("replacing the Cluster CA: %w", err)
	}
	both := slices.Concat(c.trust, certPEM(next.cert))
	for _, name := range []string{trustFile, clientCAFile} {
		if err := writeFile(pkiFile(c.options.Dir, name), both); err != nil {
			return err
		}
	}
	if err := next.write(pkiDir(c.options.Dir), clusterCA); err != nil {
		return err
	}
	c.pki.cluster, c.trust = next, both
	c.config.CAData = both
	if err := WriteKubeconfig(c.KubeconfigPath(), c.config); err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// DropOldCA stops publishing every Cluster CA but the newest. The API server still serves a certificate of the old one, until
// RenewAPIServer, and accepts clients with one.
func (c *Cluster) DropOldCA(ctx context.Context) error {
	c.trust = certPEM(c.pki.cluster.cert)
	if err := writeFile(pkiFile(c.options.Dir, trustFile), c.trust); err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// SignWith has the controller manager sign with another certificate of the Cluster CA's key, such as one that has expired.
// What is trusted and published stays as it is.
func (c *Cluster) SignWith(ctx context.Context, certificate *x509.Certificate) error {
	if err := writeFile(pkiFile(c.options.Dir, clusterCA+".crt"), certPEM(certificate)); err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// RenewAPIServer gives the API server a serving certificate of the newest Cluster CA, and waits until it serves that.
func (c *Cluster) RenewAPIServer(ctx context.Context) error {
	pair, err := c.pki.cluster.sign(apiServerTemplate(c.options.Address))
	if err == nil {
		err = pair.write(pkiDir(c.options.Dir), "apiserver")
	}
	if err != nil {
		return fmt.Errorf("renewing the API server's certificate: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout) // it looks at its files once a minute, at least
	defer cancel()
	err = wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		served, err := servedBy(ctx, c.config.Host)
		return err == nil && served.Equal(pair.cert), err
	})
	if err != nil {
		return fmt.Errorf("waiting for the API server to serve its new certificate: %w", err)
	}
	return nil
}

// servedBy returns the certificate that is served at an address, whoever signed it.
func servedBy(ctx context.Context, url string) (*x509.Certificate, error) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is sent
	connection, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		return nil, err
	}
	served := connection.(*tls.Conn).ConnectionState().PeerCertificates[0]
	return served, connection.Close()
}

func (c *Cluster) restartControllerManager(ctx context.Context) error {
	if err := c.StopControllerManager(); err != nil {
		return err
	}
	return c.StartControllerManager(ctx)
}
