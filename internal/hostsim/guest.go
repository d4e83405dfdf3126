package hostsim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// token is what the agent alone knows of the guests.
const token = "the-token-of-the-simulated-host"

// guest is an envd, or a stand-in for one, and the agent's client of it.
type guest struct {
	*envdclient.Client
	end func()
}

// Script has a sandbox's guest be h in place of an envd. h need not know about authorization.
func (h *Host) Script(sandbox string, handler http.Handler) {
	h.t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /authorize", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.Handle("/", handler)
	l := listen(h.t)
	server := &http.Server{Handler: mux}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Close
	}()
	scripted := &guest{Client: envdclient.New(dial(l.Addr().String()), token), end: func() {
		_ = server.Close()
		<-served
	}}
	h.t.Cleanup(scripted.close)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scripted[sandbox] = scripted
}

func listen(t Owner) net.Listener {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(address string) envdclient.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

func (g *guest) close() {
	g.Close()
	g.end()
}

// Guest returns the agent's own client of the envd that all sandboxes of the host share, but for those with a script.
func (h *Host) Guest() *envdclient.Client {
	h.t.Helper()
	h.starting.Do(func() { h.shared, h.sharedErr = startEnvd() })
	if h.sharedErr != nil {
		h.t.Fatal(h.sharedErr)
	}
	return h.shared.Client
}

func (h *Host) guestOf(sandbox string) *envdclient.Client {
	h.mu.Lock()
	scripted := h.scripted[sandbox]
	h.mu.Unlock()
	if scripted != nil {
		return scripted.Client
	}
	return h.Guest()
}

// tunnel is a tunnel.Handler.
func (h *Host) tunnel(ctx context.Context, t *tunnel.Tunnel) error {
	sandbox := t.Sandbox
	if err := h.runs(sandbox); err != nil {
		return err
	}
	conn, err := h.guestOf(sandbox).Tunnel(ctx)
	if err != nil {
		return err
	}
	done := h.opened(sandbox, conn)
	defer done()
	if err := t.Carry(conn); err != nil {
		return err
	}
	return h.runs(sandbox)
}

func (h *Host) runs(sandbox string) error {
	switch state := h.State(sandbox); state {
	case pb.SandboxState_SANDBOX_STATE_RUNNING:
		return nil
	case pb.SandboxState_SANDBOX_STATE_PAUSING, pb.SandboxState_SANDBOX_STATE_PAUSED, pb.SandboxState_SANDBOX_STATE_RESUMING:
		return models.Errorf(models.Precondition, "sandbox %s is %s", sandbox, state)
	default:
		return missing(sandbox)
	}
}

// opened keeps conn so that it ends with its sandbox, until done.
func (h *Host) opened(sandbox string, conn net.Conn) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens++
	h.tunnels[conn] = sandbox
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.tunnels, conn)
	}
}

// cut ends the tunnels of a sandbox that is gone; the caller holds the lock.
func (h *Host) cut(sandbox string) {
	for conn, of := range h.tunnels {
		if of == sandbox {
			_ = conn.Close() // of what was under way nothing is left
		}
	}
}

// Tunnels returns how many tunnels are open, and how many were ever opened.
func (h *Host) Tunnels() (now, ever int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.tunnels), h.opens
}

// startEnvd starts the real envd as its development server, and takes it over as an agent does.
func startEnvd() (*guest, error) {
	binary, err := builtEnvd()
	if err != nil {
		return nil, err
	}
	address, end, err := run(binary)
	if err != nil {
		return nil, err
	}
	g := &guest{Client: envdclient.New(dial(address), token), end: end}
	if err := g.Init(context.Background(), envdclient.Init{}); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// builtEnvd is the program, built once in a process of tests. Its file has no name any more, so that nothing is left of it.
var builtEnvd = sync.OnceValues(func() (*os.File, error) {
	dir, err := os.MkdirTemp("", "hostsim-envd-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "envd")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", name, "github.com/wrenn-sandbox/wrenn/envd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build envd: %w\n%s", err, out)
	}
	return os.Open(name)
})

// harmless runs a program in mounts of its own in which nothing can be written but in the folder for temporary files: what a
// test asks of the guest must not befall the machine that it runs on. It expects the program's path and arguments.
const harmless = `mount --bind "$TMPDIR" "$TMPDIR" && mount -o remount,bind,ro / && exec "$0" "$@"`

// command returns the program, made harmless where it would be root.
func command(binary *os.File) *exec.Cmd {
	args := []string{fmt.Sprintf("/proc/self/fd/%d", binary.Fd()), "-listen", "127.0.0.1:0"}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		// Descriptors from 3 on are those of ExtraFiles.
		args = append([]string{"/bin/sh", "-c", harmless, "/proc/self/fd/3"}, args[1:]...)
		attr.Unshareflags = syscall.CLONE_NEWNS // the new mounts are private (package syscall sees to it)
	}
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	cmd.ExtraFiles = []*os.File{binary}
	cmd.SysProcAttr = attr
	return cmd
}

// run starts the program and waits until it serves. end has it kill all that it started.
func run(binary *os.File) (address string, end func(), err error) {
	cmd := command(binary)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the signal above is sent when the thread ends that started the program
		defer close(ended)
		if started <- cmd.Start(); cmd.Process != nil {
			_, _ = cmd.Process.Wait() // how it ended is nothing to the tests
		}
	}()
	if err := <-started; err != nil {
		return "", nil, fmt.Errorf("start envd: %w", err)
	}
	end = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, address, found := strings.Cut(lines.Text(), "server on "); found {
			go func() {
				for lines.Scan() { // ends with envd
				}
			}()
			return address, end, nil
		}
	}
	end()
	return "", nil, errors.New("envd ended at once")
}
