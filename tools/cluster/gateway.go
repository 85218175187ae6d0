// The gateway: the Gateway API's CRDs, Traefik on 127.0.0.1 as data plane, one Gateway for everybody.
// It must not listen anywhere but on loopback, and talks to the API server with a token bounded to its work.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	gatewayNamespace = "infra"
	gatewayName      = "public"
	gatewayGroup     = "gateway.networking.k8s.io"
	gatewayAPI       = "/apis/gateway.networking.k8s.io/v1"
	rbacAPI          = "/apis/rbac.authorization.k8s.io/v1"
)

// installGateway applies the CRDs and everything that Traefik needs, and returns Traefik itself.
func (c *cluster) installGateway(ctx context.Context, api *apiClient) (component, error) {
	if err := c.applyGatewayCRDs(ctx, api); err != nil {
		return component{}, err
	}
	for _, o := range c.gatewayObjects() {
		if err := api.applyObject(ctx, o.path, o.object); err != nil {
			return component{}, err
		}
	}
	token, err := c.gatewayToken(ctx, api)
	if err != nil {
		return component{}, err
	}
	return c.traefik(token), nil
}

// applyGatewayCRDs applies the standard channel and waits until the API server serves it.
func (c *cluster) applyGatewayCRDs(ctx context.Context, api *apiClient) error {
	files, err := filepath.Glob(filepath.Join(c.Bin["gateway-api"], gatewayGroup+"_*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no Gateway API CRDs in %s: remove that folder and run `cluster build gateway-api` (%v)", c.Bin["gateway-api"], err)
	}
	var paths []string
	for _, file := range files {
		plural, policy := strings.CutPrefix(filepath.Base(file), gatewayGroup+"_")
		plural = strings.TrimSuffix(plural, ".yaml")
		if policy && strings.HasPrefix(plural, "vap_") {
			continue // an admission policy against down-grades of the CRDs: not for a throw-away cluster
		}
		body, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + plural + "." + gatewayGroup
		if err := api.apply(ctx, path, body); err != nil {
			return err
		}
		paths = append(paths, path)
	}
	for _, path := range paths {
		if err := api.awaitCondition(ctx, path, "Established", 20*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// located is an object and where it goes.
type located struct {
	path   string
	object object
}

func (c *cluster) gatewayObjects() []located {
	named := func(name string) object { return object{"name": name} }
	inInfra := func(name string) object { return object{"name": name, "namespace": gatewayNamespace} }
	listener := object{"name": "web", "protocol": "HTTP", "port": c.Ports.Gateway, "allowedRoutes": object{"namespaces": object{"from": "All"}}}
	return []located{
		{"/api/v1/namespaces/" + gatewayNamespace, object{"apiVersion": "v1", "kind": "Namespace", "metadata": named(gatewayNamespace)}},
		{"/api/v1/namespaces/" + gatewayNamespace + "/serviceaccounts/traefik", object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": inInfra("traefik")}},
		{rbacAPI + "/clusterroles/traefik", object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": named("traefik"), "rules": traefikRules()}},
		{rbacAPI + "/clusterrolebindings/traefik", object{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": named("traefik"),
			"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "traefik"},
			"subjects": []object{{"kind": "ServiceAccount", "name": "traefik", "namespace": gatewayNamespace}}}},
		{gatewayAPI + "/gatewayclasses/traefik", object{
			"apiVersion": gatewayGroup + "/v1", "kind": "GatewayClass", "metadata": named("traefik"),
			"spec": object{"controllerName": "traefik.io/gateway-controller"}}},
		{gatewayAPI + "/namespaces/" + gatewayNamespace + "/gateways/" + gatewayName, object{
			"apiVersion": gatewayGroup + "/v1", "kind": "Gateway", "metadata": inInfra(gatewayName),
			"spec": object{"gatewayClassName": "traefik", "listeners": []object{listener}}}},
	}
}

// traefikRules: read what routes refer to, write the status of routes.
func traefikRules() []object {
	read := []string{"get", "list", "watch"}
	return []object{
		{"apiGroups": []string{""}, "resources": []string{"namespaces", "services", "secrets", "configmaps", "nodes"}, "verbs": read},
		{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": read},
		{"apiGroups": []string{gatewayGroup}, "resources": []string{"*"}, "verbs": append(read, "update", "patch")},
	}
}

// gatewayToken asks for a token of Traefik's ServiceAccount and returns the file that holds it.
func (c *cluster) gatewayToken(ctx context.Context, api *apiClient) (string, error) {
	request := []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":31536000}}`)
	answer, err := api.do(ctx, "POST", "/api/v1/namespaces/"+gatewayNamespace+"/serviceaccounts/traefik/token", "application/json", request)
	if err != nil {
		return "", err
	}
	var granted struct{ Status struct{ Token string } }
	if err := json.Unmarshal(answer, &granted); err != nil {
		return "", err
	}
	if granted.Status.Token == "" {
		return "", errors.New("the API server granted no token to traefik")
	}
	path := c.path("pki", "traefik.token")
	return path, os.WriteFile(path, []byte(granted.Status.Token), 0o600)
}

func (c *cluster) traefik(tokenFile string) component {
	address := fmt.Sprintf("127.0.0.1:%d", c.Ports.Gateway)
	return component{
		Name:   "traefik",
		Listen: address,
		Args: []string{c.program("traefik", "traefik"),
			"--entrypoints.web.address=" + address,
			"--providers.kubernetesgateway=true",
			"--providers.kubernetesgateway.endpoint=" + c.apiURL(),
			"--providers.kubernetesgateway.token=" + tokenFile,
			"--providers.kubernetesgateway.certauthfilepath=" + c.certPath("ca"),
			"--providers.kubernetesgateway.statusaddress.ip=127.0.0.1",
			"--providers.providersthrottleduration=50ms",
			"--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=INFO",
		},
	}
}

// awaitGateway waits until Traefik has taken the Gateway.
func (c *cluster) awaitGateway(ctx context.Context, api *apiClient) error {
	path := gatewayAPI + "/namespaces/" + gatewayNamespace + "/gateways/" + gatewayName
	for _, condition := range []string{"Accepted", "Programmed"} {
		if err := api.awaitCondition(ctx, path, condition, 30*time.Second); err != nil {
			return fmt.Errorf("%w\nthe end of %s:\n%s", err, c.logPath("traefik"), c.logTail("traefik"))
		}
	}
	return nil
}
