package qemu

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// valved returns a connection through a valve, and its other end.
func valved(t *testing.T) (*valve, net.Conn, net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "end")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	v := &valve{}
	conn, err := v.through(func() (net.Conn, error) { return ends[0], nil })
	if err != nil {
		t.Fatal(err)
	}
	return v, conn, ends[1]
}

// TestValveHoldsAndLosesNothing shuts a valve while one goroutine waits in a read, and another in a write that the other end does not take.
func TestValveHoldsAndLosesNothing(t *testing.T) {
	v, conn, peer := valved(t)
	sent := bytes.Repeat([]byte("0123456789"), 1<<20)
	wrote, read := make(chan error, 1), make(chan byte, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	go func() {
		var b [1]byte
		_, _ = io.ReadFull(conn, b[:])
		read <- b[0]
	}()
	for readable(t, peer) < 100_000 { // the write is under way
		time.Sleep(time.Millisecond)
	}
	v.shut()
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	before, err := io.CopyN(io.Discard, peer, int64(readable(t, peer)))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-read:
		t.Error("a read went through")
	case <-time.After(50 * time.Millisecond):
	}
	if n := readable(t, peer); n != 0 {
		t.Errorf("%d bytes were written", n)
	}
	v.open()
	rest := make([]byte, int64(len(sent))-before)
	if _, err := io.ReadFull(peer, rest); err != nil || !bytes.Equal(rest, sent[before:]) {
		t.Errorf("what was written last has changed, %v", err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if got := <-read; got != 'x' {
		t.Errorf("read %q", got)
	}
}

// readable returns how many bytes can be read at once.
func readable(t *testing.T, conn net.Conn) (n int) {
	t.Helper()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSnapshotShutsTheValve holds that nothing passes from before the devices are saved until the memory is.
func TestSnapshotShutsTheValve(t *testing.T) {
	m, dir := boot(t), t.TempDir()
	to := vm.Files{State: filepath.Join(dir, "vmstate"), Memory: filepath.Join(dir, "memory")}
	done := make(chan error, 1)
	go func() { done <- m.Snapshot(t.Context(), to) }()
	for _, err := os.Stat(to.State); err != nil && len(done) == 0; _, err = os.Stat(to.State) {
		time.Sleep(time.Millisecond)
	}
	m.session.valve.flow.RLock()
	passed := time.Now()
	m.session.valve.flow.RUnlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	memory, err := os.Stat(to.Memory)
	if err != nil {
		t.Fatal(err)
	}
	if memory.ModTime().After(passed) {
		t.Errorf("the memory was written %s after something could pass", memory.ModTime().Sub(passed))
	}
}

// TestValveKeepsDeadlines holds that a caller's own deadline ends its calls, set before the valve was shut or meanwhile.
func TestValveKeepsDeadlines(t *testing.T) {
	v, conn, _ := valved(t)
	for _, meanwhile := range []bool{false, true} {
		set := func() {
			if err := conn.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Error(err)
			}
		}
		if !meanwhile {
			set()
		}
		v.shut()
		if meanwhile {
			set()
		}
		v.open()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if _, err := conn.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	}
}
