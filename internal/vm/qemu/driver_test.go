package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/ram"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
	"github.com/wrenn-sandbox/wrenn/proto/channel"
)

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }

// testKernel returns the guest kernel that `make images` builds.
func testKernel(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../../build/guest/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		testlane.Missing(t, "no guest kernel: run `make images`")
	}
	return path
}

func newDriver(t testing.TB) *Driver { return newDriverWith(t, Options{}) }

func newDriverWith(t testing.TB, options Options) *Driver {
	t.Helper()
	if _, err := exec.LookPath(defaultBinary); err != nil {
		testlane.Missing(t, defaultBinary+" is not installed")
	}
	options.Unjailed = options.Unjailed || os.Geteuid() != 0
	driver, err := New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return driver
}

func TestSuite(t *testing.T) {
	driver, kernel := newDriver(t), testKernel(t)
	vmtest.Run(t, func(*testing.T) vmtest.Subject {
		return vmtest.Subject{Driver: driver, Kernel: kernel, NIC: os.Geteuid() == 0, Jailed: os.Geteuid() == 0}
	})
}

func BenchmarkBoot(b *testing.B) {
	subject := vmtest.Subject{Driver: newDriver(b), Kernel: testKernel(b), Jailed: os.Geteuid() == 0}
	b.Run("vcpus=1", func(b *testing.B) { vmtest.BenchmarkBoot(b, subject, 1) })
	b.Run("vcpus=2", func(b *testing.B) { vmtest.BenchmarkBoot(b, subject, 2) })
}

func BenchmarkIdle(b *testing.B) {
	subject := vmtest.Subject{Driver: newDriver(b), Kernel: testKernel(b), Jailed: os.Geteuid() == 0}
	b.Run("vcpus=1", func(b *testing.B) { vmtest.BenchmarkIdle(b, subject, 1) })
	b.Run("vcpus=2", func(b *testing.B) { vmtest.BenchmarkIdle(b, subject, 2) })
}

func BenchmarkSnapshot(b *testing.B) {
	vmtest.BenchmarkSnapshot(b, vmtest.Subject{Driver: newDriver(b), Kernel: testKernel(b), Jailed: os.Geteuid() == 0})
}

// limit bounds every wait.
const limit = 2 * time.Minute

func start(t *testing.T, driver *Driver, spec vm.Spec) (*machine, error) {
	t.Helper()
	configured, err := driver.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	running, err := configured.Start(t.Context())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if _, err := running.Kill(); err != nil {
			t.Error(err)
		}
	})
	return running.(*machine), nil
}

// boot starts a VM with the suite's guest.
func boot(t *testing.T) *machine {
	t.Helper()
	m, err := start(t, newDriver(t), vmtest.GuestSpec(t, testKernel(t)))
	if err != nil {
		t.Fatal(err)
	}
	checkHealth(t, m)
	return m
}

func checkHealth(t *testing.T, m *machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return m.Dial(ctx, guestapp.HTTPPort)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://guest/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

// TestRefusal holds that QEMU's own words reach the caller, and that nothing is left of it.
func TestRefusal(t *testing.T) {
	spec := vmtest.GuestSpec(t, testKernel(t))
	spec.MemoryMiB = 1 << 30 // a pebibyte
	_, err := start(t, newDriver(t), spec)
	if err == nil || !strings.Contains(err.Error(), "QEMU says:") || !strings.Contains(err.Error(), "memory") {
		t.Errorf("error %v, want QEMU's about the memory", err)
	}
}

// TestEndedBySIGTERM holds that an end from outside that QEMU takes notice of is told from one that the guest wanted.
func TestEndedBySIGTERM(t *testing.T) {
	m := boot(t)
	if err := syscall.Kill(m.Saved().PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Done():
	case <-time.After(limit):
		t.Fatal("it has not ended")
	}
	if exit := m.Exit(); exit.Asked || !strings.Contains(exit.Reason, "terminating on signal 15") ||
		strings.Contains(exit.Reason, "info:") {
		t.Errorf("exit %+v", exit)
	}
}

// TestSessionCut breaks the session below live streams, which must fail, and dials again at once.
func TestSessionCut(t *testing.T) {
	m := boot(t)
	for range 20 {
		conn, err := m.Dial(t.Context(), guestapp.EchoPort)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, 100_000)); err != nil { // the echo is under way when the session breaks
			t.Fatal(err)
		}
		mux, _ := m.session.current()
		if mux == nil {
			t.Fatal("there is a stream, but no session")
		}
		mux.Close()
		_, _ = io.Copy(io.Discard, conn) // how much of the echo came before is left to chance, but it ends
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("the stream outlived its session")
		}
		conn.Close()
		checkHealth(t, m)
	}
}

// TestRefusedPort holds that a guest that has booted refuses a port at once: the context has no deadline.
func TestRefusedPort(t *testing.T) {
	m := boot(t)
	var refused *channel.RefusedError
	if _, err := m.Dial(t.Context(), 1); !errors.As(err, &refused) {
		t.Errorf("error %v, want the guest's", err)
	}
	checkHealth(t, m)
}

func TestAdoptOfAnotherDriver(t *testing.T) {
	_, err := testDriver(TCG).Adopt(t.Context(), vm.Saved{Driver: "firecracker", PID: os.Getpid()})
	if !errors.Is(err, errOtherDriver) {
		t.Errorf("error %v", err)
	}
}

// TestAdoptWithoutSockets holds that a QEMU which runs but cannot be reached is neither adopted nor taken for gone, and
// runs on.
func TestAdoptWithoutSockets(t *testing.T) {
	m := boot(t)
	hidden := filepath.Join(m.Saved().Dir, "hidden")
	path := filepath.Join(m.Saved().Dir, consoleSocket)
	if err := os.Rename(path, hidden); err != nil {
		t.Fatal(err)
	}
	_, err := newDriver(t).Adopt(t.Context(), m.Saved())
	if err == nil || errors.Is(err, vm.ErrGone) {
		t.Errorf("error %v, want one that is not ErrGone", err)
	}
	checkHealth(t, m)
}

// TestKilledWhileItStarts: a QEMU that somebody kills is told from one that gives up.
func TestKilledWhileItStarts(t *testing.T) {
	for script, killed := range map[string]bool{"kill -9 $$": true, "echo no >&2; exit 1": false} {
		driver := newDriverWith(t, Options{Unjailed: true})
		driver.binary = filepath.Join(t.TempDir(), "qemu")
		if err := os.WriteFile(driver.binary, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		spec := vmtest.GuestSpec(t, testKernel(t))
		spec.Jail = nil
		configured, err := driver.Configure(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := configured.Start(t.Context()); err == nil || errors.Is(err, vm.ErrGone) != killed {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// TestQEMUWaitsForItsMemory: a jailed QEMU opens its memory when the copy of it is whole, however long that takes, and the copy ends with it.
func TestQEMUWaitsForItsMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		testlane.Missing(t, "jails need root")
	}
	spec := vmtest.GuestSpec(t, testKernel(t))
	content := bytes.Repeat([]byte("memory! "), 1<<17)
	memory := filepath.Join(t.TempDir(), "memory")
	if err := errors.Join(os.WriteFile(memory, content, 0o600), os.Truncate(memory, int64(spec.MemoryMiB)<<20)); err != nil {
		t.Fatal(err)
	}
	c := &configured{driver: newDriver(t), spec: spec, memory: memory}
	m, err := c.launch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // many times what QEMU needs until it would open it
	if m.hasEnded() {
		t.Error("QEMU has not waited")
	}
	if err := c.begin(t.Context(), m); err != nil {
		t.Fatal(m.discard(t.Context(), err))
	}
	defer m.discard(t.Context(), nil) //nolint:errcheck // nothing failed
	address, err := m.memoryAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved")
	if err := ram.Save(t.Context(), ram.Guest{PID: m.saved.PID, Address: address, Size: int64(spec.MemoryMiB) << 20}, path); err != nil {
		t.Fatal(err)
	}
	if saved, err := os.ReadFile(path); err != nil || !bytes.Equal(saved[:len(content)], content) {
		t.Errorf("QEMU has other memory than the snapshot's: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(spec.Dir, "memory*")); left != nil {
		t.Errorf("there is still %q", left)
	}
}

func TestExitInWords(t *testing.T) {
	for reason, want := range map[string]string{
		"guest-reset":    "the guest restarted",
		"guest-shutdown": "the guest switched itself off",
		"guest-panic":    "the guest panicked",
		"host\x1b[31m":   "QEMU ended: host[31m",
		"":               "QEMU ended",
	} {
		m := &machine{}
		if reason != "" {
			m.shutdown.Store(reason)
		}
		if got := m.shutdownReason(); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}

// TestJailsAreAskedFor holds that a VM without a jail runs only where that was allowed, and one with a jail not without.
func TestJailsAreAskedFor(t *testing.T) {
	spec := vmtest.GuestSpec(t, testKernel(t))
	spec.Jail = &vm.Jail{Owner: 1 << 20}
	if _, err := newDriverWith(t, Options{Unjailed: true}).Configure(t.Context(), spec); !errors.Is(err, errJail) {
		t.Errorf("a VM with a jail, none there: %v", err)
	}
	spec.Jail = nil
	d := newDriver(t)
	if _, err := d.Configure(t.Context(), spec); (err == nil) != (d.view == nil) {
		t.Errorf("a VM without a jail: %v", err)
	}
}
