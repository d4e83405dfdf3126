package vmm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDialFollowsNoLink: who owns a jail may put anything in the place of the agent's sockets.
func TestDialFollowsNoLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // longer than a unix socket's path
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	other := filepath.Join(short, "sock")
	listener, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, place := range map[string]func(path string) error{
		"link":   func(path string) error { return os.Symlink(other, path) },
		"file":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"none":   func(string) error { return nil },
	} {
		if err := place(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if conn, err := dial(t.Context(), dir, name); err == nil {
			conn.Close()
			t.Errorf("%s: it was connected to", name)
		}
	}
	if err := os.Link(other, filepath.Join(dir, "socket")); err != nil {
		t.Fatal(err)
	}
	conn, err := dial(t.Context(), dir, "socket")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	checkPeer(t, dir)
}

// checkPeer holds that this program, which listens on the socket in dir, is told from another process.
func checkPeer(t *testing.T, dir string) {
	t.Helper()
	conn, err := (&Process{identity: Identity{PID: os.Getpid()}}).Dial(t.Context(), dir, "socket")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := spawn(t, shell(dir, "exec sleep 600")).Dial(t.Context(), dir, "socket"); !errors.Is(err, errForeign) {
		t.Errorf("to another process's socket: %v, %v", conn, err)
	}
}
