package e2bclient

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
)

const (
	envdPort  = 49983
	sandboxID = "i0123456789abcdef"
	// protocolVersion is the version of E2B's envd whose protocol ours speaks: the clients ask for no
	// more than it has.
	protocolVersion = "0.6.4"
	token           = "the token of the sandbox"
)

// guestServer boots a VM, and stands in for the control plane of E2B's that tells the clients where it is.
// The clients present the token themselves.
func guestServer(t *testing.T) server {
	machine := boot(t)
	dial := func(ctx context.Context) (net.Conn, error) { return machine.Dial(ctx, envdPort) }
	host := envdclient.New(dial, "")
	t.Cleanup(host.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := host.Health(ctx)
	if err == nil {
		err = host.Init(ctx, envdclient.Init{Token: token, Now: time.Now(), DefaultUser: "user"})
	}
	if err != nil {
		t.Fatalf("take the guest over: %v", err)
	}
	control := httptest.NewServer(controlPlane())
	t.Cleanup(control.Close)
	return server{env: []string{
		"E2B_API_KEY=e2b_0123456789abcdef", "E2B_VALIDATE_API_KEY=false", "E2B_DEBUG=false",
		"E2B_API_URL=" + control.URL, "E2B_SANDBOX_URL=" + relay(t, dial),
	}}
}

func boot(t *testing.T) vm.Running {
	t.Helper()
	testlane.NeedRoot(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		testlane.Missing(t, "qemu-system-x86_64 is not installed")
	}
	dir, err := os.MkdirTemp("", "wrenn-e2b") // t.TempDir would be too long for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a folder in the temporary folder
	disk := filepath.Join(dir, "rootfs.ext4")
	image := filepath.Join(artefact(t, "images"), "minimal", "rootfs.ext4")
	if out, err := exec.CommandContext(t.Context(), "cp", "-L", "--sparse=auto", "--reflink=auto", image, disk).CombinedOutput(); err != nil {
		t.Fatalf("copy the image: %v: %s", err, out)
	}
	driver, err := qemu.New(t.Context(), qemu.Options{Unjailed: true})
	if err != nil {
		testlane.Missing(t, "no VM can run: "+err.Error())
	}
	spec := vm.Spec{ID: "e2bclient", Dir: dir, Kernel: artefact(t, "vmlinux"), Rootfs: disk, VCPUs: 2, MemoryMiB: 512}
	configured, err := driver.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := configured.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := machine.Kill(); err != nil {
			t.Error(err)
		}
	})
	return machine
}

func artefact(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "build", "guest", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		testlane.Missing(t, "build/guest/"+name+" is missing: run 'make images'")
	}
	return path
}

// relay listens on loopback and connects each caller with the guest's envd. It returns its URL.
func relay(t *testing.T, dial func(context.Context) (net.Conn, error)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			caller, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { splice(ctx, caller, dial) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close() // ends Accept
		all.Wait()
	})
	return "http://" + l.Addr().String()
}

// splice passes bytes on until both sides have ended, or ctx.
func splice(ctx context.Context, caller net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer caller.Close()
	envd, err := dial(ctx)
	if err != nil {
		return // the caller sees its connection end
	}
	defer envd.Close()
	defer context.AfterFunc(ctx, func() { _, _ = caller.Close(), envd.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pass(envd, caller) })
	both.Go(func() { pass(caller, envd) })
	both.Wait()
}

func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_ = to.Close() // it may be closed already
	}
}

// controlPlane answers what the clients ask before they talk to envd, in E2B's words.
func controlPlane() http.Handler {
	sandbox := map[string]any{
		"templateID": "minimal", "sandboxID": sandboxID, "clientID": "c", "envdVersion": protocolVersion, "envdAccessToken": token,
	}
	metrics := []map[string]any{{
		"timestamp": "2026-01-01T00:00:00Z", "timestampUnix": 1767225600, "cpuCount": 1, "cpuUsedPct": 1,
		"memUsed": 1, "memTotal": 2, "memCache": 0, "diskUsed": 1, "diskTotal": 2,
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, status := any(sandbox), http.StatusOK
		switch path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v3"), "/v2"); {
		case r.Method == http.MethodPost && path == "/sandboxes":
			status = http.StatusCreated
		case r.Method == http.MethodPost && path == "/sandboxes/"+sandboxID+"/connect":
		case r.Method == http.MethodGet && path == "/sandboxes/"+sandboxID+"/metrics":
			answer = metrics
		default:
			answer, status = map[string]any{"code": http.StatusNotFound, "message": "no such route: " + path}, http.StatusNotFound
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // a client that went away has its reasons
	})
}
