// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package certificatepolicy

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/controllers/internal/observe/optional"
	"github.com/notafter/notafter/controllers/internal/policy"
)

// tokenUse is what bootstrap tokens are read for.
var tokenUse = policy.Denial{
	Source: "the expiry of bootstrap tokens", Concerns: []string{v1alpha1.ConditionBootstrapHealthy},
}

// tokens are the bootstrap tokens. They are Secrets, which notafter may read only where the component
// config/components/bootstrap-tokens was installed; that grants all Secrets of the namespace, because RBAC knows no types.
type tokens struct {
	secrets *optional.OnDemand[*corev1.Secret]
}

func newTokens(c client.WithWatch, watchTime time.Duration) (*tokens, error) {
	secrets, err := optional.NewOnDemand(c, &corev1.Secret{}, optional.Options{
		Namespace:     metav1.NamespaceSystem,
		FieldSelector: fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)),
		Transform:     stripToken,
		WatchTime:     watchTime,
	})
	if err != nil {
		return nil, fmt.Errorf("watching bootstrap tokens: %w", err)
	}
	return &tokens{secrets: secrets}, nil
}

// stripToken keeps what tells a token's expiry. The token itself is not kept.
func stripToken(o any) (any, error) {
	secret, ok := o.(*corev1.Secret)
	if !ok {
		return o, nil
	}
	kept := &corev1.Secret{ObjectMeta: identity(&secret.ObjectMeta), Type: secret.Type, Data: map[string][]byte{}}
	for _, key := range []string{
		bootstrapapi.BootstrapTokenIDKey, bootstrapapi.BootstrapTokenExpirationKey,
		bootstrapapi.BootstrapTokenUsageAuthentication,
	} {
		if value, ok := secret.Data[key]; ok {
			kept.Data[key] = value
		}
	}
	return kept, nil
}

// identity is the part of an object's metadata that a watch needs, and its name.
func identity(o *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
}

// observe returns the tokens that machines may authenticate with, or why they are not known.
func (t *tokens) observe(ctx context.Context) ([]policy.Token, []policy.Denial) {
	t.secrets.Want(ctx)
	secrets, err := t.secrets.List()
	if err != nil {
		return nil, []policy.Denial{unread(tokenUse, t.secrets.Permission("list"), err)}
	}
	var found []policy.Token
	for _, secret := range secrets {
		if string(secret.Data[bootstrapapi.BootstrapTokenUsageAuthentication]) == "true" {
			found = append(found, judgedToken(secret))
		}
	}
	return found, nil
}

// judgedToken is what the judge sees of a token.
func judgedToken(secret *corev1.Secret) policy.Token {
	token := policy.Token{
		Secret: client.ObjectKeyFromObject(secret).String(), ID: string(secret.Data[bootstrapapi.BootstrapTokenIDKey]),
	}
	if expiration := string(secret.Data[bootstrapapi.BootstrapTokenExpirationKey]); expiration != "" {
		expires, err := time.Parse(time.RFC3339, expiration)
		if err != nil {
			token.Malformed = expiration
		}
		token.Expires = expires
	}
	return token
}
