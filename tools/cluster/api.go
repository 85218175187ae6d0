// A tiny client of the cluster's API server: get, apply, create, wait.
// It must not grow into a Kubernetes library: it serves `up` only.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// apiClient talks as the administrator.
type apiClient struct {
	base string
	http *http.Client
}

// object is any Kubernetes object.
type object = map[string]any

func (c *cluster) client() (*apiClient, error) {
	authority, err := os.ReadFile(c.certPath("ca"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.certPath("admin"), c.keyPath("admin"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return &apiClient{base: c.apiURL(), http: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}},
	}}, nil
}

// do sends a request; an answer of 300 or above is an error that holds what the server said.
func (a *apiClient) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Accept", "application/json")
	answer, err := a.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		var status struct{ Message string }
		_ = json.Unmarshal(content, &status)
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, status.Message)
	}
	return content, nil
}

func (a *apiClient) get(ctx context.Context, path string, into any) error {
	content, err := a.do(ctx, http.MethodGet, path, "application/json", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

// apply is a server-side apply: it creates or updates, and can be repeated. The body may be JSON or YAML.
func (a *apiClient) apply(ctx context.Context, path string, body []byte) error {
	_, err := a.do(ctx, http.MethodPatch, path+"?fieldManager=sluice-cluster-tool&force=true", "application/apply-patch+yaml", body)
	return err
}

func (a *apiClient) applyObject(ctx context.Context, path string, wanted object) error {
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	return a.apply(ctx, path, body)
}

// awaitCondition waits until the object has the condition with status True.
func (a *apiClient) awaitCondition(ctx context.Context, path, condition string, limit time.Duration) error {
	return poll(ctx, limit, path+" "+condition, func() (bool, error) { return a.hasCondition(ctx, path, condition) })
}

// hasCondition says whether the condition is True; if not, the error is the reason.
func (a *apiClient) hasCondition(ctx context.Context, path, condition string) (bool, error) {
	var found struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	if err := a.get(ctx, path, &found); err != nil {
		return false, err
	}
	for _, c := range found.Status.Conditions {
		if c.Type == condition {
			return c.Status == "True", fmt.Errorf("it is %s: %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return false, errors.New("the condition is not there yet")
}

// awaitObject waits until the object exists.
func (a *apiClient) awaitObject(ctx context.Context, path string, limit time.Duration) error {
	return poll(ctx, limit, path, func() (bool, error) {
		err := a.get(ctx, path, &object{})
		return err == nil, err
	})
}
