// Building the pinned programs into the cache, atomically and with visible progress.
// It must not write into the source tree, and must not build what is already there.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func cmdBuild(ctx context.Context, args []string) error {
	flags := newFlags("build")
	if err := flags.Parse(args); err != nil {
		return err
	}
	names := flags.Args()
	if len(names) == 0 {
		for _, m := range modules() {
			names = append(names, m.name)
		}
	}
	root, err := treeRoot()
	if err != nil {
		return err
	}
	_, err = buildAll(ctx, root, names)
	return err
}

// cmdPath prints nothing but the path: progress goes to standard error.
func cmdPath(ctx context.Context, args []string) error {
	flags := newFlags("path")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("path needs a module and a program: cluster path helm helm")
	}
	root, err := treeRoot()
	if err != nil {
		return err
	}
	dirs, err := buildAll(ctx, root, flags.Args()[:1])
	if err != nil {
		return err
	}
	path := filepath.Join(dirs[flags.Arg(0)], flags.Arg(1))
	if firstExisting(path) == "" {
		return fmt.Errorf("the module %s makes no program %s", flags.Arg(0), flags.Arg(1))
	}
	fmt.Println(path)
	return nil
}

// buildAll builds what is missing of the named modules and returns the folder of each.
func buildAll(ctx context.Context, root string, names []string) (map[string]string, error) {
	dirs := map[string]string{}
	for _, name := range names {
		m, err := moduleNamed(name)
		if err != nil {
			return nil, err
		}
		if dirs[name], err = m.build(ctx, root); err != nil {
			return nil, fmt.Errorf("building %s: %w", name, err)
		}
	}
	return dirs, nil
}

// build makes the module's folder unless it exists. Two builds of the same module wait for each other.
func (m module) build(ctx context.Context, root string) (string, error) {
	target, err := m.target(root)
	if err != nil {
		return "", err
	}
	if firstExisting(target) != "" {
		return target, nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(filepath.Dir(target), "."+m.name+".lock"), "another build of "+m.name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if firstExisting(target) != "" {
		return target, nil // the other one has just built it
	}
	temp, err := os.MkdirTemp(filepath.Dir(target), ".building-"+m.name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	if err := m.fill(ctx, root, temp); err != nil {
		return "", err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	return target, os.Rename(temp, target)
}

// fill puts the module's products into dir.
func (m module) fill(ctx context.Context, root, dir string) error {
	if m.copyFrom != "" {
		return m.copyData(ctx, root, dir)
	}
	if err := m.compile(ctx, root, dir); err != nil {
		return err
	}
	for from, to := range m.rename {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	return nil
}

// compile runs go build. `-v` names each package as it is compiled: that is the progress.
func (m module) compile(ctx context.Context, root, dir string) error {
	args := append([]string{"-n", "10", "go", "build", "-v", "-buildvcs=false", "-trimpath"}, m.flags...)
	args = append(args, "-o", dir+"/")
	cmd := exec.CommandContext(ctx, "nice", append(args, m.packages...)...)
	cmd.Dir = m.source(root)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	fmt.Fprintf(os.Stderr, "building %s (once; the result stays in the cache)\n", m.name)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run go: is Go installed and in PATH? %w", err)
	}
	messages := showProgress(output, m.name, start)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build failed after %s: %w\n%s", since(start), err, messages)
	}
	fmt.Fprintf(os.Stderr, "built %s in %s\n", m.name, since(start))
	return nil
}

// showProgress counts the packages that go names and returns everything else that it said.
func showProgress(output io.Reader, name string, start time.Time) string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	report, every := progressLine()
	tick := time.NewTicker(every)
	defer tick.Stop()
	count, last := 0, "-"
	var rest strings.Builder
	for {
		select {
		case line, open := <-lines:
			switch {
			case !open:
				return rest.String()
			case strings.HasPrefix(line, "go: downloading "):
				last = strings.TrimPrefix(line, "go: ")
			case line == "" || strings.ContainsAny(line, " \t"):
				rest.WriteString(line + "\n")
			default:
				count, last = count+1, line
			}
		case <-tick.C:
			report(fmt.Sprintf("building %s: %s, %d packages compiled, %s", name, since(start), count, last))
		}
	}
}

// progressLine rewrites one line on a terminal, and adds a line now and then to a log.
func progressLine() (report func(string), every time.Duration) {
	if isTerminal(os.Stderr) {
		return func(text string) { fmt.Fprintf(os.Stderr, "\r\033[K%.150s\r", text) }, time.Second
	}
	return func(text string) { fmt.Fprintln(os.Stderr, "  "+text) }, 20 * time.Second
}

// copyData copies a folder out of the module that is pinned, checked against go.sum by go itself.
func (m module) copyData(ctx context.Context, root, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", m.required)
	cmd.Dir = m.source(root)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	runError := cmd.Run()
	var found struct{ Dir, Error string }
	if err := json.Unmarshal(stdout.Bytes(), &found); err != nil || found.Dir == "" {
		return fmt.Errorf("go mod download %s: %w %s %s", m.required, errors.Join(runError, err), found.Error, stderr.String())
	}
	return os.CopyFS(dir, os.DirFS(filepath.Join(found.Dir, m.copyFrom)))
}

func since(start time.Time) time.Duration {
	elapsed := time.Since(start)
	if elapsed > 10*time.Second {
		return elapsed.Round(time.Second)
	}
	return elapsed.Round(10 * time.Millisecond)
}

func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
