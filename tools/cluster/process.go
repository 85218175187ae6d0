// Processes of a cluster: started detached, recorded by pid and arguments, ended by pid.
// It must never look for a process by its name, and never signal one that is not proven to be ours.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// component is one process of a cluster: all that is needed to start it, again too.
type component struct {
	Name    string   `json:"name"`
	Args    []string `json:"args"`
	Env     []string `json:"env,omitempty"`
	Listen  string   `json:"listen,omitempty"`  // where it must listen itself
	Ready   string   `json:"ready,omitempty"`   // a URL that answers 200 when it is ready
	Isolate bool     `json:"isolate,omitempty"` // a node: its own pid, mount, host name and IPC namespaces
}

// marker is in the environment of every process we start: the proof that a pid is (still) ours.
const marker = "SLUICE_CLUSTER_STATE"

// start runs the component and records it. It must not run already.
func (c *cluster) start(p component) error {
	if pid := c.pid(p.Name); pid != 0 {
		return fmt.Errorf("%s runs already (pid %d)", p.Name, pid)
	}
	if address, port, err := net.SplitHostPort(p.Listen); err == nil {
		number, _ := strconv.Atoi(port)
		if !waitUntil(2*time.Second, func() bool { return isFree(address, number) }) {
			return fmt.Errorf("%s cannot start: another process listens on %s, see `ss -ltnp`", p.Name, p.Listen)
		}
	}
	if err := writeJSON(c.path("run", p.Name+".json"), p); err != nil {
		return err
	}
	log, err := os.OpenFile(c.logPath(p.Name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env = append(cleanEnvironment(), append(p.Env, marker+"="+c.dir)...)
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.Isolate {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.Name, err)
	}
	go cmd.Wait() // if it ends while we still run, it must not stay a zombie
	return os.WriteFile(c.pidPath(p.Name), fmt.Appendln(nil, cmd.Process.Pid), 0o644)
}

// cleanEnvironment is ours without what would steer a component: KUBECONFIG would win over Traefik's own flags.
func cleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		key, _, _ := strings.Cut(entry, "=")
		return key == "KUBECONFIG" || key == marker || strings.HasPrefix(key, "TRAEFIK_") || strings.HasPrefix(key, "ETCD_") ||
			strings.HasPrefix(strings.ToLower(key), "http_proxy") || strings.HasPrefix(strings.ToLower(key), "https_proxy")
	})
}

func (c *cluster) pidPath(name string) string { return c.path("run", name+".pid") }
func (c *cluster) logPath(name string) string { return c.path("log", name+".log") }

// pid is the component's process, or 0 when it does not run.
func (c *cluster) pid(name string) int {
	content, err := os.ReadFile(c.pidPath(name))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || !c.owns(pid) {
		return 0
	}
	return pid
}

// isDead: gone, or a zombie without other threads. A dying process loses its environment before its sockets and its namespaces,
// and zombies stay a while on machines whose init is slow to reap: neither `owns` nor signal 0 can tell.
func isDead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return strings.HasPrefix(state, "Z") && len(threads) <= 1
}

// owns says whether the process lives and carries our marker. A zombie has no environment any more, so it counts as dead;
// a process in the middle of an exec has none for an instant.
func (c *cluster) owns(pid int) bool {
	for range 5 {
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return false
		}
		if len(environment) > 0 {
			return slices.Contains(strings.Split(string(environment), "\x00"), marker+"="+c.dir)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return false
}

// stop ends a component by its pid file: politely first, unless force is asked for.
func (c *cluster) stop(name string, force bool) error {
	signal, patience := syscall.SIGTERM, 5*time.Second
	if force {
		signal = syscall.SIGKILL
	}
	for {
		pid := c.pid(name)
		if pid == 0 {
			return ignoreMissing(os.Remove(c.pidPath(name)))
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cannot end %s (pid %d): %w", name, pid, err)
		}
		if waitUntil(patience, func() bool { return isDead(pid) }) {
			continue
		}
		if signal == syscall.SIGKILL {
			return fmt.Errorf("%s (pid %d) does not die: see /proc/%d/stack", name, pid, pid)
		}
		signal = syscall.SIGKILL
	}
}

// recorded lists the components that were ever started, by their records.
func (c *cluster) recorded() ([]component, error) {
	files, err := filepath.Glob(c.path("run", "*.json"))
	if err != nil {
		return nil, err
	}
	var all []component
	for _, file := range files {
		p, err := c.record(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func (c *cluster) record(name string) (component, error) {
	var p component
	content, err := os.ReadFile(c.path("run", name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("cluster %q has no component %q: `cluster status --name %s` lists them", c.Name, name, c.Name)
	}
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(content, &p)
}

// logTail is the end of a component's log, for error messages.
func (c *cluster) logTail(name string) string {
	content, err := os.ReadFile(c.logPath(name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

func waitUntil(limit time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// poll asks until the answer is yes, the context ends, or the time is over; the last reason goes into the error.
func poll(ctx context.Context, limit time.Duration, what string, ask func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		done, reason := ask()
		if done {
			return nil
		}
		var stop *fatal
		if errors.As(reason, &stop) {
			return reason
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, limit, reason)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: interrupted: %w", what, ctx.Err())
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// fatal is a reason that no waiting mends.
type fatal struct{ error }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
