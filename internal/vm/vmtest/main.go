package vmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// isolatedEnv marks a test binary that runs in a network namespace of its own.
const isolatedEnv = "WRENN_VMTEST_ISOLATED"

// Main is TestMain of a driver's tests. As root it runs the tests in a network namespace of their own, in a
// copy of this process, so that their devices can neither meet others nor stay behind; otherwise as usual. It returns
// the exit status.
func Main(m *testing.M) int {
	if len(os.Args) > 1 && os.Args[1] == pagerArgument {
		return pagerMain()
	}
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(isolatedEnv) != "" {
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}); err != nil {
			fmt.Fprintln(os.Stderr, "bring up the loopback device:", err)
			return 1
		}
		return m.Run()
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that started the child
	inner := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	inner.Args[0] = os.Args[0]
	inner.Env = append(os.Environ(), isolatedEnv+"=1")
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := inner.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
	return 1
}

// makeTAP makes a persistent TAP device with the address 10.0.0.1/30, and removes it after the case.
func makeTAP(w *world, name string) string {
	w.Helper()
	if os.Getenv(isolatedEnv) == "" {
		w.Fatal("TestMain does not call vmtest.Main as root: devices would be made in the host's own namespace")
	}
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name},
		Mode:      netlink.TUNTAP_MODE_TAP,
		Flags:     netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR,
	}
	w.must(netlink.LinkAdd(tap))
	w.Cleanup(func() { removeTAP(w, name) })
	address, err := netlink.ParseAddr("10.0.0.1/30")
	w.must(err)
	w.must(netlink.AddrAdd(tap, address))
	w.must(netlink.LinkSetUp(tap))
	return name
}

// removeTAP removes a TAP device, if it is there.
func removeTAP(w *world, name string) {
	w.Helper()
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return
	}
	w.must(err)
	w.must(netlink.LinkDel(link))
}

// dialNetwork connects to the guest's echo port through the network.
func (w *world) dialNetwork() net.Conn {
	w.Helper()
	conn, err := (&net.Dialer{}).DialContext(w.ctx(), "tcp4", "10.0.0.2:7")
	w.must(err)
	w.must(conn.SetDeadline(time.Now().Add(w.subject.limit())))
	return conn
}
