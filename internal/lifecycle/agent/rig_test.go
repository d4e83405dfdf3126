package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// rig is a host whose VMs are stand-ins and whose network, disks and records are real.
type rig struct {
	t      *testing.T
	dir    string
	netns  string
	driver *driver
	net    *network.Network
	agent  *Agent
	jails  *Jails
	kernel string
	digest string // of the template
	golden int    // MiB
	scrub  int    // MiB a second
	pool   int    // MiB
	spares int
	subnet string
	memory func() (total, available int64, err error) // of the host, if not nil
	owners uint32
	heard  heard // what the agent warned of

	objects *objects
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testlane.NeedRoot(t)
	r := &rig{t: t, dir: t.TempDir(), driver: newDriver(t), kernel: "one", digest: "sha256:0123456789abcdef", objects: newObjects(t)}
	r.netns = filepath.Join(t.TempDir(), "netns")
	if err := netns.Create(r.netns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(r.netns); err != nil {
			t.Error(err)
		}
	})
	r.open()
	t.Cleanup(r.close)
	return r
}

// heard is what was logged.
type heard struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (h *heard) Write(text []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, text...)
	return len(text), nil
}

// count returns how often it was said.
func (h *heard) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Count(h.text, []byte(what))
}

// open starts an agent on what is in the rig's folder.
func (r *rig) open() {
	r.t.Helper()
	ctx, log := r.t.Context(), slog.New(slog.NewTextHandler(io.MultiWriter(r.t.Output(), &r.heard), &slog.HandlerOptions{Level: slog.LevelWarn}))
	images, err := filesystem.Open(ctx, filesystem.Config{Dir: r.dir, Logger: log})
	if err == nil {
		_, err = images.Import(ctx, r.template())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	err = netns.Do(r.netns, func() (err error) {
		r.net, err = network.Open(ctx, network.Config{Subnet: netip.MustParsePrefix(cmp.Or(r.subnet, "10.0.0.0/24")), OwnerBase: r.owners, Logger: log})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	kernel := filepath.Join(r.dir, "kernel")
	if err := os.WriteFile(kernel, []byte(r.kernel), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.agent, err = Open(ctx, Config{
		Dir: r.dir, Kernel: kernel, Driver: r.driver, Network: r.net, Images: images, Jails: r.jails, GoldenMiB: r.golden, PoolMiB: r.pool, Spares: r.spares, Logger: log,
		Archive:   archive.New(r.objects, nil),
		ScrubMiBs: r.scrub, ScrubEvery: time.Millisecond, scrubTick: time.Millisecond,
		MemorySource: func(key string) (json.RawMessage, error) { return json.Marshal(key) }, leisure: time.Millisecond, settling: 10 * time.Millisecond,
		memory: r.memory, prioritize: func(vm.Saved, priority) error { return nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close() {
	if err := errors.Join(r.agent.Close(), r.net.Close(context.Background(), false)); err != nil {
		r.t.Error(err)
	}
}

// template makes an image of one MiB.
func (r *rig) template() string {
	dir := r.t.TempDir()
	manifest := filesystem.Manifest{Name: "tiny", Digest: r.digest, DiskMiB: 1, DefaultUser: "user"}
	text, err := json.Marshal(manifest)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filesystem.ManifestName), text, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs.ext4"), make([]byte, 1<<20), 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func (r *rig) create() (Sandbox, error) {
	return r.agent.Create(r.t.Context(), Request{
		ID: id.NewSandbox(), Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128},
	})
}

// left lists what the host still holds of any sandbox.
func (r *rig) left() []string {
	folders, err := os.ReadDir(filepath.Join(r.dir, "sandboxes"))
	if err != nil {
		r.t.Fatal(err)
	}
	var left []string
	for _, f := range folders {
		left = append(left, "folder "+f.Name())
	}
	err = netns.Do(r.netns, func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, "tap-sb-") {
				left = append(left, "device "+link.Name)
			}
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range r.driver.running() {
		left = append(left, "VM "+m.saved.Dir)
	}
	for _, s := range r.agent.Sandboxes() {
		left = append(left, "sandbox "+string(s.ID))
	}
	return left
}

// driver is a vm.Driver whose VMs are an HTTP server that answers like envd.
type driver struct {
	vm.Driver              // for what an agent does not call
	configureErr, startErr error
	dies                   bool          // VMs end while they boot
	exit                   vm.Exit       // with which they do
	hold                   chan struct{} // envd's first answer waits until it is closed, if not nil
	restoreErr             error
	snapshotErr, killErr   error
	pauseErr               error
	noRestore              string
	snapshots, restores    func() // called while the VM stands still, before it is written, or before it is restored
	certifies              func() // called while a guest renews what it is asked to
	failing                string // the step of a restored guest's certificate that fails
	version                string
	memoryMiB              int64       // that a snapshot's memory takes of the disk
	resumes                chan []byte // what guests were asked to renew, if not nil
	failOn                 id.Sandbox  // whose VM does not start
	inits                  chan []byte // what guests were told by /init, if not nil
	deaf                   bool        // guests refuse /init
	lazy                   bool        // memory may come later
	copies                 bool        // VMs share no memory by themselves
	memory                 string      // that VMs have, and are to be restored with

	mu  sync.Mutex // guards all
	all map[string]*machine
	ids int

	specs map[string]vm.Spec // by folder

	waiting map[string]bool // the folders of VMMs that were started and neither restored nor ended
}

func newDriver(t *testing.T) *driver {
	d := &driver{all: map[string]*machine{}, specs: map[string]vm.Spec{}, waiting: map[string]bool{}, exit: vm.Exit{Reason: "Kernel panic - not syncing: test"}}
	t.Cleanup(func() {
		for _, m := range d.running() {
			m.end(vm.Exit{})
		}
	})
	return d
}

func (d *driver) Info() vm.Info {
	return vm.Info{Driver: "stand-in", NoRestore: d.noRestore, Lazy: d.lazy, Copies: d.copies, SlowStart: true}
}

func (d *driver) Machine(s vm.Spec) vm.Machine {
	return vm.Machine{Driver: "stand-in", Version: d.version, VCPUs: s.VCPUs, MemoryMiB: s.MemoryMiB, Hardware: fmt.Sprint("jailed: ", s.Jail != nil)}
}

// Prepare makes a VM that has what the frozen one had. It fails when its disk is not the one of the snapshot.
func (d *driver) Prepare(ctx context.Context, spec vm.Spec, from vm.Image) (vm.Prepared, error) {
	if err := from.Machine.CheckRestore(d.Machine(spec)); err != nil {
		return nil, err
	}
	state, err := os.ReadFile(from.State)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(spec.Rootfs); err != nil {
		return nil, err
	}
	if d.restoreErr != nil {
		return nil, d.restoreErr
	}
	d.wait(spec.Dir, true)
	return prepared{configured{d, spec}, string(state), from}, nil
}

func (d *driver) wait(dir string, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.waiting[dir] = true
	} else {
		delete(d.waiting, dir)
	}
}

// spares are the folders of VMMs that wait.
func (d *driver) spares() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.waiting))
}

type prepared struct {
	configured
	state string
	from  vm.Image
}

func (p prepared) Restore(ctx context.Context) (vm.Running, error) {
	p.d.wait(p.spec.Dir, false)
	if restores := p.d.restores; restores != nil {
		restores()
	}
	running, err := p.Start(ctx)
	if err != nil {
		return nil, err
	}
	m := running.(*machine)
	m.frozen.Store(true)
	m.state, m.from = p.state, p.from
	if p.from.Lazy != nil {
		m.whole = make(chan struct{})
	}
	return m, nil
}

func (p prepared) Discard() error {
	p.d.wait(p.spec.Dir, false)
	return nil
}

func (d *driver) Configure(_ context.Context, spec vm.Spec) (vm.Configured, error) {
	return configured{d, spec}, d.configureErr
}

func (d *driver) Adopt(_ context.Context, saved vm.Saved) (vm.Running, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.all[saved.Dir]
	if m != nil && m.ended() && m.exit.MemoryLost {
		return nil, fmt.Errorf("%w: %w", vm.ErrGone, &vm.MemoryLost{Reason: m.exit.Reason})
	}
	if m == nil || m.ended() || m.saved.PID != saved.PID {
		return nil, vm.ErrGone
	}
	return m, nil
}

func (d *driver) spec(dir string) vm.Spec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.specs[dir]
}

func (d *driver) running() []*machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	var running []*machine
	for _, m := range d.all {
		if !m.ended() {
			running = append(running, m)
		}
	}
	return running
}

type configured struct {
	d    *driver
	spec vm.Spec
}

func (c configured) Start(context.Context) (vm.Running, error) {
	if c.d.startErr != nil {
		return nil, c.d.startErr
	}
	if c.d.failOn != "" && strings.Contains(c.spec.Dir, string(c.d.failOn)) {
		return nil, errors.New("no")
	}
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.ids++
	m := &machine{d: c.d, done: make(chan struct{}), saved: vm.Saved{Driver: "stand-in", Dir: c.spec.Dir, PID: c.d.ids, Machine: c.d.Machine(c.spec)}}
	hold := c.d.hold
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/resume" {
			if body, err := io.ReadAll(r.Body); err == nil && c.d.resumes != nil {
				c.d.resumes <- body
			}
			if certifies := c.d.certifies; certifies != nil {
				certifies()
			}
			c.d.certify(w, m.state != "")
			return
		}
		if r.URL.Path == "/init" && c.d.inits != nil {
			body, _ := io.ReadAll(r.Body) // what came of it
			c.d.inits <- body
			if c.d.deaf {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	c.d.all[c.spec.Dir], c.d.specs[c.spec.Dir] = m, c.spec
	if c.d.dies {
		m.end(c.d.exit)
	}
	return m, nil
}

// certify answers as a guest that renews what it is asked to; one that was restored may fail.
func (d *driver) certify(w http.ResponseWriter, restored bool) {
	steps, failing := []map[string]any{}, ""
	if restored {
		failing = d.failing
	}
	for _, name := range []string{"clock", "randomness", "machine_id", "hostname", "mac", "address", "dns", "token"} {
		steps = append(steps, map[string]any{"name": name, "ok": name != failing, "reason": "no", "duration_us": 7})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": failing == "", "steps": steps})
}

// machine is a stand-in VM.
type machine struct {
	d          *driver
	frozen     atomic.Bool
	freezing   atomic.Bool // whether it was to be frozen
	state      string      // what it was restored from
	from       vm.Image
	whole      chan struct{} // closed when its memory has come; nil where it was there
	vm.Running               // for what an agent does not call
	saved      vm.Saved
	server     *httptest.Server
	once       sync.Once
	done       chan struct{}
	exit       vm.Exit
}

func (m *machine) end(exit vm.Exit) vm.Exit {
	m.once.Do(func() {
		m.exit = exit
		close(m.done)
		m.server.CloseClientConnections()
		m.server.Close()
	})
	return m.exit
}

func (m *machine) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *machine) Saved() vm.Saved { return m.saved }

// Whole waits for memory that comes later.
func (m *machine) Whole(ctx context.Context) error {
	if m.whole == nil {
		return nil
	}
	select {
	case <-m.whole:
		return nil
	case <-m.done:
		return &vm.MemoryLost{Reason: m.exit.Reason}
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *machine) Snapshot(ctx context.Context, to vm.Files) error {
	m.freezing.Store(true)
	if err := m.Whole(ctx); err != nil {
		return err
	}
	m.frozen.Store(true)
	if m.d.snapshots != nil {
		m.d.snapshots()
	}
	switch {
	case m.ended():
		return vm.ErrGone
	case m.d.snapshotErr != nil:
		m.frozen.Store(false)
		return m.d.snapshotErr
	}
	return errors.Join(os.WriteFile(to.State, []byte(m.state+"+"), 0o600), m.d.writeMemory(to.Memory))
}

func (d *driver) writeMemory(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if d.memoryMiB > 0 {
		err = unix.Fallocate(int(f.Fd()), 0, 0, d.memoryMiB<<20)
	}
	if d.memory != "" {
		_, written := f.WriteString(d.memory)
		err = errors.Join(err, written, f.Truncate(1<<20))
	}
	return errors.Join(err, f.Close())
}

func (m *machine) Pause(context.Context) error {
	if m.ended() {
		return vm.ErrGone
	}
	m.frozen.Store(true)
	return m.d.pauseErr
}

func (m *machine) Resume(context.Context) error {
	if m.ended() {
		return vm.ErrGone
	}
	m.frozen.Store(false)
	return nil
}

func (m *machine) Dial(ctx context.Context, _ uint32) (net.Conn, error) {
	if m.ended() {
		return nil, errors.New("the VM is gone")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", m.server.Listener.Addr().String())
}

func (m *machine) Stop(ctx context.Context, ask func(context.Context) error) (vm.Exit, error) {
	return m.end(vm.Exit{Asked: true}), ask(ctx)
}

func (m *machine) Kill() (vm.Exit, error) {
	if err := m.d.killErr; err != nil {
		return vm.Exit{}, err
	}
	return m.end(vm.Exit{Asked: true}), nil
}

func (m *machine) Done() <-chan struct{} { return m.done }
func (m *machine) Exit() vm.Exit         { return m.exit }
func (m *machine) Release() error        { return nil }

// eventually waits until ok, and fails the test when it takes too long.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("waited in vain until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
