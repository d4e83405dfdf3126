// Package agent is the life of the sandboxes of one host.
//
// It composes the VM driver, the network, the disks and the guest protocol. What it
// guarantees:
//
//   - Every sandbox has a folder with a record, written durably before anything is made
//     for it and removed after everything is gone. Whatever instant the agent is killed at, the
//     next Open finds each sandbox by its folder and either takes it over, running or paused, or removes all of it.
//   - A failed create, a destroy and the clean-up after a crash are the same code
//     (dismantle), every step of which may be repeated.
//   - The end of the agent ends no sandbox.
//   - A pause or a resume leaves the sandbox running or paused, whole: one that fails, or that the agent was killed in, is undone or completed.
//   - A fork makes all of its children or none, at whatever instant the agent is killed, and its parent goes on.
//   - A paused sandbox that is stored in the object store stays whole here until it is released.
//   - A sandbox that runs while its memory still comes from there has all of it, or sleeps again in what is stored.
//   - Destroy beats everything else that happens to a sandbox.
package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// Config is what an Agent is made of.
type Config struct {
	Dir     string // the agent's own folder; sandboxes lie in Dir/sandboxes
	Kernel  string // guest kernel, an uncompressed ELF
	Driver  vm.Driver
	Network *network.Network
	Images  *filesystem.Store
	Jails   *Jails // how VMMs are confined; nil for not at all
	// GoldenMiB is how much of the disk golden snapshots may take, from which sandboxes are made without booting; 0: there are none.
	GoldenMiB int
	// PoolMiB is how much of the memory VMs may have that were restored ahead, from golden snapshots; 0: there are none.
	PoolMiB int
	// Spares is how many VMMs are started ahead, one of each golden snapshot that was asked for lately; 0: none.
	Spares  int
	Archive *archive.Archive // where sandboxes go to sleep for long; nil where the host has no object store
	// ScrubMiBs is how many MiB a second stored snapshots are read with, in turn, to see whether they are whole; 0: they are not. Each is read every ScrubEvery.
	ScrubMiBs  int
	ScrubEvery time.Duration
	// MemorySource says, in the words of the driver's pager, where the memory of a stored snapshot comes from; nil where no memory may come later.
	MemorySource func(key string) (json.RawMessage, error)
	// Refused is told of what the network of a sandbox has refused, by the rule; nil where nobody counts that. It must not block.
	Refused func(rule string, count int64)
	Logger  *slog.Logger

	prioritize func(vm.Saved, priority) error
	scrubTick  time.Duration                              // between looks for a snapshot that is to be read; a minute
	settling   time.Duration                              // of a guest that is to be frozen as golden: after its boot; half of it after its exercise. 2 s
	leisure    time.Duration                              // until somebody waits for the memory of a sandbox that was woken without; pager.DefaultWindow
	memory     func() (total, available int64, err error) // of the host, in MiB
}

// Agent owns the sandboxes of a host. Its methods may be called at the same time.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	lock    *os.File // held while the agent lives: one agent a folder
	changes *hub
	tasks   sync.WaitGroup     // watchers of VMs, the journals, and operations under way
	kernel  func() string      // SHA-256 of the guests' kernel, "" where it cannot be read
	life    context.Context    // of what goes on as long as the agent, and
	end     context.CancelFunc // its end
	// scrubPace is how fast all that is stored is read, here and in the object store, for when nobody waits for it.
	scrubPace *rate.Limiter
	golden    *goldens
	pool      *pool
	spares    *spares
	forks     *snapshot.Store // what children are made from, while they are
	named     *named

	mu        sync.Mutex // guards what follows
	sandboxes map[id.Sandbox]*sandbox
	homes     map[id.Sandbox]id.Sandbox // whose folder is not named after them: whom it was made for
	closed    bool
}

// Open takes over what an earlier agent left in cfg.Dir: VMs that run are adopted, what is paused stays so,
// everything else is removed. It fails when another agent works in that folder.
func Open(ctx context.Context, cfg Config) (*Agent, error) {
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "sandboxes"), 0o700); err != nil {
		return nil, fmt.Errorf("make the sandboxes folder: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	goldens, err := openGoldens(cfg.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	forks, err := snapshot.Open(filepath.Join(cfg.Dir, "forks"))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	named, err := openNamed(cfg.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	life, end := context.WithCancel(context.Background())
	a := &Agent{
		cfg: cfg, log: cfg.Logger, lock: lock, changes: newHub(), life: life, end: end, scrubPace: rate.NewLimiter(rate.Limit(cfg.ScrubMiBs<<20), snapshot.ChunkSize), golden: goldens, pool: newPool(), spares: newSpares(), forks: forks, named: named,
		sandboxes: map[id.Sandbox]*sandbox{}, homes: map[id.Sandbox]id.Sandbox{}, kernel: sync.OnceValue(func() string { return fileSum(cfg.Kernel) }),
	}
	if a.cfg.prioritize == nil {
		a.cfg.prioritize = setPriority
	}
	if a.cfg.memory == nil {
		a.cfg.memory = hostMemory
	}
	a.cfg.scrubTick = cmp.Or(a.cfg.scrubTick, time.Minute)
	a.cfg.settling = cmp.Or(a.cfg.settling, settling)
	a.cfg.leisure = cmp.Or(a.cfg.leisure, pager.DefaultWindow)
	if err := a.open(ctx); err != nil {
		_ = a.Close()
		return nil, err
	}
	a.tasks.Go(func() { a.keepJournals(life) })
	a.tasks.Go(func() { a.keepGolden(life) })
	a.tasks.Go(func() { a.keepPool(life) })
	a.tasks.Go(func() { a.keepSpares(life) })
	if cfg.ScrubMiBs > 0 {
		a.tasks.Go(func() { a.keepScrubbed(life) })
	}
	return a, nil
}

func (a *Agent) open(ctx context.Context) error {
	if err := a.takeOver(ctx); err != nil {
		return err
	}
	if err := a.recallGoldens(); err != nil {
		return err
	}
	a.evict() // the budget may be another one
	return nil
}

// Close leaves every sandbox as it is and frees what this process holds of them. What is
// under way is undone first.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.end()
	for _, s := range a.all() {
		s.abandon()
	}
	a.changes.close()
	a.tasks.Wait()
	a.saveJournals()
	return a.lock.Close()
}

// Sandbox returns one sandbox, or a NotFound error.
func (a *Agent) Sandbox(sb id.Sandbox) (Sandbox, error) {
	s, err := a.find(sb)
	if err != nil {
		return Sandbox{}, err
	}
	return s.view(), nil
}

// Sandboxes returns all that the host holds, oldest first.
func (a *Agent) Sandboxes() []Sandbox {
	all := a.all()
	views := make([]Sandbox, len(all))
	for i, s := range all {
		views[i] = s.view()
	}
	slices.SortFunc(views, func(x, y Sandbox) int { return x.CreatedAt.Compare(y.CreatedAt) })
	return views
}

// Console returns the last part, at most 512 KiB, of what the guest wrote to its serial console. That
// of a sandbox that could not be created, or had failed, is kept after it is gone, for the newest of them.
func (a *Agent) Console(sb id.Sandbox) ([]byte, error) {
	_, notFound := a.find(sb)
	if notFound == nil {
		return vm.ReadConsole(a.runDir(sb))
	}
	text, err := os.ReadFile(a.failedPath(sb))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound
	}
	return text, err
}

func (a *Agent) all() []*sandbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.sandboxes))
}

func (a *Agent) find(sb id.Sandbox) (*sandbox, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.sandboxes[sb]; ok {
		return s, nil
	}
	return nil, models.Errorf(models.NotFound, "sandbox %s is not on this host", sb)
}

// begin counts an operation as a task, unless the agent stops. tasks.Done ends it.
func (a *Agent) begin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return models.Errorf(models.Unavailable, "the host agent is stopping")
	}
	a.tasks.Add(1)
	return nil
}

// forget takes a dismantled sandbox out of the list and tells the watchers.
func (a *Agent) forget(s *sandbox) {
	a.mu.Lock()
	delete(a.sandboxes, s.id)
	delete(a.homes, s.id)
	a.mu.Unlock()
	if s.hidden {
		return
	}
	gone := s.view()
	gone.State = Gone
	a.changes.publish(gone)
}

// dir is the folder of a sandbox: named after it or, where its VM was made ahead, after whom that was made for.
func (a *Agent) dir(sb id.Sandbox) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if home, ok := a.homes[sb]; ok {
		sb = home
	}
	return a.folder(sb)
}

func (a *Agent) folder(name id.Sandbox) string {
	return filepath.Join(a.cfg.Dir, "sandboxes", string(name))
}

func (a *Agent) runDir(sb id.Sandbox) string { return filepath.Join(a.dir(sb), "run") }

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another host agent works in %s: %w", dir, err)
	}
	return f, nil
}

// undoLimit bounds clean-up that must go on after its caller has gone.
const undoLimit = 30 * time.Second

func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
}
