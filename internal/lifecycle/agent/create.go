package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// changeLimit bounds a create, a pause or a resume whose caller set no deadline: a cold boot under software
// emulation on a busy host takes seconds, so this only ends what hangs.
const changeLimit = 2 * time.Minute

// envdPort is where envd listens in the guest: the port of E2B's envd protocol.
const envdPort = 49983

// Request is what a sandbox is made from.
type Request struct {
	ID       id.Sandbox
	Template string
	Size     models.Size
	Env      map[string]string // of every process started in it
	Network  models.NetworkPolicy
	Snapshot id.Snapshot // that it is made from, whose template and size are above; empty for none
}

// Create makes a sandbox and returns once its envd has answered. After an error nothing
// of it is left on the host, except its console in Dir/failed. A caller that goes away does not end it: whoever
// asked may have died, and its successor finds the sandbox running. For a sandbox that exists it returns that one:
// a repeated request is answered like the first. It fails with Conflict when the sandbox
// is being destroyed or has failed.
func (a *Agent) Create(ctx context.Context, req Request) (Sandbox, error) {
	tmpl, err := a.check(req)
	if err != nil {
		return Sandbox{}, err
	}
	s, isNew, err := a.enter(record{
		Sandbox: req.ID, State: Starting, Template: req.Template, Digest: tmpl.Digest, Size: req.Size, Token: newToken(), Network: &req.Network,
	})
	if err != nil {
		return Sandbox{}, err
	}
	if !isNew {
		return a.await(ctx, s)
	}
	defer a.tasks.Done()
	defer a.golden.hurry()()
	defer s.release()
	ctx, cancel := outlive(ctx, changeLimit)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	if err := a.build(ctx, s, tmpl, req); err != nil {
		err = a.explainCreate(s, req, err)
		a.log.Warn("sandbox could not be created", "sandbox_id", s.id, "error", err)
		undo, done := undoContext(ctx)
		defer done()
		if left := a.dismantle(undo, s); left != nil {
			a.log.Error("half-made sandbox could not be removed; the next start of the agent tries again",
				"sandbox_id", s.id, "error", left)
		}
		return Sandbox{}, err
	}
	return s.view(), nil
}

// outlive returns a context that ends with ctx's deadline or after limit, but not when ctx is cancelled.
func outlive(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	end := time.Now().Add(limit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	return context.WithDeadline(context.WithoutCancel(ctx), end)
}

func (a *Agent) check(req Request) (filesystem.Template, error) {
	if err := models.CheckSize(req.Size); err != nil {
		return filesystem.Template{}, err
	}
	if _, err := id.ParseSandbox(string(req.ID)); err != nil {
		return filesystem.Template{}, models.Errorf(models.Invalid, "%v", err)
	}
	if err := models.CheckNetwork(req.Network, anything); err != nil {
		return filesystem.Template{}, err
	}
	if req.Snapshot != "" { // the template may have gone
		return filesystem.Template{}, nil
	}
	return a.cfg.Images.Template(req.Template)
}

// enter lists a new sandbox with its turn taken and its task counted, or returns the one that exists.
func (a *Agent) enter(rec record) (s *sandbox, isNew bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, false, models.Errorf(models.Unavailable, "the host agent is stopping")
	}
	if s, ok := a.sandboxes[rec.Sandbox]; ok {
		return s, false, nil
	}
	if a.inUse(rec.Sandbox) {
		return nil, false, models.Errorf(models.Conflict, "a VM of the host has the name %s", rec.Sandbox).WithHint("try again")
	}
	rec.Slot, rec.CreatedAt = -1, time.Now().UTC()
	s = newSandbox(rec)
	s.turn <- struct{}{}
	a.sandboxes[rec.Sandbox] = s
	a.tasks.Add(1)
	return s, true, nil
}

// await answers a repeated create with the outcome of the first.
func (a *Agent) await(ctx context.Context, s *sandbox) (Sandbox, error) {
	if err := s.acquire(ctx); err != nil {
		return Sandbox{}, err
	}
	defer s.release()
	v := s.view()
	if _, err := a.find(s.id); err != nil || v.State != Running {
		return Sandbox{}, models.Errorf(models.Conflict, "sandbox %s exists and is %s", s.id, v.State)
	}
	return v, nil
}

// build is the story of a create. Each durable step is recorded before it is taken.
func (a *Agent) build(ctx context.Context, s *sandbox, tmpl filesystem.Template, req Request) error {
	clock := stopwatch{last: time.Now()}
	link, err := a.makeVM(ctx, s, tmpl, req, &clock)
	if err != nil {
		return err
	}
	rec := s.update(func(r *record) {
		r.State, r.Guest = Running, link.Guest.Addr().String()
		r.Steps = clock.steps
	})
	if err := rec.write(a.dir(s.id)); err != nil {
		return err
	}
	clock.lap("record")
	s.update(func(r *record) { r.Steps = clock.steps })
	a.changes.publish(s.view())
	return nil
}

// makeVM makes the sandbox's VM from what was asked for.
func (a *Agent) makeVM(ctx context.Context, s *sandbox, tmpl filesystem.Template, req Request, clock *stopwatch) (network.Link, error) {
	if req.Snapshot == "" {
		return a.obtain(ctx, s, tmpl, req.Env, clock)
	}
	if err := a.prepare(ctx, s, clock); err != nil {
		return network.Link{}, err
	}
	return a.bringBack(ctx, s, req, clock)
}

// prepare reserves the network slot and writes the first record.
func (a *Agent) prepare(ctx context.Context, s *sandbox, clock *stopwatch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	slot, err := a.reserve(ctx, s)
	if err != nil {
		return err
	}
	s.update(func(r *record) { r.Owner = slot.Owner })
	rec := s.hold(slot)
	if err := os.MkdirAll(a.runDir(s.id), 0o700); err != nil {
		return fmt.Errorf("make the folder of %s: %w", s.id, err)
	}
	if err := rec.note(a.dir(s.id)); err != nil {
		return err
	}
	a.publish(s)
	clock.lap("reserve")
	return nil
}

// boot makes the sandbox's VM from its template.
func (a *Agent) boot(ctx context.Context, s *sandbox, tmpl filesystem.Template, env map[string]string, clock *stopwatch) (network.Link, error) {
	link, err := a.provide(ctx, s, tmpl)
	if err != nil {
		return link, err
	}
	clock.lap("clone_disk_and_attach_network")
	if err := a.start(ctx, s, link); err != nil {
		return link, err
	}
	clock.lap("start_vmm")
	return link, a.greet(ctx, s, env, tmpl.DefaultUser, clock)
}

// provide makes the disk and the network device, side by side.
func (a *Agent) provide(ctx context.Context, s *sandbox, tmpl filesystem.Template) (network.Link, error) {
	var link network.Link
	size := s.view().Size
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := a.cfg.Images.Clone(ctx, tmpl, a.diskPath(s.id), size.DiskMiB)
		return err
	})
	group.Go(func() (err error) {
		link, err = a.attach(ctx, s)
		return err
	})
	kernel := a.kernel()
	err := group.Wait()
	s.update(func(r *record) { r.Kernel = kernel })
	if err == nil && size.DiskMiB == 0 {
		s.update(func(r *record) { r.Size.DiskMiB = tmpl.DiskMiB })
	}
	return link, err
}

// start boots the VM. Its process is found by its folder, its disk and its user until a record leads to it.
func (a *Agent) start(ctx context.Context, s *sandbox, link network.Link) error {
	a.makeRoom(ctx, s)
	spec := a.spec(s, link)
	var err error
	if spec.Jail, err = a.jail(s); err != nil {
		return err
	}
	spec.Kernel, spec.Args = a.cfg.Kernel, kernelArgs(s.id, link)
	configured, err := a.cfg.Driver.Configure(ctx, spec)
	if err != nil {
		return fmt.Errorf("configure the VM: %w", err)
	}
	machine, err := configured.Start(ctx)
	if err != nil {
		return fmt.Errorf("start the VM: %w", err)
	}
	saved := machine.Saved()
	s.update(func(r *record) { r.VM = &saved })
	a.run(s, machine)
	return nil
}

// spec is the sandbox's VM but for its jail, and what it boots from.
func (a *Agent) spec(s *sandbox, link network.Link) vm.Spec {
	size := s.view().Size
	return vm.Spec{
		ID: string(s.id), Dir: a.runDir(s.id), Rootfs: a.diskPath(s.id), VCPUs: size.VCPUs, MemoryMiB: size.MemoryMiB,
		NIC: &vm.NIC{TAP: link.TAP, MAC: link.MAC},
	}
}

// run makes machine the sandbox's VM, with a client of its guest, and watches for its end.
func (a *Agent) run(s *sandbox, machine vm.Running) {
	guest := envdclient.New(func(ctx context.Context) (net.Conn, error) { return machine.Dial(ctx, envdPort) }, s.token())
	s.mu.Lock()
	s.vm, s.guest = machine, guest
	s.mu.Unlock()
	if s.hidden {
		a.setBack(machine)
	}
	a.tasks.Go(func() { a.watch(s, machine) })
}

// greet waits for envd's first answer and gives the guest its identity. The end of the VM ends it: the
// driver's connections then fail.
func (a *Agent) greet(ctx context.Context, s *sandbox, env map[string]string, user string, clock *stopwatch) error {
	machine, guest := s.machine()
	health, err := guest.Health(ctx)
	if err != nil {
		return deathOr(ctx, machine, fmt.Errorf("wait for the guest to boot: %w", err))
	}
	clock.lap("boot_guest")
	err = guest.Init(ctx, envdclient.Init{Hostname: string(s.id), Env: env, Now: time.Now(), DefaultUser: user})
	if err != nil {
		return deathOr(ctx, machine, fmt.Errorf("initialise the guest: %w", err))
	}
	s.update(func(r *record) { r.Envd = health.Version })
	clock.lap("init_guest")
	return nil
}

var errDied = errors.New("the VM ended while it was booting")

// deathWait is how long after its connections a VMM may take to end.
const deathWait = 2 * time.Second

// deathOr returns errDied where the VM's end is what made err, or what that was for, else err.
func deathOr(ctx context.Context, machine vm.Running, err error) error {
	if ctx.Err() != nil {
		return err
	}
	select {
	case <-machine.Done():
		return cmp.Or(lostMemory(machine), errDied)
	case <-time.After(deathWait):
		return err
	}
}

func (a *Agent) explainCreate(s *sandbox, req Request, err error) error {
	if req.Snapshot != "" {
		return a.explainChange(s, err, "created from the snapshot "+string(req.Snapshot), "nothing of it is left, and the snapshot is as it was")
	}
	return a.explain(s, err)
}

// explain turns what failed into an error that says why, with the VMM's or the guest's own words.
func (a *Agent) explain(s *sandbox, err error) error {
	var coded *models.Error
	told := errors.As(err, &coded)
	machine, _ := s.machine()
	switch {
	case s.ctx.Err() != nil:
		return models.Errorf(models.Conflict, "sandbox %s was destroyed while it was being created", s.id).WithCause(err)
	case machine == nil && told:
		return err
	case machine == nil && errors.Is(err, vm.ErrGone):
		return models.Errorf(models.Unavailable, "the sandbox's VM ended while it was being made").WithCause(err)
	case machine == nil:
		return models.Errorf(models.Internal, "the sandbox's VM could not be made").WithCause(err)
	case errors.Is(err, errDied) && machine.Exit().OOM:
		return models.Errorf(models.Exhausted, "the sandbox did not boot: %s", machine.Exit().Reason).WithCause(err)
	case errors.Is(err, errDied):
		return a.notBooted(s, machine.Exit().Reason, err)
	case told && coded.Code != models.Deadline && coded.Code != models.Unavailable:
		return err
	default:
		return a.notBooted(s, "the guest did not answer in time", err)
	}
}

func (a *Agent) notBooted(s *sandbox, why string, cause error) error {
	return models.Errorf(models.Unavailable, "the sandbox did not boot: %s", why).
		WithHint("the end of its console: %s", a.consoleTail(s.id)).WithCause(cause)
}

// consoleTail returns the last lines that the guest wrote, in one line.
func (a *Agent) consoleTail(sb id.Sandbox) string {
	text, err := vm.ReadConsole(a.runDir(sb))
	if err != nil || len(text) == 0 {
		return "(the console is empty)"
	}
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(text), "?")), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

func kernelArgs(sb id.Sandbox, link network.Link) []string {
	args := []string{
		"wrenn.hostname=" + string(sb),
		"wrenn.ip=" + link.Guest.String(),
		"wrenn.gw=" + link.Gateway.String(),
		"wrenn.dns=" + link.Gateway.String(), // see Names
	}
	if link.IPv6.Guest.IsValid() {
		args = append(args, "wrenn.ip6="+link.IPv6.Guest.String(), "wrenn.gw6="+link.IPv6.Gateway.String())
	}
	return args
}

// diskFile is the sandbox's disk in its folder.
const diskFile = "rootfs.ext4"

func (a *Agent) diskPath(sb id.Sandbox) string { return filepath.Join(a.dir(sb), diskFile) }

func newToken() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand aborts the program when the system has no randomness
	return hex.EncodeToString(b)
}

func (s *sandbox) token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Token
}

// stopwatch collects how long consecutive steps took.
type stopwatch struct {
	last  time.Time
	steps []models.Step
}

func (w *stopwatch) lap(name string) {
	now := time.Now()
	w.steps = append(w.steps, models.Step{Name: name, Duration: now.Sub(w.last)})
	w.last = now
}
