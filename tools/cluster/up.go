// `up`: from nothing to a cluster that works, in order and with the time of each step.
// It must not decide how a component runs (see controlplane.go, node.go, addons.go, gateway.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

func cmdUp(ctx context.Context, args []string) error {
	flags := newFlags("up")
	c := &cluster{}
	name := nameFlag(flags)
	flags.IntVar(&c.Nodes, "nodes", 1, "number of nodes")
	flags.BoolVar(&c.Prometheus, "prometheus", true, "run Prometheus")
	flags.BoolVar(&c.Gateway, "gateway", true, "run the gateway")
	if err := errors.Join(flags.Parse(args), noMore(flags)); err != nil {
		return err
	}
	if c.Nodes < 0 || c.Nodes > maxNodes {
		return fmt.Errorf("--nodes %d: from 0 to %d are possible", c.Nodes, maxNodes)
	}
	c.Name = *name
	unlock, err := lockCluster(ctx, c.Name)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := c.alreadyRuns(ctx)
	if running || err != nil {
		return err
	}
	if err := c.checkAndBuild(ctx); err != nil {
		return err
	}
	if err := c.up(ctx); err != nil {
		return fmt.Errorf("%w\nlogs are in .cluster/%s/log; `cluster down --name %s` removes what was started", err, c.Name, c.Name)
	}
	return nil
}

func lockCluster(ctx context.Context, name string) (func(), error) {
	dir, err := clusterDir(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(filepath.Dir(dir), "."+name+".lock"), "another command on cluster "+name)
}

// alreadyRuns says so when all is well, and removes a cluster that is half dead.
func (c *cluster) alreadyRuns(ctx context.Context) (bool, error) {
	old, err := loadCluster(c.Name)
	if errors.Is(err, fs.ErrNotExist) {
		dir, err := clusterDir(c.Name)
		if err != nil {
			return false, err
		}
		return false, takeDown(c.Name, dir, false) // an orphan without state, if there is one
	}
	if err != nil {
		return false, err
	}
	if problem := old.problem(); problem != "" {
		fmt.Printf("cluster %s is half dead (%s): starting it anew\n", c.Name, problem)
		return false, takeDown(c.Name, old.dir, false)
	}
	lacks := old.Nodes < c.Nodes || c.Gateway && !old.Gateway || c.Prometheus && !old.Prometheus
	if lacks && !(old.WithoutNode && allowNoNode()) {
		return false, fmt.Errorf("cluster %s runs already, but with other parts (%s): `cluster down --name %s` first", c.Name, old.parts(), c.Name)
	}
	fmt.Printf("cluster %s runs already (%s)\n", c.Name, old.parts())
	return true, nil
}

// problem says what is dead; "" when everything that was started lives.
func (c *cluster) problem() string {
	if firstExisting(c.path("env")) == "" {
		return "its start was not finished"
	}
	recorded, err := c.recorded()
	if err != nil {
		return err.Error()
	}
	for _, p := range recorded {
		if ready, reason := c.probe(p); !ready {
			return fmt.Sprintf("%s: %v", p.Name, reason)
		}
	}
	return ""
}

func (c *cluster) parts() string {
	text := fmt.Sprintf("%d node(s)", c.Nodes)
	if c.Prometheus {
		text += ", Prometheus"
	}
	if c.Gateway {
		text += ", gateway"
	}
	return text
}

// up does the work. Each step prints its name and time.
func (c *cluster) up(ctx context.Context) error {
	begin := time.Now()
	if err := c.prepare(); err != nil {
		return err
	}
	step("network, ports, certificates", begin)
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	api, err := c.client()
	if err != nil {
		return err
	}
	if err := c.startAddons(ctx, api); err != nil {
		return err
	}
	if err := c.awaitAll(ctx, api); err != nil {
		return err
	}
	if err := c.writeEnvironment(); err != nil {
		return err
	}
	fmt.Printf("cluster %s is up in %s: . .cluster/%s/env\n", c.Name, since(begin), c.Name)
	return nil
}

func step(what string, start time.Time) {
	fmt.Printf("  %-34s %7s\n", what, since(start))
}

// allowNoNode: the explicit way out for machines that cannot run a node.
func allowNoNode() bool { return os.Getenv("ALLOW_NO_NODE") == "1" }

// checkAndBuild looks at the machine and builds what this cluster needs.
func (c *cluster) checkAndBuild(ctx context.Context) error {
	needed := []string{"kubernetes", "helm"}
	if c.Nodes > 0 {
		err := errors.Join(checkMachine(), installMissing(ctx, nodeDependencies()))
		if err != nil && !allowNoNode() {
			return fmt.Errorf("%w\nthis machine cannot run a node. ALLOW_NO_NODE=1 starts a control plane without one: objects can be written and watched, but no pod will ever run", err)
		}
		if err != nil {
			fmt.Printf("WITHOUT A NODE (ALLOW_NO_NODE=1): %v\nnothing that needs a running pod is tested: probes, traffic, metrics of pods, DNS\n", err)
			c.Nodes, c.Prometheus, c.Gateway, c.WithoutNode = 0, false, false, true
		}
	}
	if c.Nodes > 0 {
		needed = append(needed, "pause", "coredns")
	}
	if c.Prometheus {
		needed = append(needed, "prometheus")
	}
	if c.Gateway {
		needed = append(needed, "traefik", "gateway-api")
	}
	root, err := treeRoot()
	if err != nil {
		return err
	}
	c.Bin, err = buildAll(ctx, root, needed)
	return err
}

// prepare makes folders, network, certificates: everything before the first process.
func (c *cluster) prepare() error {
	var err error
	if c.dir, err = clusterDir(c.Name); err != nil {
		return err
	}
	for _, dir := range []string{"run", "log", "pki"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	if c.Nodes > 0 {
		if err := c.claimIndex(); err != nil {
			return err
		}
	}
	if err := c.save(); err != nil { // from here on `down` knows what to remove
		return err
	}
	if err := errors.Join(c.openNodes(), c.choosePorts()); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := c.makeCertificates(); err != nil {
		return err
	}
	return c.writeKubeconfigs()
}

// startControlPlane starts it, and the nodes beside it: they wait for the API server themselves.
func (c *cluster) startControlPlane(ctx context.Context) error {
	begin := time.Now()
	for _, p := range []component{c.etcd(), c.apiServer()} {
		if err := c.start(p); err != nil {
			return err
		}
	}
	for n := 1; n <= c.Nodes; n++ {
		if err := c.prepareNode(n); err != nil {
			return err
		}
		p, err := c.node(n)
		if err != nil {
			return err
		}
		if err := c.start(p); err != nil {
			return err
		}
	}
	for _, p := range []component{c.etcd(), c.apiServer()} {
		if err := c.await(ctx, p); err != nil {
			return err
		}
	}
	step("etcd, API server", begin)
	return errors.Join(c.start(c.controllerManager()), c.start(c.scheduler()))
}

// startAddons starts DNS, Prometheus and gateway without waiting for them.
func (c *cluster) startAddons(ctx context.Context, api *apiClient) error {
	begin := time.Now()
	if c.Nodes > 0 {
		p, err := c.dns()
		if err := errors.Join(err, c.start(p)); err != nil {
			return err
		}
	}
	if c.Prometheus {
		p, err := c.prometheus()
		if err := errors.Join(err, c.start(p)); err != nil {
			return err
		}
	}
	if c.Gateway {
		p, err := c.installGateway(ctx, api)
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		if err := c.start(p); err != nil {
			return err
		}
	}
	step("objects of the add-ons", begin)
	return nil
}

// awaitAll waits for everything that was started.
func (c *cluster) awaitAll(ctx context.Context, api *apiClient) error {
	recorded, err := c.recorded()
	if err != nil {
		return err
	}
	for _, p := range recorded {
		begin := time.Now()
		if err := c.await(ctx, p); err != nil {
			return err
		}
		step(p.Name, begin)
	}
	begin := time.Now()
	for n := 1; n <= c.Nodes; n++ {
		if err := c.awaitNode(ctx, api, n); err != nil {
			return err
		}
	}
	step("nodes ready", begin)
	if c.Gateway {
		begin = time.Now()
		if err := c.awaitGateway(ctx, api); err != nil {
			return err
		}
		step("gateway programmed", begin)
	}
	return api.awaitObject(ctx, "/api/v1/namespaces/default/serviceaccounts/default", 30*time.Second)
}
