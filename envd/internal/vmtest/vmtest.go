// Package vmtest boots real guests for the tests of envd: QEMU under emulation, the
// project's own kernel, and a small disk that holds envd and a probe.
package vmtest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/wrenn-sandbox/wrenn/envd/internal/listen"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/proto/channel"
)

// Patience bounds every wait; it is long because the machine may be busy.
const Patience = 3 * time.Minute

// Options say how a guest differs from the usual one.
type Options struct {
	VCPUs     int    // 0 means 1
	MemoryMiB int    // 0 means 256
	DiskMiB   int64  // 0 means the size of the image
	Arguments string // kernel arguments besides those without which nothing works
}

// Guest is a running guest. Tests of one guest run one after the other.
type Guest struct {
	t       testing.TB
	dir     string
	cmd     *exec.Cmd
	exited  chan struct{}
	exitErr error

	mu   sync.Mutex
	conn net.Conn
	mux  *yamux.Session
}

// Boot boots a guest that ends with the test. On a machine that cannot do that the test
// is skipped, or fails where all lanes are mandatory.
func Boot(t testing.TB, opts Options) *Guest {
	t.Helper()
	kernel := needs(t)
	g := &Guest{t: t, dir: shortDir(t), exited: make(chan struct{})}
	copyImage(t, g.Image())
	if opts.DiskMiB != 0 {
		if err := os.Truncate(g.Image(), opts.DiskMiB<<20); err != nil {
			t.Fatal(err)
		}
	}
	g.start(kernel, opts)
	t.Cleanup(g.kill)
	return g
}

// needs returns the kernel's path, if all else is there too.
func needs(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "mke2fs", "e2fsck", "dumpe2fs", "debugfs"} {
		if _, err := exec.LookPath(program); err != nil {
			testlane.Missing(t, program+" is not installed")
		}
	}
	kernel, err := filepath.Abs("../build/guest/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kernel); err != nil {
		testlane.Missing(t, "there is no guest kernel (make images)")
	}
	return kernel
}

// shortDir is a folder whose path leaves room for the name of a unix socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "envd-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (g *Guest) start(kernel string, opts Options) {
	g.t.Helper()
	arguments := "console=ttyS0 quiet root=/dev/vda rw init=/usr/local/bin/envd reboot=t panic=-1 no_timer_check mitigations=off " +
		"wrenn.transport=" + listen.TransportVirtioSerial + " " + opts.Arguments
	log, err := os.Create(filepath.Join(g.dir, "qemu.log"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	g.cmd = exec.Command("qemu-system-x86_64", "-M", "microvm,acpi=off", "-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max",
		"-smp", fmt.Sprint(cmp.Or(opts.VCPUs, 1)), "-m", fmt.Sprintf("%dM", cmp.Or(opts.MemoryMiB, 256)),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-kernel", kernel, "-append", arguments,
		"-drive", "id=root,if=none,format=raw,cache=unsafe,file="+g.Image(), "-device", "virtio-blk-device,drive=root",
		"-serial", "file:"+g.path("console"),
		"-chardev", "socket,id=envd,server=on,wait=off,path="+g.path("envd.sock"),
		"-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=envd,nr=1,name="+listen.PortName,
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng0",
		// A network that ends inside QEMU.
		"-netdev", "user,id=net0,restrict=on,net=10.0.0.0/30,host=10.0.0.1,dhcpstart=10.0.0.2,ipv6=off", "-device", "virtio-net-device,netdev=net0")
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	go func() {
		g.exitErr = g.cmd.Wait()
		close(g.exited)
	}()
}

func (g *Guest) path(name string) string { return filepath.Join(g.dir, name) }

// PID is the process id of QEMU.
func (g *Guest) PID() int { return g.cmd.Process.Pid }

// Image is the path of the guest's disk.
func (g *Guest) Image() string { return g.path("root.ext4") }

// kill ends what is left and says what the guest said if the test failed.
func (g *Guest) kill() {
	_ = g.cmd.Process.Kill()
	<-g.exited
	g.Disconnect()
	if g.t.Failed() {
		log, _ := os.ReadFile(g.path("qemu.log"))
		g.t.Logf("the guest's console:\n%s\nQEMU: %v\n%s", g.Console(), g.exitErr, log)
	}
}

// CheckDisk fails the test unless the disk of a guest that has ended is as after a clean
// unmount, and returns the content of a file on it.
func (g *Guest) CheckDisk(file string) string {
	g.t.Helper()
	// -f looks even where the file system says that it is clean; -n repairs nothing.
	if err := run("e2fsck", "-f", "-n", g.Image()); err != nil {
		g.t.Error(err)
	}
	state, err := output("dumpe2fs", "-h", g.Image())
	if err != nil || !strings.Contains(state, "Filesystem state:         clean\n") {
		g.t.Errorf("the file system was not unmounted: %v\n%s", err, state)
	}
	content, err := output("debugfs", "-R", "cat "+file, g.Image())
	if err != nil {
		g.t.Error(err)
	}
	return content
}

// Console returns what the guest wrote to its console.
func (g *Guest) Console() string {
	text, _ := os.ReadFile(g.path("console"))
	return strings.ReplaceAll(string(text), "\r", "")
}

// WaitExit waits for the guest to end of itself and returns QEMU's error.
func (g *Guest) WaitExit() error {
	g.t.Helper()
	select {
	case <-g.exited:
		return g.exitErr
	case <-time.After(Patience):
		g.t.Fatal("the guest does not end")
		return nil
	}
}

// Disconnect makes the host go away, as when its process ends.
func (g *Guest) Disconnect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		_ = g.conn.Close()
		_ = g.mux.Close()
	}
	g.conn, g.mux = nil, nil
}

// session returns the multiplexer to the guest, which it makes if there is none. It tries
// once: the channel needs no retries.
func (g *Guest) session(ctx context.Context) (*yamux.Session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mux != nil {
		return g.mux, nil
	}
	conn, err := g.connect(ctx)
	if err != nil {
		return nil, err
	}
	session, err := channel.Host(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	g.conn = conn
	g.mux, err = channel.Client(session)
	return g.mux, err
}

// connect waits for QEMU to make its socket.
func (g *Guest) connect(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := net.Dial("unix", g.path("envd.sock"))
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-g.exited:
			return nil, fmt.Errorf("QEMU has ended: %w", err)
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Dial opens a connection to envd, through a session that lasts until Disconnect.
func (g *Guest) Dial(ctx context.Context) (net.Conn, error) {
	mux, err := g.session(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := mux.Open()
	if err != nil {
		return nil, err
	}
	if err := channel.Connect(ctx, stream, listen.Port); err != nil {
		_ = stream.Close()
		return nil, err
	}
	return stream, nil
}
