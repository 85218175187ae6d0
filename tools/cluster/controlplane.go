// The control plane: etcd, API server, controller manager, scheduler, as components on the host.
// It must not know anything about nodes or add-ons.
package main

import (
	"fmt"
)

func (c *cluster) etcd() component {
	return component{
		Name:   "etcd",
		Listen: fmt.Sprintf("127.0.0.1:%d", c.Ports.Etcd),
		Ready:  c.etcdURL() + "/health",
		Args: []string{c.program("kubernetes", "etcd"),
			"--name=e0", "--data-dir=" + c.path("etcd"), "--log-level=warn",
			"--unsafe-no-fsync", // the data is thrown away with the cluster
			"--listen-client-urls=" + c.etcdURL(), "--advertise-client-urls=" + c.etcdURL(),
			"--listen-peer-urls=" + c.etcdPeerURL(), "--initial-advertise-peer-urls=" + c.etcdPeerURL(),
			"--initial-cluster=e0=" + c.etcdPeerURL(),
		},
	}
}

func (c *cluster) apiServer() component {
	args := []string{c.program("kubernetes", "kube-apiserver"),
		"--etcd-servers=" + c.etcdURL(),
		"--bind-address=" + c.address(), fmt.Sprintf("--secure-port=%d", c.Ports.API),
		"--tls-cert-file=" + c.certPath("apiserver"), "--tls-private-key-file=" + c.keyPath("apiserver"),
		"--client-ca-file=" + c.certPath("ca"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + c.path("pki", "sa.pub"), "--service-account-signing-key-file=" + c.keyPath("sa"),
		"--service-cluster-ip-range=" + c.services(), "--allow-privileged=true",
		"--kubelet-client-certificate=" + c.certPath("apiserver-kubelet-client"), "--kubelet-client-key=" + c.keyPath("apiserver-kubelet-client"),
		"--kubelet-certificate-authority=" + c.certPath("ca"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + c.certPath("ca"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.certPath("front-proxy-client"), "--proxy-client-key-file=" + c.keyPath("front-proxy-client"),
	}
	if c.Index == 0 { // loopback may not be advertised; without nodes nobody needs the endpoint
		args = append(args, "--advertise-address=10.88.0.1", "--endpoint-reconciler-type=none")
	} else {
		args = append(args, "--advertise-address="+c.address())
	}
	return component{
		Name:   "apiserver",
		Listen: fmt.Sprintf("%s:%d", c.address(), c.Ports.API),
		Ready:  c.apiURL() + "/readyz",
		Args:   args,
	}
}

func (c *cluster) controllerManager() component {
	kubeconfig := c.kubeconfigPath("controller-manager")
	return component{
		Name:   "controller-manager",
		Listen: fmt.Sprintf("127.0.0.1:%d", c.Ports.ControllerManager),
		Ready:  fmt.Sprintf("https://127.0.0.1:%d/healthz", c.Ports.ControllerManager),
		Args: []string{c.program("kubernetes", "kube-controller-manager"),
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.Ports.ControllerManager),
			"--kube-api-qps=300", "--kube-api-burst=500", "--leader-elect=false",
			"--use-service-account-credentials=true", "--service-account-private-key-file=" + c.keyPath("sa"),
			"--root-ca-file=" + c.certPath("ca"),
			"--cluster-signing-cert-file=" + c.certPath("ca"), "--cluster-signing-key-file=" + c.keyPath("ca"),
			"--allocate-node-cidrs=false", // the CNI configuration fixes them
			"--flex-volume-plugin-dir=" + c.path("flex"),
		},
	}
}

func (c *cluster) scheduler() component {
	kubeconfig := c.kubeconfigPath("scheduler")
	return component{
		Name:   "scheduler",
		Listen: fmt.Sprintf("127.0.0.1:%d", c.Ports.Scheduler),
		Ready:  fmt.Sprintf("https://127.0.0.1:%d/healthz", c.Ports.Scheduler),
		Args: []string{c.program("kubernetes", "kube-scheduler"),
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.Ports.Scheduler),
			"--kube-api-qps=300", "--kube-api-burst=500", "--leader-elect=false",
		},
	}
}
