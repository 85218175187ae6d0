// DNS and Prometheus: components on the host that pods reach at the bridge's address.
// The gateway is in gateway.go. They must not need anything but the API server.
package main

import (
	"fmt"
	"os"
	"strings"
)

// dns answers for the cluster's Services only: nothing is asked of the machine's resolvers.
func (c *cluster) dns() (component, error) {
	corefile := strings.NewReplacer("@ADDRESS@", c.address(), "@DOMAIN@", clusterDomain, "@KUBECONFIG@", c.kubeconfigPath("admin")).Replace(`.:53 {
  bind @ADDRESS@
  errors
  kubernetes @DOMAIN@ in-addr.arpa ip6.arpa {
    kubeconfig @KUBECONFIG@
    pods insecure
    ttl 1
  }
}
`)
	path := c.path("Corefile")
	return component{
		Name:   "coredns",
		Args:   []string{c.program("coredns", "coredns"), "-conf", path},
		Listen: c.address() + ":53",
	}, os.WriteFile(path, []byte(corefile), 0o644)
}

// prometheus scrapes every pod that asks for it by annotation, each second: tests must not wait for data.
func (c *cluster) prometheus() (component, error) {
	config := strings.ReplaceAll(prometheusConfig, "@KUBECONFIG@", c.kubeconfigPath("admin"))
	path := c.path("prometheus.yml")
	return component{
		Name:   "prometheus",
		Listen: fmt.Sprintf("%s:%d", c.address(), c.Ports.Prometheus),
		Ready:  c.prometheusURL() + "/-/ready",
		Args: []string{c.program("prometheus", "prometheus"),
			"--config.file=" + path, "--storage.tsdb.path=" + c.path("prometheus"), "--storage.tsdb.retention.time=2h",
			fmt.Sprintf("--web.listen-address=%s:%d", c.address(), c.Ports.Prometheus), "--web.enable-lifecycle",
			"--scrape.discovery-reload-interval=1s", "--log.level=info",
		},
	}, os.WriteFile(path, []byte(config), 0o644)
}

const prometheusConfig = `global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
scrape_configs:
- job_name: pods
  honor_labels: false
  kubernetes_sd_configs:
  - {role: pod, kubeconfig_file: "@KUBECONFIG@"}
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
  - {source_labels: [__meta_kubernetes_pod_phase], regex: Succeeded|Failed, action: drop}
  - {source_labels: [__meta_kubernetes_pod_container_init], regex: "true", action: drop}
  - {source_labels: [__meta_kubernetes_pod_ip], regex: .+, action: keep}
  - {source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port], separator: ":", regex: "(.+:[0-9]+)", target_label: __address__}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], regex: (.+), target_label: __metrics_path__}
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
  - {source_labels: [__meta_kubernetes_pod_node_name], target_label: node}
  - {source_labels: [__meta_kubernetes_pod_label_sluice_dev_agent], target_label: agent}
  - {source_labels: [__meta_kubernetes_pod_label_sluice_dev_revision], target_label: revision}
`
