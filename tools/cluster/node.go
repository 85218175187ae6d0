// A node seen from the host: its component, its cgroups, entering it, importing images.
// What happens inside its namespaces is in node_init.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	cgroupRoot        = "/sys/fs/cgroup"
	kubeletHealthPort = 10248
)

// node is one pid: the init process of its own namespaces. Killing it ends kubelet, containerd and every pod, and drops all mounts.
func (c *cluster) node(n int) (component, error) {
	self, err := os.Executable()
	if err != nil {
		return component{}, err
	}
	return component{
		Name:    c.nodeName(n),
		Isolate: true,
		Ready:   fmt.Sprintf("http://%s:%d/healthz", c.nodeAddress(n), kubeletHealthPort),
		// `nsenter --net` and not `ip netns exec`: that one remounts /sys and loses the cgroup mounts.
		Args: []string{"nsenter", "--net=/run/netns/" + c.nodeSlot(n), self, "node-init", "--name", c.Name, "--node", strconv.Itoa(n)},
	}, nil
}

// prepareNode makes the folders and cgroups of a node.
func (c *cluster) prepareNode(n int) error {
	if err := os.MkdirAll(c.nodeDir(n), 0o755); err != nil {
		return err
	}
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		group := filepath.Join(hierarchy, c.nodeSlot(n))
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup of %s: %w", c.nodeName(n), err)
		}
		if err := copyCpuset(hierarchy, group); err != nil {
			return fmt.Errorf("cgroup of %s: %w", c.nodeName(n), err)
		}
	}
	return nil
}

// restart starts a component again. A node comes back as after a power cut: without the cgroups of its dead pods,
// over each of which the kubelet would brood for seconds.
func (c *cluster) restart(p component) error {
	if p.Isolate {
		var n int
		if _, err := fmt.Sscanf(p.Name, "node%d", &n); err != nil {
			return fmt.Errorf("%q is no node's name: %w", p.Name, err)
		}
		if err := errors.Join(c.removeCgroups(n), c.prepareNode(n)); err != nil {
			return err
		}
	}
	return c.start(p)
}

// copyCpuset gives a new version 1 cgroup the processors of its parent: it starts with none.
func copyCpuset(parent, group string) error {
	if filepath.Base(parent) == "unified" || firstExisting(filepath.Join(parent, "cgroup.controllers")) != "" {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		content, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(group, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cgroupHierarchies are the mounted ones: many with version 1, one with version 2.
func cgroupHierarchies() ([]string, error) {
	if firstExisting(cgroupRoot+"/cgroup.controllers") != "" {
		controllers := []byte("+cpu +cpuset +memory +pids")
		return []string{cgroupRoot}, os.WriteFile(cgroupRoot+"/cgroup.subtree_control", controllers, 0o644)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && fields[2] == "cgroup" && !slices.Contains(found, fields[1]) {
			found = append(found, fields[1])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return found, nil
}

// removeCgroups removes the empty cgroups of the node, deepest first.
func (c *cluster) removeCgroups(n int) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	var failures []error
	for _, hierarchy := range append(hierarchies, cgroupRoot+"/unified") {
		group := filepath.Join(hierarchy, c.nodeSlot(n))
		if !waitUntil(2*time.Second, func() bool { return removeTree(group) }) {
			failures = append(failures, fmt.Errorf("cannot remove the cgroup %s: a process may still be in it, see `find %s -name cgroup.procs -exec cat {} +`", group, group))
		}
	}
	return errors.Join(failures...)
}

// removeTree removes a tree of cgroups: their files vanish with them.
func removeTree(group string) bool {
	var dirs []string
	_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		_ = os.Remove(dir)
	}
	return firstExisting(group) == ""
}

func (c *cluster) nodeDir(n int, parts ...string) string {
	return c.path(append([]string{c.nodeName(n)}, parts...)...)
}

// inNode is a command that runs in the namespaces of a node.
func (c *cluster) inNode(ctx context.Context, node string, command ...string) (*exec.Cmd, error) {
	p, err := c.record(node)
	if err != nil {
		return nil, err
	}
	if !p.Isolate {
		return nil, fmt.Errorf("%q is not a node", node)
	}
	pid := c.pid(node)
	if pid == 0 {
		return nil, fmt.Errorf("%s does not run: `cluster start-component --name %s %s`", node, c.Name, node)
	}
	enter := []string{"--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, command...)...), nil
}

// loadImage imports an image into every node.
func (c *cluster) loadImage(ctx context.Context, file string) error {
	for n := 1; n <= c.Nodes; n++ {
		cmd, err := c.inNode(ctx, c.nodeName(n), importCommand(file)...)
		if err != nil {
			return err
		}
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("import of %s into %s: %w: %s", file, c.nodeName(n), err, strings.TrimSpace(string(output)))
		}
	}
	return nil
}

func importCommand(file string) []string {
	return []string{"ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", file}
}

// awaitNode waits until the node is ready and tells the API server which pods it holds.
func (c *cluster) awaitNode(ctx context.Context, api *apiClient, n int) error {
	path := "/api/v1/nodes/" + c.nodeName(n)
	err := poll(ctx, 90*time.Second, c.nodeName(n), func() (bool, error) {
		if c.pid(c.nodeName(n)) == 0 {
			return false, &fatal{errors.New("it died")}
		}
		return api.hasCondition(ctx, path, "Ready")
	})
	if err != nil {
		return fmt.Errorf("%w\nthe end of %s:\n%s\nthe end of its kubelet's log:\n%s", err, c.logPath(c.nodeName(n)), c.logTail(c.nodeName(n)), c.logTail(c.nodeName(n)+"-kubelet"))
	}
	body := fmt.Appendf(nil, `{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, c.nodePods(n), c.nodePods(n))
	_, err = api.do(ctx, "PATCH", path, "application/merge-patch+json", body)
	return err
}
