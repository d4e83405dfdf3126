package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

const (
	// rearLimit bounds the making of a VM of the pool, which has the lowest priority of the host.
	rearLimit = 5 * time.Minute
	// poolTick is how often it is looked whether demand has ended.
	poolTick = 10 * time.Second
	// poolRest is how long after the last create or resume the making of a VM begins: its user is just about to use it.
	poolRest = 250 * time.Millisecond
)

// hasPool tells whether VMs are restored ahead here.
func (a *Agent) hasPool() bool {
	return a.cfg.PoolMiB > 0 && a.cfg.GoldenMiB > 0 && a.cfg.Driver.Info().NoRestore == ""
}

// keepPool makes and removes VMs of the pool, one at a time, until ctx ends. Then it removes all.
func (a *Agent) keepPool(ctx context.Context) {
	if !a.hasPool() {
		return
	}
	for ctx.Err() == nil {
		shares := a.shares(time.Now())
		for _, s := range a.pool.weed(shares) {
			a.drop(ctx, s)
		}
		if _, found := a.pool.lacking(shares, time.Now()); !found {
			a.pool.await(ctx, poolTick)
			continue
		}
		if !a.rested(ctx) {
			continue
		}
		if of, found := a.pool.lacking(a.shares(time.Now()), time.Now()); found { // meanwhile another one may be wanted more
			a.enlarge(ctx, of)
		}
	}
	for _, s := range a.pool.close() {
		a.drop(ctx, s)
	}
}

// shares is how many VMs should wait of each shape that has a golden snapshot.
func (a *Agent) shares(now time.Time) map[shape]int {
	var all []wanted
	for _, w := range a.pool.wants(now, a.cost) {
		if a.golden.has(w.of) {
			all = append(all, w)
		}
	}
	return share(all, int64(a.cfg.PoolMiB))
}

// cost is what a VM may take of the memory, in MiB.
func (a *Agent) cost(size models.Size) int64 {
	return int64(size.MemoryMiB + a.cfg.Driver.Info().OverheadMiB)
}

// rested waits until nobody has waited for a VM for a moment; false when ctx has ended, or somebody has come.
func (a *Agent) rested(ctx context.Context) bool {
	calm := a.golden.calm()
	select {
	case <-ctx.Done():
		return false
	case <-calm:
	}
	timer := time.NewTimer(poolRest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return a.golden.calm() == calm
	}
}

// enlarge adds a VM to the pool, or notes when to try again.
func (a *Agent) enlarge(ctx context.Context, of shape) {
	err := a.addToPool(ctx, of)
	if err != nil && ctx.Err() == nil && a.pool.putOff(of, time.Now()) { // the next ones say the same
		a.log.Warn("a VM could not be restored ahead; it is tried again", "template", of.template, "error", err)
	}
}

func (a *Agent) addToPool(ctx context.Context, of shape) error {
	ctx, cancel := context.WithTimeout(ctx, rearLimit)
	defer cancel()
	if !a.roomNow().spare(a.cost(of.size)) {
		return models.Errorf(models.Exhausted, "its VM may take %d MiB of the memory, which the host has not to spare", a.cost(of.size))
	}
	tmpl, err := a.cfg.Images.Template(of.template)
	if err != nil {
		return err
	}
	from := a.goldenFor(tmpl, of.size)
	if from == nil {
		return models.Errorf(models.Unavailable, "its golden snapshot is gone")
	}
	defer a.golden.giveBack(from)
	s := a.newPooled(of, tmpl.Digest)
	begin := time.Now()
	if err = a.rear(ctx, s, from, tmpl); err == nil && a.pool.put(of, s) {
		a.tasks.Go(func() { a.watchPooled(s) })
		a.log.Info("a VM was restored ahead", "vm", s.id, "template", of.template, "vcpus", of.size.VCPUs,
			"memory_mib", of.size.MemoryMiB, "took", time.Since(begin).Round(time.Millisecond))
		return nil
	}
	a.drop(ctx, s)
	return err
}

// newPooled is a hidden sandbox that another one can inherit from.
func (a *Agent) newPooled(of shape, digest string) *sandbox {
	s := newHidden(of, digest)
	s.update(func(r *record) { r.Pooled = true })
	a.mu.Lock()
	defer a.mu.Unlock()
	a.homes[s.id] = s.id
	return s
}

// outfit gives a hidden sandbox a folder, a network device that nobody else gets, and the disk of a golden snapshot.
func (a *Agent) outfit(ctx context.Context, s *sandbox, from *golden) (network.Link, error) {
	if err := a.prepare(ctx, s, &stopwatch{}); err != nil {
		return network.Link{}, err
	}
	slot, _ := s.holds()
	tap, err := a.cfg.Network.Ahead(ctx, slot)
	if err != nil {
		return network.Link{}, err
	}
	if _, err := clone.File(ctx, from.Rootfs(), a.diskPath(s.id), true); err != nil {
		return network.Link{}, err
	}
	return network.Link{TAP: tap, MAC: network.GuestMAC(s.id), Guest: slot.Guest, Gateway: slot.Gateway, Index: slot.Index, Owner: slot.Owner}, nil
}

// rear restores a VM, has its guest do once what a create and its first program have it do, with a name, an address and secrets that nobody else has, and stops it. It has the
// folder of a sandbox with a record of one that is being created: an agent that comes after one that was killed removes it like any other.
func (a *Agent) rear(ctx context.Context, s *sandbox, from *golden, tmpl filesystem.Template) error {
	link, err := a.outfit(ctx, s, from)
	if err != nil {
		return err
	}
	err = a.hatch(ctx, s, a.golden.source(from), link, &stopwatch{}, envdclient.Init{Token: s.token(), Hostname: string(s.id), DefaultUser: tmpl.DefaultUser})
	if err != nil {
		if ctx.Err() == nil {
			a.giveUp(shapeOf(from.Snapshot), from, err)
		}
		return err
	}
	a.golden.proved(from)
	machine, guest := s.machine()
	if err := practise(ctx, guest); err != nil {
		return deathOr(ctx, machine, fmt.Errorf("exercise the guest: %w", err))
	}
	return machine.Pause(ctx)
}

// practice is how often a guest runs a program before it is stopped: what a VMM has translated, and what it had to fetch from the snapshot, is there from then on.
const practice = 3

// practise has a guest run programs.
func practise(ctx context.Context, guest *envdclient.Client) error {
	for range practice {
		if err := tryProgram(ctx, guest, envdclient.Command{Cmd: "true"}); err != nil {
			return err
		}
	}
	return nil
}

// watchPooled has a VM removed that ends while it waits.
func (a *Agent) watchPooled(s *sandbox) {
	machine, _ := s.machine()
	select {
	case <-machine.Done():
		a.pool.nudge()
	case <-s.ctx.Done():
	}
}

// ended tells whether the VM has ended, or there is none.
func (s *sandbox) ended() bool {
	machine, _ := s.machine()
	if machine == nil {
		return true
	}
	select {
	case <-machine.Done():
		return true
	default:
		return false
	}
}

// drop removes a VM of the pool, which is in it no more, with all that it has.
func (a *Agent) drop(ctx context.Context, s *sandbox) {
	s.cancel()
	undo, done := undoContext(ctx)
	defer done()
	s.update(func(r *record) { r.State = Stopping })
	if err := a.dismantle(undo, s); err != nil {
		a.log.Error("a VM that was restored ahead could not be removed; the next start of the agent tries again", "vm", s.id, "error", err)
	}
}

// withoutVM are the states in which a sandbox has no memory, and is not about to.
var withoutVM = []State{Paused, Failed, Storing, Fetching}

// roomNow is what there is of the host's memory. What cannot be found out counts as none.
func (a *Agent) roomNow() (r room) {
	r.total, r.available, _ = a.cfg.memory()
	for _, s := range a.all() {
		if v := s.view(); !slices.Contains(withoutVM, v.State) {
			r.sandboxes += a.cost(v.Size)
		}
	}
	for of, count := range a.pool.waiting() {
		r.pool += int64(count) * a.cost(of.size)
	}
	return r
}

// makeRoom removes VMs of the pool until a sandbox that is about to run has the room that it needs. What nobody knows of itself gets no room by this.
func (a *Agent) makeRoom(ctx context.Context, s *sandbox) {
	if s.hidden {
		return
	}
	need := a.cost(s.view().Size)
	for len(a.pool.waiting()) > 0 && a.roomNow().short(need) {
		if one := a.pool.pop(); one != nil {
			a.log.Info("a VM that was restored ahead gives way to a sandbox", "vm", one.id, "sandbox_id", s.id)
			a.drop(ctx, one)
		}
	}
}

// reserve returns a network slot. Where all are held, VMs of the pool and VMMs that were started ahead give theirs up for a sandbox.
func (a *Agent) reserve(ctx context.Context, s *sandbox) (network.Slot, error) {
	for {
		slot, err := a.cfg.Network.Reserve(ctx)
		var coded *models.Error
		if s.hidden || !errors.As(err, &coded) || coded.Code != models.Exhausted {
			return slot, err
		}
		if one := a.pool.pop(); one != nil {
			a.drop(ctx, one)
		} else if one := a.spares.pop(); one != nil {
			a.discard(ctx, one)
		} else {
			return slot, err
		}
	}
}
