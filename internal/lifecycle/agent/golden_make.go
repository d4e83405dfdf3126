package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

const (
	// goldenLimit bounds the making of a golden snapshot: its VM has the lowest priority of the host.
	goldenLimit = 10 * time.Minute
	// giveWayLimit is how long one step of it waits for creates and resumes: on a host that is never quiet it goes on beside them.
	giveWayLimit = time.Minute
	// firstRetry is doubled with every failure.
	firstRetry, lastRetry = 10 * time.Second, 10 * time.Minute
)

// keepGolden makes and removes golden snapshots, one at a time, until ctx ends.
func (a *Agent) keepGolden(ctx context.Context) {
	a.proveGolden(ctx)
	for ctx.Err() == nil {
		if err := a.golden.bury(); err != nil {
			a.log.Warn("a golden snapshot that is of no use any more could not be removed; the next start of the agent tries again", "error", err)
		}
		a.keepMemories(ctx)
		of, found, wait := a.golden.next(time.Now())
		if found {
			a.grant(ctx, of)
			continue
		}
		a.golden.await(ctx, wait)
	}
}

// proveGolden reads what an earlier agent made, once. A restore checks only what it costs nothing to check.
func (a *Agent) proveGolden(ctx context.Context) {
	for _, one := range a.golden.all() {
		if a.giveWay(ctx) != nil {
			return
		}
		if _, err := one.Verify(ctx); err != nil && ctx.Err() == nil {
			a.giveUp(shapeOf(one.Snapshot), one, err)
		}
	}
}

// next returns what is to be made now, or else how long that may take to change by itself.
func (g *goldens) next(now time.Time) (of shape, found bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait = lastRetry
	for of, w := range g.wanted {
		if !w.due.After(now) {
			return of, true, 0
		}
		wait = min(wait, w.due.Sub(now))
	}
	return shape{}, false, wait
}

// grant makes a golden snapshot that is wanted, or notes when to try again.
func (a *Agent) grant(ctx context.Context, of shape) {
	err := a.makeGolden(ctx, of)
	if err != nil && ctx.Err() == nil && a.golden.putOff(of) { // the next ones say the same
		a.log.Warn("a golden snapshot could not be made, or not all that it was made with be removed; it is tried again", "template", of.template, "error", err)
	}
}

// putOff notes that a wish could not be granted, and reports whether nobody was told of that yet.
func (g *goldens) putOff(of shape) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.wanted[of]
	if w == nil { // it was granted, and something came afterwards
		return true
	}
	w.failures++
	w.due = time.Now().Add(retryAfter(w.failures))
	first, w.told = !w.told, true
	return first
}

// retryAfter is how long to wait after so many failures.
func retryAfter(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(firstRetry<<min(failures-1, 10), lastRetry)
}

// giveWay waits until nobody waits for a VM, for a while.
func (a *Agent) giveWay(ctx context.Context) error {
	timer := time.NewTimer(giveWayLimit)
	defer timer.Stop()
	select {
	case <-a.golden.calm():
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// calm is closed when nobody waits for a VM.
func (g *goldens) calm() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.quiet
}

// makeGolden boots a VM that nobody knows of, and freezes it. It has the folder of a sandbox with a record of one that is being created: an agent that comes
// after one that was killed removes it like any other.
func (a *Agent) makeGolden(ctx context.Context, of shape) (err error) {
	ctx, cancel := context.WithTimeout(ctx, goldenLimit)
	defer cancel()
	if err := a.giveWay(ctx); err != nil {
		return err
	}
	tmpl, err := a.cfg.Images.Template(of.template)
	if err != nil {
		return err
	}
	if err := a.roomForGolden(of); err != nil {
		return err
	}
	s := newHidden(of, tmpl.Digest)
	defer s.cancel()
	defer func() {
		undo, done := undoContext(ctx)
		defer done()
		if err == nil {
			s.update(func(r *record) { r.State = Stopping })
		}
		err = errors.Join(err, a.dismantle(undo, s))
	}()
	return a.bake(ctx, s, tmpl)
}

// newHidden is a sandbox that nobody is told of, with its turn taken.
func newHidden(of shape, digest string) *sandbox {
	s := newSandbox(record{
		Sandbox: id.NewSandbox(), State: Starting, Template: of.template, Digest: digest, Size: of.size,
		Slot: -1, Token: newToken(), CreatedAt: time.Now().UTC(), Network: &models.NetworkPolicy{}, // which allows nothing
	})
	s.hidden = true
	s.turn <- struct{}{}
	return s
}

// roomForGolden: it must fit into the budget, which is not known before, and a full host has no memory for it.
func (a *Agent) roomForGolden(of shape) error {
	info, err := a.cfg.Images.Info()
	if err != nil {
		return err
	}
	if need := int64(of.size.MemoryMiB); need > int64(a.cfg.GoldenMiB) || need > info.FreeMiB/2 {
		return models.Errorf(models.Exhausted, "it may take %d MiB of the disk, of which it may have %d, and %d are free", need, a.cfg.GoldenMiB, info.FreeMiB)
	}
	_, free, err := a.cfg.memory()
	if err != nil {
		return err
	}
	if need := int64(of.size.MemoryMiB + a.cfg.Driver.Info().OverheadMiB); need > free/2 {
		return models.Errorf(models.Exhausted, "its VM may take %d MiB of the memory, of which %d are available", need, free)
	}
	return nil
}

// bake makes the VM, and the snapshot of it.
func (a *Agent) bake(ctx context.Context, s *sandbox, tmpl filesystem.Template) error {
	begin := time.Now()
	if err := a.heat(ctx, s, tmpl); err != nil {
		return err
	}
	staging, err := a.golden.store.Stage("golden-" + strings.TrimPrefix(string(s.id), "sb-"))
	if err != nil {
		return err
	}
	manifest, err := a.cast(ctx, s, staging)
	if err == nil {
		err = a.giveWay(ctx)
	}
	if err == nil {
		err = staging.Seal(ctx, nil)
	}
	if err != nil {
		return errors.Join(err, staging.Abort())
	}
	if err := staging.Commit(manifest); err != nil {
		return err
	}
	made, err := a.golden.store.Snapshot(manifest.ID)
	if err != nil {
		return err
	}
	a.golden.put(shapeOf(made), made)
	a.evict()
	a.pool.nudge()
	a.spares.nudge()
	a.log.Info("golden snapshot made", "snapshot", made.ID, "template", made.Template.Name, "vcpus", made.Machine.VCPUs,
		"memory_mib", made.Machine.MemoryMiB, "bytes", a.bytesOf(made), "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// heat boots the VM, scrubs its memory once it has come to rest, and exercises its guest. The guest has no owner then: who restores it says who is.
func (a *Agent) heat(ctx context.Context, s *sandbox, tmpl filesystem.Template) error {
	if err := a.prepare(ctx, s, &stopwatch{}); err != nil {
		return err
	}
	link, err := a.provide(ctx, s, tmpl)
	if err != nil {
		return err
	}
	if err := a.start(ctx, s, link); err != nil {
		return err
	}
	machine, guest := s.machine()
	health, err := guest.Health(ctx)
	if err != nil {
		return deathOr(ctx, machine, fmt.Errorf("wait for the guest to boot: %w", err))
	}
	s.update(func(r *record) { r.Envd = health.Version })
	if err := a.giveWay(ctx); err != nil {
		return err
	}
	if err := rest(ctx, a.cfg.settling); err != nil {
		return err
	}
	if err := guest.Scrub(ctx); err != nil {
		return deathOr(ctx, machine, fmt.Errorf("scrub the guest: %w", err))
	}
	if err := a.exercise(ctx, s, link, tmpl.DefaultUser); err != nil {
		return deathOr(ctx, machine, fmt.Errorf("exercise the guest: %w", err))
	}
	if err := guest.Forget(ctx); err != nil {
		return deathOr(ctx, machine, fmt.Errorf("have the guest forget its owner: %w", err))
	}
	if err := rest(ctx, a.cfg.settling/2); err != nil {
		return err
	}
	return a.giveWay(ctx)
}

// settling is how long a guest is left alone: what it does by itself a moment later, each VM made from it would do first. After its boot the kernel measures its clock once more,
// and when memory ran short it makes room for the next time.
const settling = 2 * time.Second

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exercise has the guest do once what is done first with each sandbox: what that reads of the disk is in its memory then, and what it writes there is
// written when it is told to forget. A guest that cannot run a program is a golden one all the same.
func (a *Agent) exercise(ctx context.Context, s *sandbox, link network.Link, user string) error {
	if err := a.renew(ctx, s, link, &stopwatch{}, envdclient.Init{Token: s.token(), Hostname: string(s.id), DefaultUser: user}); err != nil {
		return err
	}
	_, guest := s.machine()
	for _, program := range []envdclient.Command{{Cmd: "/bin/sh", Args: []string{"-c", "true"}}, {Cmd: "true"}} {
		if err := tryProgram(ctx, guest, program); err != nil {
			return err
		}
	}
	return nil
}

// tryProgram has a guest run a program as its sandbox's users will have it: through a tunnel.
func tryProgram(ctx context.Context, guest *envdclient.Client, program envdclient.Command) error {
	user := envdclient.New(guest.Tunnel, "")
	defer user.Close()
	run, err := user.Exec(ctx, program)
	if err != nil {
		return ctx.Err()
	}
	defer run.Close()
	for err == nil {
		_, err = run.Next()
	}
	return ctx.Err()
}

// cast freezes the VM into the staging, ends it, and returns what the snapshot is.
func (a *Agent) cast(ctx context.Context, s *sandbox, staging *snapshot.Staging) (snapshot.Manifest, error) {
	machine, _ := s.machine()
	at := time.Now().UTC()
	if err := machine.Snapshot(ctx, staging.Files()); err != nil {
		return snapshot.Manifest{}, err
	}
	if _, err := clone.File(ctx, a.diskPath(s.id), staging.Rootfs(), true); err != nil {
		return snapshot.Manifest{}, err
	}
	if _, err := machine.Kill(); err != nil {
		return snapshot.Manifest{}, err
	}
	rec := s.update(func(*record) {})
	return snapshot.Manifest{
		ID: staging.ID(), Kind: snapshot.Golden, CreatedAt: at, Machine: machine.Saved().Machine,
		Template: snapshot.Template{Name: rec.Template, Digest: rec.Digest}, Kernel: rec.Kernel, Envd: rec.Envd, Network: true,
	}, nil
}

// put makes one that is in place the one that creates are made from. From here on it may be asked for another.
func (g *goldens) put(of shape, made snapshot.Snapshot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if before := g.have[of]; before != nil {
		g.doomed = append(g.doomed, before)
	}
	next := &golden{Snapshot: made, asked: time.Now()}
	if w := g.wanted[of]; w != nil {
		next.failures = w.failures
		delete(g.wanted, of)
	}
	g.have[of] = next
}
