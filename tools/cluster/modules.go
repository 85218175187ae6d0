// The pinned programs: which module makes which binaries, with which flags.
// It must not run anything; versions live in tools/modules/*/go.mod, never here (but for the version that Kubernetes prints).
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// module is one folder with its own go.mod, and the packages to build from it.
type module struct {
	name     string
	dir      string            // below the root of the tree
	flags    []string          // of `go build`
	packages []string          // what to build; none: the module is data (see copyFrom)
	rename   map[string]string // what go calls a binary → what we call it
	copyFrom string            // a folder of the required module of that name to copy
	required string            // the module that copyFrom is in
}

const stripped = "-s -w"

// kubernetesVersion is what the binaries report; it must be the version in tools/modules/kubernetes/go.mod.
const kubernetesVersion = "-X k8s.io/component-base/version.gitVersion=v1.36.3" +
	" -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=36"

func modules() []module {
	return []module{
		{
			name:  "kubernetes",
			flags: []string{"-ldflags", stripped + " " + kubernetesVersion},
			packages: []string{
				"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager",
				"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kubelet",
				"k8s.io/kubernetes/cmd/kube-proxy", "k8s.io/kubernetes/cmd/kubectl", "go.etcd.io/etcd/server/v3",
			},
			rename: map[string]string{"server": "etcd"},
		},
		{name: "coredns", flags: []string{"-ldflags", stripped}, packages: []string{"."}},
		{name: "prometheus", flags: []string{"-ldflags", stripped, "-tags", "remove_all_sd,enable_kubernetes_sd"}, packages: []string{"github.com/prometheus/prometheus/cmd/prometheus"}},
		{name: "traefik", flags: []string{"-ldflags", stripped}, packages: []string{"github.com/traefik/traefik/v3/cmd/traefik"}},
		{name: "helm", flags: []string{"-ldflags", stripped}, packages: []string{"helm.sh/helm/v4/cmd/helm"}},
		{name: "gateway-api", required: "sigs.k8s.io/gateway-api", copyFrom: "config/crd/standard"},
		{name: "pause", dir: "tools/cluster/pause", flags: []string{"-ldflags", stripped}, packages: []string{"."}},
	}
}

func moduleNamed(name string) (module, error) {
	var names []string
	for _, m := range modules() {
		if m.name == name {
			return m, nil
		}
		names = append(names, m.name)
	}
	return module{}, fmt.Errorf("there is no module %q: there are %s", name, strings.Join(names, ", "))
}

// source is the folder that go runs in.
func (m module) source(root string) string {
	if m.dir != "" {
		return filepath.Join(root, m.dir)
	}
	return filepath.Join(root, "tools", "modules", m.name)
}

// target is the folder of the finished binaries: its name changes with whatever goes into them.
func (m module) target(root string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	hash, err := m.hash(root)
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "bin", m.name+"-"+hash), nil
}

func (m module) hash(root string) (string, error) {
	files, err := filepath.Glob(filepath.Join(m.source(root), "*"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no module in %s: is the tree complete? (%v)", m.source(root), err)
	}
	slices.Sort(files)
	sum := sha256.New()
	for _, file := range files {
		base := filepath.Base(file)
		if base != "go.mod" && base != "go.sum" && filepath.Ext(base) != ".go" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", base, len(content), content)
	}
	fmt.Fprintf(sum, "%q %q %q %q %q", m.flags, m.packages, m.rename, m.required, m.copyFrom)
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}
