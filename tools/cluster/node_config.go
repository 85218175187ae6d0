// The configuration files of a node's daemons.
// It must only write files: what the settings are for is said beside each.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

func (c *cluster) writeNodeConfig(n int) error {
	containerd, err := c.containerdConfig(n)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.nodeDir(n, "cni"), 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"containerd.toml":        containerd,
		"cni/10-bridge.conflist": c.cniConfig(n),
		"resolv.conf":            "nameserver " + c.address() + "\n",
		"kubelet.yaml":           c.kubeletConfig(n),
		"proxy.yaml":             c.proxyConfig(n),
	}
	for name, content := range files {
		if err := os.WriteFile(c.nodeDir(n, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// kubelet refuses to start when these disagree with the processors it sees now
	return errors.Join(
		ignoreMissing(os.Remove(c.nodeDir(n, "kubelet", "cpu_manager_state"))),
		ignoreMissing(os.Remove(c.nodeDir(n, "kubelet", "memory_manager_state"))),
	)
}

func (c *cluster) cniConfig(n int) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, c.nodePods(n))
}

var majorVersion = regexp.MustCompile(`\bv?([0-9]+)\.[0-9]+\.[0-9]+`)

// containerdConfig knows the two formats: Debian 12's containerd is 1.6, newer machines have 2.x.
func (c *cluster) containerdConfig(n int) (string, error) {
	output, err := exec.Command("containerd", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("containerd --version: %w", err)
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return "", err
	}
	plugins := cniPluginDir()
	if plugins == "" {
		return "", errors.New("no CNI plugins: `cluster deps` installs them")
	}
	format := containerdFormat2
	if match := majorVersion.FindStringSubmatch(string(output)); match != nil && match[1] == "1" {
		format = containerdFormat1
	}
	return strings.NewReplacer("@ROOT@", c.nodeDir(n, "containerd"), "@SOCKET@", containerdSocket, "@PAUSE@", pauseImage,
		"@RUNC@", runc, "@PLUGINS@", plugins, "@CNI@", c.nodeDir(n, "cni")).Replace(format), nil
}

func cniPluginDir() string {
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if firstExisting(dir+"/bridge") != "" {
			return dir
		}
	}
	return ""
}

// restrict_oom_score_adj: CAP_SYS_RESOURCE may be withheld, and then runc cannot lower oom_score_adj.
const containerdFormat1 = `version = 2
root = "@ROOT@"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "@SOCKET@"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@PAUSE@"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "@RUNC@"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@PLUGINS@"
    conf_dir = "@CNI@"
`

const containerdFormat2 = `version = 3
root = "@ROOT@"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs", "io.containerd.nri.v1.nri"]
[grpc]
  address = "@SOCKET@"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "@PAUSE@"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "@RUNC@"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["@PLUGINS@"]
    conf_dir = "@CNI@"
`

// kubeletConfig: cgroup version 1 is accepted, images are never collected, and nothing of the machine is tuned.
func (c *cluster) kubeletConfig(n int) string {
	return strings.NewReplacer("@CA@", c.certPath("ca"), "@CERT@", c.certPath(c.nodeName(n)+"-server"), "@KEY@", c.keyPath(c.nodeName(n)+"-server"),
		"@CGROUP@", "/"+c.nodeSlot(n), "@SOCKET@", containerdSocket, "@DIR@", c.nodeDir(n), "@DNS@", c.address(), "@DOMAIN@", clusterDomain,
		"@ADDRESS@", c.nodeAddress(n), "@HEALTH@", strconv.Itoa(kubeletHealthPort)).Replace(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "@CA@"}}
authorization: {mode: Webhook}
tlsCertFile: "@CERT@"
tlsPrivateKeyFile: "@KEY@"
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: "@CGROUP@"
containerRuntimeEndpoint: unix://@SOCKET@
resolvConf: "@DIR@/resolv.conf"
clusterDNS: ["@DNS@"]
clusterDomain: @DOMAIN@
podLogsDir: "@DIR@/podlogs"
volumePluginDir: "@DIR@/volplugins"
maxPods: 200
failSwapOn: false
makeIPTablesUtilChains: false
evictionHard: {memory.available: 200Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
serializeImagePulls: false
shutdownGracePeriod: 0s
healthzBindAddress: @ADDRESS@
healthzPort: @HEALTH@
`)
}

func (c *cluster) proxyConfig(n int) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
bindAddress: %s
clusterCIDR: %s
nodePortAddresses: [primary]
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
iptables: {minSyncPeriod: 100ms, localhostNodePorts: false}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, c.kubeconfigPath("kube-proxy"), c.nodeName(n), c.nodeAddress(n), c.pods())
}
