package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// spare is a VMM that was started before anybody asked for it: it has a disk, a network device and the memory of a golden snapshot, of which it has touched nothing, and
// takes what a program takes that waits. A create restores its VM in it. Why so: docs/adr/0033-a-vmm-is-started-ahead.md.
type spare struct {
	sandbox  *sandbox // with the disk and the device; nobody is told of it
	prepared vm.Prepared
	from     *golden // counted as used
}

// spares are those of a host: one of each golden snapshot that was asked for lately.
type spares struct {
	mu     sync.Mutex // guards what follows
	ready  map[*golden]*spare
	closed bool

	bell // of the worker
}

func newSpares() *spares {
	return &spares{ready: map[*golden]*spare{}, bell: newBell()}
}

// any tells whether there is one of a shape.
func (s *spares) any(of shape) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from := range s.ready {
		if shapeOf(from.Snapshot) == of {
			return true
		}
	}
	return false
}

// take returns that of a golden snapshot, or nil. Who gets one ends it or gives it to a sandbox.
func (s *spares) take(from *golden) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.ready[from]
	delete(s.ready, from)
	s.nudge()
	return one
}

// pop takes out any, or returns nil.
func (s *spares) pop() *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from, one := range s.ready {
		delete(s.ready, from)
		return one
	}
	return nil
}

// put has one wait, unless there are to be none any more.
func (s *spares) put(one *spare) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.ready[one.from] = one
	return true
}

// weed takes out those that are of none of the golden snapshots that are wanted, and returns one of these that has none.
func (s *spares) weed(wanted []*golden) (out []*spare, lacking *golden) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from, one := range s.ready {
		if !slices.Contains(wanted, from) {
			delete(s.ready, from)
			out = append(out, one)
		}
	}
	for _, from := range wanted {
		if s.ready[from] == nil {
			return out, from
		}
	}
	return out, nil
}

// close takes out all for good.
func (s *spares) close() (rest []*spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for from, one := range s.ready {
		delete(s.ready, from)
		rest = append(rest, one)
	}
	return rest
}

// spareFor takes the VMM out that a sandbox's VM can be made in, if there is one.
func (a *Agent) spareFor(tmpl filesystem.Template, size models.Size) *spare {
	if !a.spares.any(shapeFor(tmpl, size)) {
		a.spares.nudge() // the next one may find one
		return nil
	}
	g := a.goldenFor(tmpl, size)
	if g == nil {
		a.spares.nudge() // that one is of no use any more
		return nil
	}
	defer a.golden.giveBack(g)
	return a.spares.take(g)
}

// moveIn makes all that belongs to the VMM the sandbox's, restores the VM, and has its guest renew what must be its own.
func (a *Agent) moveIn(ctx context.Context, s *sandbox, one *spare, clock *stopwatch, owner envdclient.Init) (link network.Link, err error) {
	defer a.golden.giveBack(one.from)
	defer func() {
		switch {
		case err == nil:
			a.golden.proved(one.from)
		case s.update(func(*record) {}).VM == nil: // its record does not lead to the cgroup yet
			err = errors.Join(err, a.evacuate(ctx, one))
		}
	}()
	a.inherit(s, one.sandbox)
	a.makeRoom(ctx, s)
	clock.lap("take_spare")
	var machine vm.Running
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		link, err = a.attach(groupCtx, s)
		return err
	})
	group.Go(func() (err error) {
		machine, err = one.prepared.Restore(groupCtx)
		return err
	})
	err = group.Wait()
	if err != nil && machine != nil { // it was the network that failed
		_, killErr := machine.Kill()
		err = errors.Join(err, killErr)
	}
	if err != nil {
		return link, fmt.Errorf("restore the VM: %w", err)
	}
	if err := a.letGo(ctx, s, machine); err != nil {
		return link, err
	}
	clock.lap("restore_vm")
	return link, a.renew(ctx, s, link, clock, owner)
}

// evacuate ends a VMM whose folder is a sandbox's already.
func (a *Agent) evacuate(ctx context.Context, one *spare) error {
	undo, done := undoContext(ctx)
	defer done()
	return errors.Join(one.prepared.Discard(), a.removeGroup(undo, one.sandbox))
}

// spareDelay is how long after one was taken the next one is started: its VM is restored by then, and its guest wakes, for which it has one processor. It does not wait for who
// waits for a VM: the next one of them is whom it is for.
const spareDelay = 50 * time.Millisecond

// keepSpares starts and ends VMMs, one at a time, until ctx ends. Then it ends all.
func (a *Agent) keepSpares(ctx context.Context) {
	if a.cfg.Spares <= 0 || a.cfg.GoldenMiB <= 0 {
		return
	}
	if info := a.cfg.Driver.Info(); !info.SlowStart || info.NoRestore != "" {
		return
	}
	for failures := 0; ctx.Err() == nil; {
		out, lacking := a.spares.weed(a.golden.lately(time.Now(), a.cfg.Spares))
		for _, one := range out {
			a.discard(ctx, one)
		}
		if lacking == nil {
			a.spares.await(ctx, poolTick)
			continue
		}
		if rest(ctx, spareDelay) != nil {
			continue
		}
		switch err := a.addSpare(ctx, lacking); {
		case err == nil:
			failures = 0
		case ctx.Err() == nil:
			if failures++; failures == 1 { // the next ones say the same
				a.log.Warn("a VMM could not be started ahead; it is tried again", "template", lacking.Template.Name, "error", err)
			}
			a.spares.await(ctx, retryAfter(failures))
		}
	}
	for _, one := range a.spares.close() {
		a.discard(ctx, one)
	}
}

// lately returns the golden snapshots in place that were asked for lately, most at most, the one that was last first.
func (g *goldens) lately(now time.Time, most int) (all []*golden) {
	all = g.all()
	g.mu.Lock()
	defer g.mu.Unlock()
	all = slices.DeleteFunc(all, func(one *golden) bool { return !one.wanted(now) })
	return all[:min(len(all), most)]
}

// addSpare starts a VMM. Like a VM of the pool it has the folder of a sandbox with a record of one that is being created: an agent that comes after one that was killed removes it.
func (a *Agent) addSpare(ctx context.Context, from *golden) error {
	ctx, cancel := context.WithTimeout(ctx, rearLimit)
	defer cancel()
	if need := int64(a.cfg.Driver.Info().OverheadMiB); !a.roomNow().spare(need) {
		return models.Errorf(models.Exhausted, "it may take %d MiB of the memory, which the host has not to spare", need)
	}
	if !a.golden.hold(from) { // it is gone, as the worker will see
		return nil
	}
	s := a.newPooled(shapeOf(from.Snapshot), from.Template.Digest)
	prepared, err := a.startAhead(ctx, s, from)
	if err != nil {
		a.drop(ctx, s)
		a.golden.giveBack(from)
		return err
	}
	one := &spare{s, prepared, from}
	if !a.spares.put(one) {
		a.discard(ctx, one)
	}
	return nil
}

// startAhead starts a VMM for the VM of a golden snapshot.
func (a *Agent) startAhead(ctx context.Context, s *sandbox, from *golden) (vm.Prepared, error) {
	link, err := a.outfit(ctx, s, from)
	if err != nil {
		return nil, err
	}
	image, err := a.imageFor(s, a.golden.source(from))
	if err != nil {
		return nil, err
	}
	spec := a.spec(s, link)
	if spec.Jail, err = a.jail(s); err != nil {
		return nil, err
	}
	s.update(func(r *record) { r.Envd, r.Kernel, r.Snapshot = from.Envd, from.Kernel, from.ID })
	return a.cfg.Driver.Prepare(ctx, spec, image)
}

// discard ends a VMM that is not needed, with all that it has.
func (a *Agent) discard(ctx context.Context, one *spare) {
	if err := one.prepared.Discard(); err != nil {
		a.log.Warn("a VMM that was started ahead could not be ended in order", "vm", one.sandbox.id, "error", err)
	}
	a.drop(ctx, one.sandbox)
	a.golden.giveBack(one.from)
}
