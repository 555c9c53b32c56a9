// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// The ClusterRoleBindings that BootstrapToken makes for TLS bootstrapping, named as kubeadm names them. To see requests
// that nobody approves, delete one afterwards.
const (
	// BindingRequest lets bootstrap tokens file signing requests.
	BindingRequest = "kubeadm:kubelet-bootstrap"
	// BindingApproveFirst has a kubelet's first client certificate approved.
	BindingApproveFirst = "kubeadm:node-autoapprove-bootstrap"
	// BindingApproveRenewal has the renewal of a kubelet's client certificate approved.
	BindingApproveRenewal = "kubeadm:node-autoapprove-certificate-rotation"
)

// RootCAConfigMap is the name of the ConfigMap with the Cluster CA; in kube-system it exists as soon as Start returns.
const RootCAConfigMap = "kube-root-ca.crt"

const rootCAKey = "ca.crt"

// tokenTimeout is how long a new token may take to work: a moment.
const tokenTimeout = 20 * time.Second

// bootstrapBindings are the ClusterRole and the group of each binding.
var bootstrapBindings = map[string][2]string{
	BindingRequest: {"system:node-bootstrapper", bootstrapapi.BootstrapDefaultGroup},
	BindingApproveFirst: {
		"system:certificates.k8s.io:certificatesigningrequests:nodeclient", bootstrapapi.BootstrapDefaultGroup},
	BindingApproveRenewal: {
		"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"},
}

// BootstrapToken makes a bootstrap token that kubelets can join with during ttl, and the permissions that TLS
// bootstrapping needs. With the controller manager running, client certificates are approved and signed by it; serving
// certificates wait for somebody to approve them, as in every Kubernetes cluster.
func (c *Cluster) BootstrapToken(ctx context.Context, ttl time.Duration) (string, error) {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return "", fmt.Errorf("bootstrap token: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(bootstrapBindings)) {
		role, group := bootstrapBindings[name][0], bootstrapBindings[name][1]
		if err := bindGroup(ctx, client, name, role, group); err != nil {
			return "", err
		}
	}
	token, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return "", fmt.Errorf("bootstrap token: %w", err)
	}
	if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, tokenSecret(token, time.Now().Add(ttl)),
		metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("bootstrap token: %w", err)
	}
	if err := c.waitForToken(ctx, token); err != nil {
		return "", fmt.Errorf("bootstrap token: waiting until it works: %w", err)
	}
	return token, nil
}

// waitForToken waits until the API server, which caches tokens and permissions, lets the token's bearer file requests.
func (c *Cluster) waitForToken(ctx context.Context, token string) error {
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	return wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
			&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create"},
			}}, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) {
			return false, nil
		}
		return err == nil && review.Status.Allowed, err
	})
}

func bindGroup(ctx context.Context, client kubernetes.Interface, name, role, group string) error {
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("binding ClusterRole %s: %w", role, err)
	}
	return nil
}

func tokenSecret(token string, expiration time.Time) *corev1.Secret {
	id, secret, _ := strings.Cut(token, ".")
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: bootstraputil.BootstrapTokenSecretName(id)},
		Type: bootstrapapi.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey:               id,
			bootstrapapi.BootstrapTokenSecretKey:           secret,
			bootstrapapi.BootstrapTokenExpirationKey:       expiration.UTC().Format(time.RFC3339),
			bootstrapapi.BootstrapTokenUsageAuthentication: "true",
			bootstrapapi.BootstrapTokenUsageSigningKey:     "true",
		},
	}
}

// waitForSystemNamespaces waits for the namespaces that the API server makes shortly after it says that it is ready.
func waitForSystemNamespaces(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, metav1.NamespaceDefault} {
		err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
			_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("waiting for the namespace %s: %w", name, err)
		}
	}
	return nil
}

// publishRootCA does for kube-system what the controller manager does for every namespace.
func publishRootCA(ctx context.Context, client kubernetes.Interface, ca []byte) error {
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: RootCAConfigMap},
		Data:       map[string]string{rootCAKey: string(ca)},
	}
	_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Create(ctx, configMap, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("publishing the Cluster CA: %w", err)
	}
	return nil
}

// unpublishRootCA removes the Cluster CA from a namespace where nobody looks, so that its return shows that the controllers
// work.
func unpublishRootCA(ctx context.Context, client kubernetes.Interface) error {
	err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Delete(ctx, RootCAConfigMap, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("preparing to wait for the controllers: %w", err)
	}
	return nil
}

// rootCAPublished returns an error unless the controllers published the Cluster CA.
func rootCAPublished(ctx context.Context, client kubernetes.Interface) error {
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		if _, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, RootCAConfigMap, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	return nil
}
