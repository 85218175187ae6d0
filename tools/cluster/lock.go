// Locks between processes of this tool: one `up` or `down` per cluster, one build per module.
// It must not be used to protect anything inside one process.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockFile waits for the lock and returns its release. The kernel releases it too when the process dies.
func lockFile(ctx context.Context, path, holder string) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !said {
			fmt.Fprintf(os.Stderr, "waiting for %s\n", holder)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("gave up waiting for %s (lock %s): %w", holder, path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
