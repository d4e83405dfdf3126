package firecracker_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/fctest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// TestMain is the strict server's executable, or its jailer's, where the test binary was started by that name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "firecracker":
		os.Exit(fctest.Main(os.Args[1:], simulated))
	case "jailer":
		os.Exit(fctest.Jailer(os.Args[1:], simulated))
	}
	os.Exit(vmtest.Main(m))
}

// fakeEnv names the folder of fake to copies of the test binary, which may be killed before they could remove one
// of their own.
const fakeEnv = "WRENN_FAKE_FIRECRACKER"

// fake returns the paths of an executable that is the strict server, and of a kernel for it.
func fake(t *testing.T) (binary, kernel string) {
	t.Helper()
	dir := os.Getenv(fakeEnv)
	if dir == "" {
		self, err := os.Executable()
		must(t, err)
		dir, err = os.MkdirTemp(filepath.Dir(self), "fake") // where links to it are possible
		must(t, err)
		t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
		t.Setenv(fakeEnv, dir)
		for _, name := range []string{"firecracker", "jailer"} { // no symbolic links, which the driver would resolve
			must(t, os.Link(self, filepath.Join(dir, name)))
		}
		must(t, os.WriteFile(filepath.Join(dir, "vmlinux"), fctest.Kernel(), 0o644))
	}
	return filepath.Join(dir, "firecracker"), filepath.Join(dir, "vmlinux")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// simulated is a kernel with the suite's guest as PID 1, as far as the suite can tell.
func simulated(h fctest.Hardware) {
	if why := unbootable(h.Root); why != "" {
		fmt.Fprintf(h.Console, "[    0.1] Kernel panic - not syncing: %s\r\n", why)
		if strings.HasPrefix(h.Cmdline, "panic=0 ") {
			select {}
		}
		return
	}
	end := make(chan string, 1)
	finish := func(words string) func() {
		return func() {
			select {
			case end <- words:
			default:
			}
		}
	}
	memory := guestapp.NewMemory(h.Wait)
	if h.Saved != nil {
		memory.Load(h.Saved)
	}
	h.Keep(memory.Save)
	app := guestapp.App{
		Memory: memory,
		Args:   strings.Fields(h.Cmdline), Console: h.Console, CPUs: h.VCPUs, Disk: lastBlock(h.Root),
		Panic:   finish("[    1.0] Kernel panic - not syncing: sysrq triggered crash\r\n"),
		Exit:    finish("[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300\r\n"),
		Restart: finish("[    1.0] reboot: Restarting system with command ''\r\n"),
	}
	if app.Hangs() {
		select {}
	}
	for _, port := range guestapp.Ports() {
		l, err := h.Listen(port)
		if err != nil {
			fmt.Fprintf(h.Console, "[    0.2] Kernel panic - not syncing: Attempted to kill init! (%v)\r\n", err)
			return
		}
		go func() { _ = app.Serve(l, port) }()
	}
	_, _ = io.WriteString(h.Console, <-end)
}

// lastBlock is the end of a disk, which holds one file.
type lastBlock string

const blockSize = 4096

// WriteFile replaces the file.
func (b lastBlock) WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(string(b), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(-blockSize, io.SeekEnd)
	if err == nil {
		_, err = f.WriteAt(append([]byte(path+"\x00"+string(data)+"\x00"), make([]byte, blockSize-len(path)-len(data)-2)...), end)
	}
	return err
}

// ReadFile returns it.
func (b lastBlock) ReadFile(path string) ([]byte, error) {
	disk, err := os.ReadFile(string(b))
	if err != nil {
		return nil, err
	}
	parts := bytes.SplitN(disk[len(disk)-blockSize:], []byte{0}, 3)
	if string(parts[0]) != path {
		return nil, os.ErrNotExist
	}
	return parts[1], nil
}

// unbootable says why the kernel cannot boot from the disk at path, if it cannot: there is no ext4 on it (its magic
// number is 0xEF53, at 1080), or no file with the name of init.
func unbootable(path string) string {
	disk, err := os.ReadFile(path)
	switch {
	case err != nil || len(disk) < 1082 || !slices.Equal(disk[1080:1082], []byte{0x53, 0xef}):
		return "VFS: Unable to mount root fs on unknown-block(254,0)"
	case !bytes.Contains(disk, []byte("envd")):
		return "Requested init /usr/local/bin/envd failed (error -2)."
	}
	return ""
}
