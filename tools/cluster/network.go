// The network of a cluster: a host-only bridge, and one network namespace per node with its routes.
// It must not touch the machine's own interfaces or any bridge that is not ours.
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// claimIndex takes the first free index. Creating the bridge is the claim: the kernel lets only one process do it.
// The bridge's alias is the folder of the cluster, so that an orphan can be recognised.
func (c *cluster) claimIndex() error {
	taken, err := routedPrefixes()
	if err != nil {
		return err
	}
	var last error
	for c.Index = 1; c.Index <= maxIndex; c.Index++ {
		if overlapsAny(taken, c.address()+"/24", c.pods(), c.services()) {
			continue
		}
		if last = ip("link", "add", c.bridge(), "type", "bridge"); last == nil {
			return c.openBridge()
		}
		if !strings.Contains(last.Error(), "File exists") {
			return fmt.Errorf("cannot create a bridge: %w", last)
		}
	}
	return fmt.Errorf("no free network of the %d in 10.88.0.0/16: see `ip route` and `ip link`, end clusters with `cluster down --all`; %w", maxIndex, last)
}

// openBridge gives the bridge its alias and address. (`ip link add` takes an alias too, and forgets it.)
func (c *cluster) openBridge() error {
	return errors.Join(
		ip("link", "set", c.bridge(), "alias", bridgeAlias(c.dir)),
		ip("addr", "add", c.address()+"/24", "dev", c.bridge()),
		ip("link", "set", c.bridge(), "up"),
	)
}

// openNodes makes the namespace of every node and the routes between host, nodes and pods.
func (c *cluster) openNodes() error {
	for n := 1; n <= c.Nodes; n++ {
		if err := c.openNode(n); err != nil {
			return fmt.Errorf("network of %s: %w", c.nodeName(n), err)
		}
	}
	if c.Nodes > 0 { // host → Services goes through the kube-proxy of the first node
		if err := ip("route", "replace", c.services(), "via", c.nodeAddress(1), "dev", c.bridge()); err != nil {
			return err
		}
	}
	return c.routeBetweenNodes()
}

func (c *cluster) openNode(n int) error {
	slot := c.nodeSlot(n)
	steps := [][]string{
		{"netns", "add", slot},
		{"link", "add", slot, "type", "veth", "peer", "name", "eth0", "netns", slot},
		{"link", "set", slot, "master", c.bridge(), "up"},
		{"-n", slot, "link", "set", "lo", "up"},
		{"-n", slot, "link", "set", "eth0", "up"},
		{"-n", slot, "addr", "add", c.nodeAddress(n) + "/24", "dev", "eth0"},
		{"-n", slot, "route", "add", "default", "via", c.address()},
		{"route", "replace", c.nodePods(n), "via", c.nodeAddress(n), "dev", c.bridge()},
	}
	for _, step := range steps {
		if err := ip(step...); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) routeBetweenNodes() error {
	for from := 1; from <= c.Nodes; from++ {
		for to := 1; to <= c.Nodes; to++ {
			if from == to {
				continue
			}
			if err := ip("-n", c.nodeSlot(from), "route", "replace", c.nodePods(to), "via", c.nodeAddress(to)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeNetwork removes bridge and namespaces; what is not there is no error.
func (c *cluster) closeNetwork() error {
	if c.Index == 0 {
		return nil
	}
	var failures []error
	for n := 1; n <= maxNodes; n++ { // the link first: deleting the namespace deletes it too, but later
		slot := c.nodeSlot(n)
		failures = append(failures,
			ipRemove("/sys/class/net/"+slot, "link", "del", slot),
			ipRemove("/run/netns/"+slot, "netns", "del", slot))
	}
	if c.ownsBridge() {
		failures = append(failures, ip("link", "del", c.bridge()))
	}
	return errors.Join(failures...)
}

func (c *cluster) ownsBridge() bool {
	alias, err := os.ReadFile(filepath.Join("/sys/class/net", c.bridge(), "ifalias"))
	return err == nil && strings.TrimSpace(string(alias)) == bridgeAlias(c.dir)
}

// orphanIndex finds the bridge of a cluster whose state is lost: 0 when there is none.
func orphanIndex(dir string) int {
	for i := 1; i <= maxIndex; i++ {
		if (&cluster{Index: i, dir: dir}).ownsBridge() {
			return i
		}
	}
	return 0
}

// bridgeAlias fits the 255 bytes that the kernel allows by keeping the end of the path.
func bridgeAlias(dir string) string {
	if len(dir) > 200 {
		dir = dir[len(dir)-200:]
	}
	return "sluice " + dir
}

// routedPrefixes are the networks the machine already has routes for, without the default route.
func routedPrefixes() ([]netip.Prefix, error) {
	output, err := exec.Command("ip", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("ip route: %w", err)
	}
	var prefixes []netip.Prefix
	for line := range strings.Lines(string(output)) {
		for _, word := range strings.Fields(line)[:min(2, len(strings.Fields(line)))] {
			if prefix, err := netip.ParsePrefix(word); err == nil && prefix.Bits() > 0 {
				prefixes = append(prefixes, prefix)
			}
		}
	}
	return prefixes, nil
}

func overlapsAny(taken []netip.Prefix, wanted ...string) bool {
	for _, text := range wanted {
		prefix := netip.MustParsePrefix(text).Masked()
		for _, other := range taken {
			if prefix.Overlaps(other) {
				return true
			}
		}
	}
	return false
}

// ipRemove runs the ip program unless the path is gone; it may vanish meanwhile.
func ipRemove(path string, args ...string) error {
	if firstExisting(path) == "" {
		return nil
	}
	err := ip(args...)
	if err != nil && firstExisting(path) == "" {
		return nil
	}
	return err
}

// ip runs the ip program; the error holds what it said.
func ip(args ...string) error {
	output, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
