// Certificates: one authority per cluster, and every certificate it signs. Kubeconfigs that hold them.
// It must not reuse keys between clusters, and writes private files readable by root only.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs certificates; certificates and keys are files in the cluster's pki folder.
type authority struct {
	cluster     *cluster
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// identity is one certificate to make.
type identity struct {
	file   string
	name   string
	groups []string
	server bool
	names  []string // of a server: DNS names and addresses
}

func (c *cluster) certPath(file string) string { return c.path("pki", file+".crt") }
func (c *cluster) keyPath(file string) string  { return c.path("pki", file+".key") }

// makeCertificates creates the authority and everything it signs.
func (c *cluster) makeCertificates() error {
	ca, err := c.makeAuthority()
	if err != nil {
		return err
	}
	for _, id := range c.identities() {
		if err := ca.issue(id); err != nil {
			return fmt.Errorf("certificate %s: %w", id.file, err)
		}
	}
	return c.makeServiceAccountKey()
}

func (c *cluster) identities() []identity {
	all := []identity{
		{file: "apiserver", name: "kube-apiserver", server: true, names: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain,
			"127.0.0.1", c.address(), c.apiServiceAddress()}},
		{file: "apiserver-kubelet-client", name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "front-proxy-client", name: "front-proxy-client"},
		{file: "admin", name: "admin", groups: []string{"system:masters"}},
		{file: "controller-manager", name: "system:kube-controller-manager"},
		{file: "scheduler", name: "system:kube-scheduler"},
		{file: "kube-proxy", name: "system:kube-proxy"},
	}
	for n := 1; n <= c.Nodes; n++ {
		node := c.nodeName(n)
		all = append(all,
			identity{file: node, name: "system:node:" + node, groups: []string{"system:nodes"}},
			identity{file: node + "-server", name: node, server: true, names: []string{node, "127.0.0.1", c.nodeAddress(n)}})
	}
	return all
}

func (c *cluster) makeAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := newTemplate(pkix.Name{CommonName: "sluice-" + c.Name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{c, certificate, key}, c.writePair("ca", der, key)
}

func (ca *authority) issue(id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := newTemplate(pkix.Name{CommonName: id.name, Organization: id.groups})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, name := range id.names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		return err
	}
	return ca.cluster.writePair(id.file, der, key)
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	return &x509.Certificate{
		Subject: subject, SerialNumber: serial,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
}

func (c *cluster) writePair(file string, der []byte, key crypto.PrivateKey) error {
	if err := writePEM(c.certPath(file), "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(c.keyPath(file), key)
}

// makeServiceAccountKey makes the key pair that signs the tokens of pods.
func (c *cluster) makeServiceAccountKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(c.path("pki", "sa.pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(c.keyPath("sa"), key)
}

func writeKey(path string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// writeKubeconfig writes a kubeconfig for the identity of that file name; it holds the certificates themselves and can be moved.
func (c *cluster) writeKubeconfig(path, file string) error {
	var encoded []any
	for _, source := range []string{c.certPath("ca"), c.certPath(file), c.keyPath(file)} {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		encoded = append(encoded, base64.StdEncoding.EncodeToString(content))
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster: {server: "%[2]s", certificate-authority-data: %[4]s}
users:
- name: %[3]s
  user: {client-certificate-data: %[5]s, client-key-data: %[6]s}
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[3]s}
current-context: %[1]s
`, append([]any{"sluice-" + c.Name, c.apiURL(), file}, encoded...)...)
	return os.WriteFile(path, []byte(text), 0o600)
}

func (c *cluster) kubeconfigPath(file string) string {
	if file == "admin" {
		return c.path("kubeconfig")
	}
	return c.path("pki", file+".kubeconfig")
}

// writeKubeconfigs writes those of the administrator and of the components.
func (c *cluster) writeKubeconfigs() error {
	files := []string{"admin", "controller-manager", "scheduler", "kube-proxy"}
	for n := 1; n <= c.Nodes; n++ {
		files = append(files, c.nodeName(n))
	}
	for _, file := range files {
		if err := c.writeKubeconfig(c.kubeconfigPath(file), file); err != nil {
			return fmt.Errorf("kubeconfig of %s: %w", file, err)
		}
	}
	return nil
}
