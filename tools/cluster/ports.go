// Ports: choosing free ones, and proving that a listener belongs to our own process before anybody talks to it.
// It must never trust a port because something answers there: two clusters once shared one etcd that way.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// choosePorts looks for free ports in a range that belongs to the cluster's index, below the range the kernel lends to clients.
func (c *cluster) choosePorts() error {
	next := 20000 + 100*c.Index
	var err error
	take := func(address string, preferred int) int {
		if preferred != 0 && isFree(address, preferred) {
			return preferred
		}
		for end := next + 10000; next < end; {
			next++
			if isFree(address, next) {
				return next
			}
		}
		err = fmt.Errorf("no free port on %s", address)
		return 0
	}
	public := func(preferred int) int { // the bridge's address is ours alone: well-known ports are free there
		if c.Index == 0 {
			preferred = 0
		}
		return take(c.address(), preferred)
	}
	c.Ports = ports{
		API:               public(6443),
		Prometheus:        public(9090),
		Gateway:           take("127.0.0.1", 0),
		Etcd:              take("127.0.0.1", 0),
		EtcdPeer:          take("127.0.0.1", 0),
		ControllerManager: take("127.0.0.1", 0),
		Scheduler:         take("127.0.0.1", 0),
	}
	return err
}

func isFree(address string, port int) bool {
	listener, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

// listenerOwner says whether somebody listens at the address, and whether that is the process.
func listenerOwner(pid int, address string) (listening, ours bool, err error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false, false, err
	}
	inode, err := listeningInode(string(table), address)
	if err != nil || inode == "" {
		return false, false, err
	}
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return true, false, err
	}
	for _, descriptor := range descriptors {
		if link, err := os.Readlink(descriptor); err == nil && link == "socket:["+inode+"]" {
			return true, true, nil
		}
	}
	return true, false, nil
}

// listeningInode finds the inode of the socket that listens at an IPv4 address in the text of /proc/net/tcp; "" when none does.
func listeningInode(table, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	bytes := net.ParseIP(host).To4()
	number, err := net.LookupPort("tcp", port)
	if bytes == nil || err != nil {
		return "", fmt.Errorf("%q is no IPv4 address with a port", address)
	}
	little := []byte{bytes[3], bytes[2], bytes[1], bytes[0]}
	wanted := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(little)), number)
	const listen = "0A"
	for scanner := bufio.NewScanner(strings.NewReader(table)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) > 9 && fields[1] == wanted && fields[3] == listen {
			return fields[9], nil
		}
	}
	return "", nil
}
