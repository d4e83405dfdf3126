package vmtest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// world is what one case works in: a driver, folders for VMs, and the check that nothing is left over.
type world struct {
	testing.TB
	subject Subject
	image   string // the guest's rootfs, never given to a VM itself
	root    string
	vms     int
}

// newWorld also arranges that, after the case, its VMs are killed and leftovers fail the test.
func newWorld(t testing.TB, subject Subject, image string) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "vm") // t.TempDir is too long for unix sockets
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, subject: subject, image: image, root: root}
	tmp := filepath.Join(root, "tmp")
	w.must(os.Mkdir(tmp, 0o700))
	t.Setenv("TMPDIR", tmp)
	before := takeStock()
	t.Cleanup(func() {
		w.checkLeftovers(before, tmp)
		w.killAll()
		w.must(os.RemoveAll(root))
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// ctx ends with the case or after the subject's limit.
func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), w.subject.limit())
	w.Cleanup(cancel)
	return ctx
}

// spec returns the spec of a small VM with a folder and a disk of its own.
func (w *world) spec(args ...string) vm.Spec {
	w.Helper()
	w.vms++
	dir := filepath.Join(w.root, fmt.Sprintf("vm%d", w.vms))
	w.must(os.Mkdir(dir, 0o700))
	rootfs := filepath.Join(dir, "rootfs.ext4")
	w.must(copyFile(rootfs, w.image))
	return vm.Spec{
		ID: filepath.Base(dir), Dir: dir, Kernel: w.subject.Kernel, Rootfs: rootfs,
		VCPUs: 1, MemoryMiB: guestMiB, Args: args, Jail: w.jail(dir),
	}
}

func (w *world) jail(dir string) *vm.Jail {
	if !w.subject.Jailed {
		return nil
	}
	return &vm.Jail{Owner: ownerOf(dir)}
}

// ownerOf is the user of the VM in dir: one that nobody else on the machine has.
func ownerOf(dir string) uint32 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(dir)) // never fails
	return 0x1000_0000 | hash.Sum32()&0x0fff_ffff
}

// mark is what the VMM of the VM in dir is known by.
func (w *world) mark(dir string) vmm.Mark {
	m := vmm.Mark{Dir: dir, Disk: filepath.Join(dir, "rootfs.ext4")}
	if w.subject.Jailed {
		m.Owner = ownerOf(dir)
	}
	return m
}

// tryStart configures and starts a VM. One that runs is killed at the end of the case, whatever happens.
func (w *world) tryStart(ctx context.Context, spec vm.Spec) (vm.Running, error) {
	configured, err := w.subject.Driver.Configure(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("configure: %w", err)
	}
	running, err := configured.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	return w.keep(running), nil
}

// keep makes sure that running ends, and that nothing is held of it, before leftovers are looked for.
func (w *world) keep(running vm.Running) vm.Running {
	w.Cleanup(func() {
		if w.Failed() {
			w.logConsole(running.Saved().Dir)
		}
		if _, err := running.Kill(); err != nil && !errors.Is(err, vm.ErrReleased) {
			w.Errorf("kill: %v", err)
		}
	})
	return running
}

func (w *world) start(spec vm.Spec) vm.Running {
	w.Helper()
	running, err := w.tryStart(w.ctx(), spec)
	w.must(err)
	return running
}

// boot starts a VM and waits for its guest.
func (w *world) boot(spec vm.Spec) vm.Running {
	w.Helper()
	running := w.start(spec)
	w.checkHealth(running)
	return running
}

func (w *world) adopt(saved vm.Saved) vm.Running {
	w.Helper()
	running, err := w.subject.Driver.Adopt(w.ctx(), saved)
	w.must(err)
	return w.keep(running)
}

func (w *world) dial(running vm.Running, port uint32) net.Conn {
	w.Helper()
	conn, err := running.Dial(w.ctx(), port)
	w.must(err)
	w.must(conn.SetDeadline(time.Now().Add(w.subject.limit())))
	return conn
}

func (w *world) checkHealth(running vm.Running) {
	w.Helper()
	w.must(health(w.ctx(), running))
}

func health(ctx context.Context, running vm.Running) error {
	_, err := call(ctx, running, http.MethodGet, "/health", nil)
	return err
}

// call makes one HTTP request over a connection of its own and returns the answer's body.
func (w *world) call(running vm.Running, method, path string, body io.Reader) string {
	w.Helper()
	text, err := call(w.ctx(), running, method, path, body)
	w.must(err)
	return text
}

func call(ctx context.Context, running vm.Running, method, path string, body io.Reader) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, body)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return running.Dial(ctx, guestapp.HTTPPort)
		},
	}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s %s: %s %q %w", method, path, response.Status, text, err)
	}
	return string(text), nil
}

// waitDone waits until the VMM has exited, and returns how.
func (w *world) waitDone(running vm.Running) vm.Exit {
	w.Helper()
	select {
	case <-running.Done():
	case <-w.ctx().Done():
		w.Fatal("the VMM has not exited")
	}
	return running.Exit()
}

func (w *world) console(dir string) string {
	w.Helper()
	text, err := vm.ReadConsole(dir)
	w.must(err)
	return string(text)
}

func (w *world) logConsole(dir string) {
	text, _ := vm.ReadConsole(dir)
	w.Logf("console of %s, last part:\n%s", dir, strings.ToValidUTF8(string(text[max(0, len(text)-4096):]), "?"))
}

// killAll is the safety net for a case that failed.
func (w *world) killAll() {
	for _, dir := range w.dirs() {
		if err := vmm.KillStale(context.Background(), w.mark(dir)); err != nil {
			w.Errorf("kill what is left: %v", err)
		}
	}
}

func (w *world) dirs() []string {
	dirs, err := filepath.Glob(filepath.Join(w.root, "vm*"))
	w.must(err)
	return dirs
}

// eventually fails the case when condition has not become true within the subject's limit.
func (w *world) eventually(what string, condition func() bool) {
	w.Helper()
	if !poll(w.subject.limit(), condition) {
		w.Fatalf("still not so: %s", what)
	}
}

// poll asks for condition every 10 ms until it holds, or limit has passed.
func poll(limit time.Duration, condition func() bool) bool {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
