// The state of one cluster: its name, addresses and ports, kept in .cluster/NAME/cluster.json.
// It must not start or stop anything. Every address of a cluster is derived here and nowhere else.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	maxIndex      = 50 // bridges 10.88.i.0/24, pods 10.(100+i).0.0/16, services 10.(160+i).0.0/16
	maxNodes      = 20
	pauseImage    = "sluice.local/pause:1"
	clusterDomain = "cluster.local"
)

// cluster is what `up` decided about a cluster and every other command needs to know.
type cluster struct {
	Name       string `json:"name"`
	Index      int    `json:"index"` // unique on the machine; 0: no network of its own, everything on loopback
	Nodes      int    `json:"nodes"`
	Prometheus bool   `json:"prometheus"`
	Gateway    bool   `json:"gateway"`
	Ports      ports  `json:"ports"`

	WithoutNode bool `json:"withoutNode,omitempty"` // ALLOW_NO_NODE took away what the machine cannot run

	Bin map[string]string `json:"bin"` // module → folder of its binaries

	dir string // .cluster/NAME
}

// ports are chosen when the cluster starts and never change.
type ports struct {
	API               int `json:"api"`
	Etcd              int `json:"etcd"`
	EtcdPeer          int `json:"etcdPeer"`
	ControllerManager int `json:"controllerManager"`
	Scheduler         int `json:"scheduler"`
	Prometheus        int `json:"prometheus"`
	Gateway           int `json:"gateway"`
}

// address is where pods and host reach the API server, DNS and Prometheus.
func (c *cluster) address() string {
	if c.Index == 0 {
		return "127.0.0.1"
	}
	return fmt.Sprintf("10.88.%d.1", c.Index)
}

func (c *cluster) bridge() string            { return fmt.Sprintf("sl%dbr", c.Index) }
func (c *cluster) nodeName(n int) string     { return fmt.Sprintf("node%d", n) }
func (c *cluster) nodeAddress(n int) string  { return fmt.Sprintf("10.88.%d.%d", c.Index, 10+n) }
func (c *cluster) nodePods(n int) string     { return fmt.Sprintf("10.%d.%d.0/24", 100+c.Index, n) }
func (c *cluster) pods() string              { return fmt.Sprintf("10.%d.0.0/16", 100+c.Index) }
func (c *cluster) services() string          { return fmt.Sprintf("10.%d.0.0/16", 160+c.Index) }
func (c *cluster) apiServiceAddress() string { return fmt.Sprintf("10.%d.0.1", 160+c.Index) }
func (c *cluster) apiURL() string            { return fmt.Sprintf("https://%s:%d", c.address(), c.Ports.API) }
func (c *cluster) etcdURL() string           { return fmt.Sprintf("http://127.0.0.1:%d", c.Ports.Etcd) }
func (c *cluster) etcdPeerURL() string       { return fmt.Sprintf("http://127.0.0.1:%d", c.Ports.EtcdPeer) }
func (c *cluster) gatewayURL() string        { return fmt.Sprintf("http://127.0.0.1:%d", c.Ports.Gateway) }
func (c *cluster) prometheusURL() string {
	return fmt.Sprintf("http://%s:%d", c.address(), c.Ports.Prometheus)
}

// nodeSlot names a node's network namespace, veth and cgroups: unique on the machine, and short enough for an interface.
func (c *cluster) nodeSlot(n int) string { return fmt.Sprintf("sl%dn%d", c.Index, n) }

func (c *cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}
func (c *cluster) program(module, name string) string { return filepath.Join(c.Bin[module], name) }

func (c *cluster) save() error {
	return writeJSON(c.path("cluster.json"), c)
}

// loadCluster reads a cluster's state. errors.Is(err, fs.ErrNotExist) when there is none.
func loadCluster(name string) (*cluster, error) {
	dir, err := clusterDir(name)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if err := json.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("%s/cluster.json: %w", dir, err)
	}
	return c, nil
}

// needCluster is loadCluster for commands that make no sense without one.
func needCluster(name string) (*cluster, error) {
	c, err := loadCluster(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no cluster %q: start it with `cluster up --name %s`", name, name)
	}
	return c, err
}

// clusterNames lists the clusters of this tree.
func clusterNames() ([]string, error) {
	all, err := clustersDir()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(all, "*", "cluster.json"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(filepath.Dir(file)))
	}
	slices.Sort(names)
	return names, nil
}

// writeJSON writes a file that is either the old or the new one, never half.
func writeJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(content, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
