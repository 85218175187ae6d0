// The file `env` of a cluster: what tests and people source to use it. It is written last: its presence means that `up` finished.
// It must hold nothing that is not also true when the file is read later.
package main

import (
	"fmt"
	"os"
	"strings"
)

func (c *cluster) writeEnvironment() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	variables := [][2]string{
		{"SLUICE_CLUSTER", c.Name},
		{"KUBECONFIG", c.kubeconfigPath("admin")},
		{"CLUSTER_TOOL", self},
		{"KUBECTL", c.program("kubernetes", "kubectl")},
		{"HELM", c.program("helm", "helm")},
	}
	if c.Prometheus {
		variables = append(variables, [2]string{"PROMETHEUS_URL", c.prometheusURL()})
	}
	if c.Gateway {
		variables = append(variables, [2]string{"GATEWAY_URL", c.gatewayURL()},
			[2]string{"GATEWAY_NAMESPACE", gatewayNamespace}, [2]string{"GATEWAY_NAME", gatewayName})
	}
	var text strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&text, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	return os.WriteFile(c.path("env"), []byte(text.String()), 0o644)
}
