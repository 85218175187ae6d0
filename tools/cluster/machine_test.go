// What the tool reads from the machine: listeners and their owners, networks in use, live and dead processes.
package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestListenerBelongsToItsProcessOnly(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	if listening, ours, err := listenerOwner(os.Getpid(), address); !listening || !ours || err != nil {
		t.Errorf("own listener: listening %v, ours %v, %v", listening, ours, err)
	}
	if listening, ours, err := listenerOwner(os.Getppid(), address); !listening || ours || err != nil {
		t.Errorf("the parent's pid: listening %v, ours %v, %v", listening, ours, err)
	}
}

func TestOnlyListeningSocketsCount(t *testing.T) {
	const table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:4E85 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 111 1 0\n" +
		"   1: 0100007F:4E85 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0\n"
	if inode, err := listeningInode(table, "127.0.0.1:20101"); inode != "222" || err != nil {
		t.Errorf("inode %q, %v", inode, err)
	}
	if inode, err := listeningInode(table, "127.0.0.1:20102"); inode != "" || err != nil {
		t.Errorf("nobody listens there, but: inode %q, %v", inode, err)
	}
}

func TestOverlap(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")}
	if !overlapsAny(taken, "10.88.3.1/24") || overlapsAny(taken, "10.103.0.0/16", "10.163.0.0/16") {
		t.Error("overlap is judged wrongly")
	}
}

func TestStrangersAndZombiesAreNotOurs(t *testing.T) {
	c := &cluster{dir: t.TempDir()}
	ours := exec.Command("sleep", "60")
	ours.Env = []string{marker + "=" + c.dir}
	stranger := exec.Command("sleep", "60")
	for _, cmd := range []*exec.Cmd{ours, stranger} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
	}
	if !c.owns(ours.Process.Pid) || c.owns(stranger.Process.Pid) {
		t.Error("the marker does not tell ours from others")
	}
	if isDead(ours.Process.Pid) {
		t.Error("a live process counts as dead")
	}
	if err := syscall.Kill(ours.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !waitUntil(time.Second, func() bool { return isDead(ours.Process.Pid) }) || c.owns(ours.Process.Pid) {
		t.Error("a zombie counts as alive")
	}
}
