// Where things are: the source tree, the build cache, the folder of a cluster.
// It must not create anything but the folders it is asked for.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// treeRoot is the root of the source tree: the nearest folder upwards, from here or from this program, that has tools/modules.
func treeRoot() (string, error) {
	var starts []string
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			if info, err := os.Stat(filepath.Join(dir, "tools", "modules")); err == nil && info.IsDir() {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("no tools/modules in this folder or above it: run the tool inside the source tree")
}

// cacheDir holds what is built once for all trees of this machine.
func cacheDir() (string, error) {
	if dir := os.Getenv("SLUICE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home folder for the build cache, set SLUICE_CACHE: %w", err)
	}
	return filepath.Join(home, ".cache", "sluice"), nil
}

// clustersDir is the folder of all clusters of this tree.
func clustersDir() (string, error) {
	root, err := treeRoot()
	return filepath.Join(root, ".cluster"), err
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// clusterDir is the folder of one cluster.
func clusterDir(name string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("%q is no cluster name: use lower-case letters, digits and dashes, a letter first", name)
	}
	if name == "bin" || name == "images" {
		return "", fmt.Errorf("the name %q is taken by the folder .cluster/%s: choose another", name, name)
	}
	all, err := clustersDir()
	return filepath.Join(all, name), err
}

// firstExisting returns the first path that exists, or "".
func firstExisting(paths ...string) string {
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
