// Commands on a running cluster: status, one component, a command in a node, loading images.
// They must stay small: what they do is in process.go and node.go.
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

func cmdStatus(_ context.Context, args []string) error {
	flags := newFlags("status")
	name := flags.String("name", "", "only this cluster")
	if err := errors.Join(flags.Parse(args), noMore(flags)); err != nil {
		return err
	}
	names := []string{*name}
	if *name == "" {
		var err error
		if names, err = clusterNames(); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		fmt.Println("no clusters")
	}
	for _, name := range names {
		c, err := needCluster(name)
		if err != nil {
			return err
		}
		if err := c.printStatus(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) printStatus() error {
	recorded, err := c.recorded()
	if err != nil {
		return err
	}
	fmt.Printf("%s (%s), network %d, KUBECONFIG=%s\n", c.Name, c.parts(), c.Index, c.kubeconfigPath("admin"))
	for _, p := range recorded {
		state := "ready"
		if ready, reason := c.probe(p); !ready {
			state = fmt.Sprintf("not ready: %v", reason)
		}
		fmt.Printf("  %-20s pid %-8d %-22s %s\n", p.Name, c.pid(p.Name), p.Listen, state)
	}
	return nil
}

// oneComponent parses `--name NAME COMPONENT`.
func oneComponent(command string, args []string) (c *cluster, name string, force bool, err error) {
	flags := newFlags(command)
	clusterName := nameFlag(flags)
	kill := flags.Bool("kill", false, "end it with SIGKILL")
	if err := flags.Parse(args); err != nil {
		return nil, "", false, err
	}
	if flags.NArg() != 1 {
		return nil, "", false, fmt.Errorf("%s needs the name of one component", command)
	}
	c, err = needCluster(*clusterName)
	return c, flags.Arg(0), *kill, err
}

func cmdStopComponent(_ context.Context, args []string) error {
	c, name, force, err := oneComponent("stop-component", args)
	if err != nil {
		return err
	}
	p, err := c.record(name)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := c.stop(name, force || p.Isolate); err != nil { // the init process of a node ignores anything but SIGKILL
		return err
	}
	fmt.Printf("%s stopped in %s\n", name, since(begin))
	return nil
}

func cmdStartComponent(ctx context.Context, args []string) error {
	c, name, _, err := oneComponent("start-component", args)
	if err != nil {
		return err
	}
	p, err := c.record(name)
	if err != nil {
		return err
	}
	begin := time.Now()
	if c.pid(name) == 0 {
		if err := c.restart(p); err != nil {
			return err
		}
	}
	if err := c.await(ctx, p); err != nil {
		return err
	}
	fmt.Printf("%s ready in %s\n", name, since(begin))
	return nil
}

func cmdPauseComponent(_ context.Context, args []string) error {
	return signalComponent("pause-component", syscall.SIGSTOP, args)
}

func cmdResumeComponent(_ context.Context, args []string) error {
	return signalComponent("resume-component", syscall.SIGCONT, args)
}

// signalComponent sends a signal to the one process of a component. The init process of a node heeds none of these.
func signalComponent(command string, signal syscall.Signal, args []string) error {
	c, name, _, err := oneComponent(command, args)
	if err != nil {
		return err
	}
	p, err := c.record(name)
	if err != nil {
		return err
	}
	if p.Isolate {
		return fmt.Errorf("%s is a node, not one process: see node-exec", name)
	}
	pid := c.pid(name)
	if pid == 0 {
		return fmt.Errorf("%s does not run: `cluster start-component --name %s %s`", name, c.Name, name)
	}
	return syscall.Kill(pid, signal)
}

func cmdNodeExec(ctx context.Context, args []string) error {
	flags := newFlags("node-exec")
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	rest := flags.Args()
	if len(rest) > 1 && rest[1] == "--" {
		rest = append(rest[:1:1], rest[2:]...)
	}
	if len(rest) < 2 {
		return errors.New("node-exec needs a node and a command: node-exec --name NAME node1 -- COMMAND…")
	}
	c, err := needCluster(*name)
	if err != nil {
		return err
	}
	cmd, err := c.inNode(ctx, rest[0], rest[1:]...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() > 0 {
		os.Exit(failed.ExitCode()) // the command has said what is wrong
	}
	return err
}

func cmdLoad(ctx context.Context, args []string) error {
	flags := newFlags("load")
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("load needs at least one image tar: see `cluster image`")
	}
	c, err := needCluster(*name)
	if err != nil {
		return err
	}
	if c.Nodes == 0 {
		fmt.Printf("cluster %s has no nodes: nothing to load into\n", c.Name)
		return nil
	}
	for _, file := range flags.Args() {
		begin := time.Now()
		absolute, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		if err := c.loadImage(ctx, absolute); err != nil {
			return err
		}
		step("loaded "+filepath.Base(file), begin)
	}
	return nil
}
