package firecracker_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

const echoPort = guestapp.EchoPort

func TestConsoleStrictServer(t *testing.T) {
	binary, kernel := fake(t)
	checkConsole(t, newDriver(t, binary), kernel)
}

func TestConsoleFirecracker(t *testing.T) {
	binary := realFirecracker(t)
	needKVM(t)
	checkConsole(t, newReal(t, binary), realKernel(t))
}

// checkConsole holds that a guest gets through with more console output than a pipe holds while no agent is there,
// and that the next agent finds the pipe's part of it and what comes later.
func checkConsole(t *testing.T, d vm.Driver, kernel string) {
	t.Helper()
	spec := vmtest.GuestSpec(t, kernel)
	v := start(t, d, spec)
	echo(t, v)
	must(t, v.Release())
	const pipe = 64 << 10
	post(t, filepath.Join(spec.Dir, "root", "vsock.sock"), fmt.Sprintf("/flood?bytes=%d", pipe+pipe/4))
	adopt(t, d, v.Saved())
	post(t, filepath.Join(spec.Dir, "root", "vsock.sock"), "/flood?bytes=0")
	for deadline := time.Now().Add(callLimit); ; time.Sleep(10 * time.Millisecond) {
		text, err := vm.ReadConsole(spec.Dir)
		must(t, err)
		lines := strings.Count(string(text), "flood flood flood")
		if lines >= 500 && strings.HasSuffix(strings.TrimSpace(string(text)), guestapp.FloodEnd) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the console has %d bytes, %d lines of the flood, and ends in %q", len(text), lines, text[max(0, len(text)-100):])
		}
	}
}

// post calls the guest without an agent, through the vsock device's socket.
func post(t *testing.T, socket, path string) {
	t.Helper()
	dial := func(context.Context, string, string) (net.Conn, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(conn, "CONNECT %d\n", guestapp.HTTPPort)
		for one := []byte{0}; one[0] != '\n'; {
			if _, err := conn.Read(one); err != nil {
				conn.Close()
				return nil, err
			}
		}
		return conn, nil
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: callLimit}
	resp, err := client.Post("http://guest"+path, "", nil)
	must(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	must(t, err)
	if resp.StatusCode/100 != 2 {
		t.Errorf("%s: %s", path, resp.Status)
	}
}
