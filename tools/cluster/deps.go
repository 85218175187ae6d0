// What a cluster needs from the machine: Debian packages, root, namespaces, cgroups.
// It must not start services, and changes nothing but installing the packages that are missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// dependency is a program and the package that has it.
type dependency struct {
	packageName string
	present     func() bool
}

func program(name string) func() bool {
	return func() bool { _, err := exec.LookPath(name); return err == nil }
}

// nodeDependencies is what a node needs; buildDependencies is for static Rust binaries.
func nodeDependencies() []dependency {
	return []dependency{
		{"containerd", func() bool { return program("containerd")() && program("ctr")() }},
		{"runc", program("runc")},
		{"containernetworking-plugins", func() bool { return cniPluginDir() != "" }},
		{"iptables", program("iptables")},
		{"iproute2", program("ip")},
		{"util-linux", program("nsenter")},
	}
}

func buildDependencies() []dependency {
	return []dependency{{"musl-tools", program("musl-gcc")}}
}

// testDependencies is what tests call: users' keys, a network that is cut.
func testDependencies() []dependency {
	return []dependency{{"openssl", program("openssl")}, {"nftables", program("nft")}}
}

func cmdDeps(ctx context.Context, args []string) error {
	flags := newFlags("deps")
	if err := errors.Join(flags.Parse(args), noMore(flags)); err != nil {
		return err
	}
	return installMissing(ctx, slices.Concat(nodeDependencies(), buildDependencies(), testDependencies()))
}

func installMissing(ctx context.Context, all []dependency) error {
	var missing []string
	for _, d := range all {
		if !d.present() {
			missing = append(missing, d.packageName)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Printf("installing %s\n", strings.Join(missing, " "))
	if os.Geteuid() != 0 || !program("apt-get")() {
		return fmt.Errorf("cannot install %s (needs root and apt-get): install them by hand", strings.Join(missing, " "))
	}
	allow, err := forbidServices()
	if err != nil {
		return err
	}
	defer allow()
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	if err := apt(ctx, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)...); err != nil {
		return err
	}
	for _, d := range all {
		if slices.Contains(missing, d.packageName) && !d.present() {
			return fmt.Errorf("the package %s is installed, but its program is not in PATH", d.packageName)
		}
	}
	return nil
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}

// forbidServices keeps Debian from starting what it installs: a cluster runs its own containerd.
func forbidServices() (restore func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	if firstExisting(policy) != "" {
		return func() {}, nil // the machine has a policy of its own
	}
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, err
	}
	return func() { os.Remove(policy) }, nil
}

// checkMachine says why this machine cannot run a node, or nothing.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: namespaces, mounts and a bridge")
	}
	if _, err := cgroupHierarchies(); err != nil {
		return fmt.Errorf("a node needs cgroups: %w", err)
	}
	if output, err := exec.Command("unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("a node needs namespaces: %w: %s", err, strings.TrimSpace(string(output)))
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(filesystems), "\toverlay\n") {
		_ = exec.Command("modprobe", "overlay").Run()
		filesystems, _ = os.ReadFile("/proc/filesystems")
	}
	if !strings.Contains(string(filesystems), "\toverlay\n") {
		return errors.New("a node needs the overlay file system, and the kernel has none")
	}
	return nil
}
