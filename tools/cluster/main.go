// The command line of the local cluster tool: parses a command, calls it, prints its error.
// It must not hold any knowledge about how a cluster works.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// command is one verb of the tool. A hidden command is for the tool's own use.
type command struct {
	name   string
	usage  string
	run    func(ctx context.Context, args []string) error
	hidden bool
}

func commands() []command {
	return []command{
		{name: "up", usage: "up --name NAME [--nodes N] [--gateway=false] [--prometheus=false]   start a cluster, or say that it runs", run: cmdUp},
		{name: "down", usage: "down --name NAME | --all [--keep]   end a cluster and remove all its traces", run: cmdDown},
		{name: "status", usage: "status [--name NAME]   what runs and what does not", run: cmdStatus},
		{name: "load", usage: "load --name NAME FILE.tar…   import images into every node", run: cmdLoad},
		{name: "image", usage: "image --ref NAME:TAG --entrypoint PATH --out FILE.tar HOSTFILE:IMAGEPATH…   build an OCI image", run: cmdImage},
		{name: "build", usage: "build [MODULE…]   build the pinned programs into the cache (default: all)", run: cmdBuild},
		{name: "path", usage: "path MODULE PROGRAM   where a pinned program is, built if need be", run: cmdPath},
		{name: "deps", usage: "deps   install the missing Debian packages", run: cmdDeps},
		{name: "stop-component", usage: "stop-component --name NAME [--kill] COMPONENT   end one component (prometheus, traefik, apiserver, node1, …)", run: cmdStopComponent},
		{name: "start-component", usage: "start-component --name NAME COMPONENT   start it again with the same arguments", run: cmdStartComponent},
		{name: "pause-component", usage: "pause-component --name NAME COMPONENT   stop its process where it is (SIGSTOP): it answers nobody", run: cmdPauseComponent},
		{name: "resume-component", usage: "resume-component --name NAME COMPONENT   let it go on (SIGCONT)", run: cmdResumeComponent},
		{name: "node-exec", usage: "node-exec --name NAME NODE -- COMMAND…   run a command in a node's namespaces", run: cmdNodeExec},
		{name: "node-init", run: cmdNodeInit, hidden: true},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		printUsage(os.Stdout)
		return nil
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(ctx, args[1:])
		}
	}
	printUsage(os.Stderr)
	return fmt.Errorf("there is no command %q", args[0])
}

func printUsage(w io.Writer) {
	fmt.Fprintln(w, "usage: cluster COMMAND …")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintln(w, "  "+c.usage)
		}
	}
}

// newFlags makes a flag set that prints the command's usage line when it is called wrongly.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Usage = func() {
		for _, c := range commands() {
			if c.name == name {
				fmt.Fprintln(os.Stderr, "usage: cluster "+c.usage)
			}
		}
		flags.PrintDefaults()
	}
	return flags
}

// nameFlag adds --name, whose default is the cluster of the environment (as `env` exports it), else `dev`.
func nameFlag(flags *flag.FlagSet) *string {
	name := os.Getenv("SLUICE_CLUSTER")
	if name == "" {
		name = "dev"
	}
	return flags.String("name", name, "name of the cluster")
}

// noMore refuses left-over arguments, so that a typo is not silently ignored.
func noMore(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("%s takes no argument %q", flags.Name(), strings.Join(flags.Args(), " "))
	}
	return nil
}
