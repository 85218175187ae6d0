// The first process of a node: it makes the namespaces a node, starts containerd, kubelet and kube-proxy, and reaps orphans.
// It runs inside the node's namespaces and must not change anything of the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const containerdSocket = "/run/containerd/containerd.sock" // where cAdvisor looks for it, too

func cmdNodeInit(ctx context.Context, args []string) error {
	flags := newFlags("node-init")
	name := nameFlag(flags)
	n := flags.Int("node", 1, "number of the node")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Getpid() != 1 {
		return errors.New("node-init is for the tool's own use: it must be the first process of a node")
	}
	c, err := needCluster(*name)
	if err != nil {
		return err
	}
	if err := c.isolate(*n); err != nil {
		return err
	}
	return c.runNode(ctx, *n)
}

// isolate gives the node its own /proc, host name, scratch folders and forwarding.
func (c *cluster) isolate(n int) error {
	if err := syscall.Sethostname([]byte(c.nodeName(n))); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := errors.Join(
		mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), // nothing we mount reaches the machine
		mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""),  // but pods see the kubelet's mounts
		mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""),
	); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	return errors.Join(maskSysctls(), forwardPackets())
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

// maskSysctls shows the kubelet the machine-wide settings it insists on, and changes none of them.
func maskSysctls() error {
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		mask := filepath.Join("/run/sluice-sysctl", name)
		if err := os.MkdirAll(filepath.Dir(mask), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(mask, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(mask, "/proc/sys/"+name, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// forwardPackets changes settings of the node's network namespace only.
func forwardPackets() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644); err != nil {
		fmt.Printf("pods on this node may not reach each other through a Service (load the module br_netfilter): %v\n", err)
	}
	return nil
}

// runNode starts the daemons in order and stays: a node whose daemon ends is no node, so it ends too.
func (c *cluster) runNode(ctx context.Context, n int) error {
	if err := c.writeNodeConfig(n); err != nil {
		return err
	}
	daemons := map[int]string{}
	start := func(name string, args ...string) error {
		pid, err := c.startDaemon(n, name, args)
		daemons[pid] = name
		return err
	}
	if err := start("containerd", "containerd", "--config", c.nodeDir(n, "containerd.toml")); err != nil {
		return err
	}
	if err := importPause(ctx, c.program("pause", "pause"), c.nodeDir(n, "pause.tar")); err != nil {
		return err
	}
	if err := poll(ctx, 120*time.Second, "the API server", func() (bool, error) { return answers(c.apiURL() + "/readyz") }); err != nil {
		return err
	}
	if err := start("kubelet", c.program("kubernetes", "kubelet"), "--config="+c.nodeDir(n, "kubelet.yaml"), "--kubeconfig="+c.kubeconfigPath(c.nodeName(n)),
		"--root-dir="+c.nodeDir(n, "kubelet"), "--hostname-override="+c.nodeName(n), "--node-ip="+c.nodeAddress(n)); err != nil {
		return err
	}
	if err := start("kube-proxy", c.program("kubernetes", "kube-proxy"), "--config="+c.nodeDir(n, "proxy.yaml")); err != nil {
		return err
	}
	return reap(daemons)
}

// startDaemon starts one of the node's daemons with a log of its own.
func (c *cluster) startDaemon(n int, name string, args []string) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(c.logPath(c.nodeName(n)+"-"+name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process, err := os.StartProcess(path, args, &os.ProcAttr{Dir: c.dir, Env: os.Environ(), Files: []*os.File{null, log, log}})
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w", name, err)
	}
	return process.Pid, nil
}

// importPause makes the image that every pod's sandbox runs, and imports it as soon as containerd answers.
func importPause(ctx context.Context, program, tar string) error {
	err := buildImage(imageSpec{reference: pauseImage, entrypoint: "/pause", out: tar, files: []string{program + ":/pause"}})
	if err != nil {
		return err
	}
	command := importCommand(tar)
	return poll(ctx, 30*time.Second, "containerd", func() (bool, error) {
		if firstExisting(containerdSocket) == "" {
			return false, errors.New("no socket yet")
		}
		output, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, output)
		}
		return true, nil
	})
}

func answers(url string) (bool, error) {
	answer, err := probeClient.Get(url)
	if err != nil {
		return false, err
	}
	answer.Body.Close()
	return answer.StatusCode == 200, fmt.Errorf("it answers %s", answer.Status)
}

// reap buries every orphan of the node until a daemon ends.
func reap(daemons map[int]string) error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		if name, ours := daemons[pid]; ours {
			return fmt.Errorf("%s ended (exit code %d, signal %d): so does the node, see its log", name, status.ExitStatus(), status.Signal())
		}
	}
}
