// `down`: ends a cluster, whole or half started, and removes every trace.
// It must end processes by their pid files only, and go on after a failure so that as much as possible is removed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

func cmdDown(ctx context.Context, args []string) error {
	flags := newFlags("down")
	name := nameFlag(flags)
	all := flags.Bool("all", false, "every cluster of this tree")
	keep := flags.Bool("keep", false, "keep the folder with logs and data")
	if err := errors.Join(flags.Parse(args), noMore(flags)); err != nil {
		return err
	}
	names := []string{*name}
	if *all {
		var err error
		if names, err = clusterNames(); err != nil {
			return err
		}
	}
	var failures []error
	for _, name := range names {
		failures = append(failures, downOne(ctx, name, *keep))
	}
	return errors.Join(failures...)
}

func downOne(ctx context.Context, name string, keep bool) error {
	unlock, err := lockCluster(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	dir, err := clusterDir(name)
	if err != nil {
		return err
	}
	begin := time.Now()
	existed := firstExisting(dir) != ""
	if err := takeDown(name, dir, keep); err != nil {
		return fmt.Errorf("cluster %s is not wholly removed: %w", name, err)
	}
	if !existed {
		fmt.Printf("there is no cluster %s\n", name)
		return nil
	}
	fmt.Printf("cluster %s is down in %s\n", name, since(begin))
	return nil
}

// takeDown removes the cluster of that folder, even when its state is lost and only its bridge is left.
func takeDown(name, dir string, keep bool) error {
	c, err := loadCluster(name)
	if errors.Is(err, fs.ErrNotExist) {
		c = &cluster{Name: name, Index: orphanIndex(dir), dir: dir}
	} else if err != nil {
		return fmt.Errorf("%w: remove %s by hand after ending the processes in its run folder", err, dir)
	}
	if err := c.endProcesses(); err != nil {
		return err
	}
	failures := []error{c.closeNetwork()}
	for n := 1; n <= c.Nodes; n++ {
		failures = append(failures, c.removeCgroups(n))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if keep {
		return errors.Join(ignoreMissing(os.Remove(c.path("cluster.json"))), ignoreMissing(os.Remove(c.path("env"))), ignoreMissing(os.RemoveAll(c.path("run"))))
	}
	return os.RemoveAll(dir)
}

// endProcesses ends nodes first, then everything else: all at once, by pid file.
func (c *cluster) endProcesses() error {
	recorded, err := c.recorded()
	if err != nil {
		return err
	}
	for _, nodes := range []bool{true, false} {
		var group sync.WaitGroup
		failures := make([]error, len(recorded))
		for i, p := range recorded {
			if p.Isolate == nodes {
				group.Go(func() { failures[i] = c.stop(p.Name, nodes || p.Name == "etcd" || p.Name == "apiserver") })
			}
		}
		group.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
	}
	return nil
}
