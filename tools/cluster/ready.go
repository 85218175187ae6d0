// Waiting for a component: alive, listening itself, answering.
// It must not talk to a listener before that is proven to be the component's own.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// probeClient skips certificate checks: the listener is proven by its pid, and some components sign their own certificates.
var probeClient = &http.Client{
	Timeout:   2 * time.Second,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
}

// await waits until the component is ready, and fails at once when it died or somebody else has its port.
func (c *cluster) await(ctx context.Context, p component) error {
	err := poll(ctx, 60*time.Second, p.Name, func() (bool, error) { return c.probe(p) })
	if err != nil {
		return fmt.Errorf("%w\nthe end of %s:\n%s", err, c.logPath(p.Name), c.logTail(p.Name))
	}
	return nil
}

func (c *cluster) probe(p component) (bool, error) {
	pid := c.pid(p.Name)
	if pid == 0 {
		return false, &fatal{errors.New("it died")}
	}
	if p.Listen != "" {
		listening, ours, err := listenerOwner(pid, p.Listen)
		switch {
		case err != nil:
			return false, err
		case !listening:
			return false, fmt.Errorf("does not listen on %s yet", p.Listen)
		case !ours:
			return false, &fatal{fmt.Errorf("another process took its address %s: run `cluster down --name %s` and `up` again", p.Listen, c.Name)}
		}
	}
	if p.Ready == "" {
		return true, nil
	}
	answer, err := probeClient.Get(p.Ready)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return false, fmt.Errorf("%s answers %s", p.Ready, answer.Status)
	}
	return true, nil
}
