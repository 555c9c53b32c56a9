// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
)

// Answers of the API server are remembered much shorter than in a kubelet (2 m, 5 m and 30 s), so that tests need not
// wait for a change of permissions.
const (
	authenticatedTTL = 10 * time.Second
	authorizedTTL    = 10 * time.Second
	unauthorizedTTL  = time.Second
)

// kubeletConfig are the fields of /configz that concern certificates, named and left out when empty as in
// k8s.io/kubelet/config/v1beta1.
type kubeletConfig struct {
	Kind               string `json:"kind,omitempty"`
	APIVersion         string `json:"apiVersion,omitempty"`
	Address            string `json:"address,omitempty"`
	Port               int    `json:"port,omitempty"`
	TLSCertFile        string `json:"tlsCertFile,omitempty"`
	TLSPrivateKeyFile  string `json:"tlsPrivateKeyFile,omitempty"`
	RotateCertificates bool   `json:"rotateCertificates,omitempty"`
	ServerTLSBootstrap bool   `json:"serverTLSBootstrap,omitempty"`
}

// newHandler answers what a kubelet's endpoint answers about certificates, after it asked the API server who may.
func newHandler(s *shared, p *process) (http.Handler, error) {
	backoff := &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3}
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient:            p.own.AuthenticationV1(),
		TokenAccessReviewTimeout:           requestTimeout,
		WebhookRetryBackoff:                backoff,
		CacheTTL:                           authenticatedTTL,
		ClientCertificateCAContentProvider: s.clientCA,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("build the authenticator: %w", err)
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: p.own.AuthorizationV1(),
		Compiler:                  s.compiler,
		AllowCacheTTL:             authorizedTTL,
		DenyCacheTTL:              unauthorizedTTL,
		WebhookRetryBackoff:       backoff,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("build the authorizer: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", p.metrics.handler())
	mux.HandleFunc("/configz", p.configz)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "simulated kubelet: only /healthz, /metrics and /configz are served", http.StatusNotFound)
	})
	return &guard{node: p.options.Name, authn: authn, authz: authz, next: mux}, nil
}

func (p *process) configz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	err := json.NewEncoder(w).Encode(map[string]kubeletConfig{"kubeletconfig": {
		Kind:               "KubeletConfiguration",
		APIVersion:         "kubelet.config.k8s.io/v1beta1",
		Address:            p.endpoint.addr.Addr().String(),
		Port:               int(p.endpoint.addr.Port()),
		TLSCertFile:        p.serving.certFile,
		TLSPrivateKeyFile:  p.serving.keyFile,
		RotateCertificates: !p.options.NoClientRotation,
		ServerTLSBootstrap: p.options.Serving == ServingRotation,
	}})
	if err != nil {
		p.log.V(4).Info("Cannot write configz", "error", err)
	}
}

// guard lets a request pass as a kubelet would with authentication.webhook and authorization.mode Webhook.
type guard struct {
	node  string
	authn authenticator.Request
	authz authorizer.UnconditionalAuthorizer
	next  http.Handler
}

func (g *guard) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	response, ok, err := g.authn.AuthenticateRequest(req)
	if err != nil || !ok {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	subresources := subresourcesOf(req.URL.Path)
	verb := verbOf(req.Method)
	for _, subresource := range subresources {
		decision, _, err := g.authz.Authorize(req.Context(), g.attributes(response.User, req, verb, subresource))
		if err != nil {
			message := fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)",
				response.User.GetName(), verb, subresource)
			http.Error(w, message, http.StatusInternalServerError)
			return
		}
		if decision == authorizer.DecisionAllow {
			g.next.ServeHTTP(w, req)
			return
		}
	}
	message := fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)",
		response.User.GetName(), verb, subresources)
	http.Error(w, message, http.StatusForbidden)
}

func (g *guard) attributes(who user.Info, req *http.Request, verb, subresource string) authorizer.Attributes {
	return authorizer.AttributesRecord{
		User: who, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: subresource, Name: g.node,
		ResourceRequest: true, Path: req.URL.Path,
	}
}

// subresourcesOf says which subresources of nodes, any of them, a path needs: pkg/kubelet/server/auth.go in Kubernetes,
// with KubeletFineGrainedAuthz.
func subresourcesOf(path string) []string {
	switch root, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); root {
	case "metrics":
		return []string{"metrics"}
	case "configz", "healthz":
		return []string{root, "proxy"}
	default:
		return []string{"proxy"}
	}
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return ""
	}
}
