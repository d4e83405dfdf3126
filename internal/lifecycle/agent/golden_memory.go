package agent

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/memfd"
)

// keepMemories loads the memory of golden snapshots that are asked for, so that all VMs made from one share it, and gives back that of those which are not any
// more. Creates do not wait for it: until it is there, each gets a copy. Why so: docs/adr/0012-memory-of-vms-is-private.md.
func (a *Agent) keepMemories(ctx context.Context) {
	if a.cfg.Jails == nil || !a.cfg.Driver.Info().Copies {
		return
	}
	for {
		one, err := a.golden.unshared(time.Now())
		if err != nil {
			a.log.Warn("the memory of a golden snapshot could not be given back", "error", err)
		}
		if one == nil {
			return
		}
		a.loadMemory(ctx, one)
		a.golden.giveBack(one)
	}
}

// loadMemory: one that cannot be loaded is tried again when it was asked for again.
func (a *Agent) loadMemory(ctx context.Context, one *golden) {
	memory, err := a.memoryOf(ctx, one)
	if err == nil {
		one.told = false
		a.golden.share(one, memory)
		return
	}
	if ctx.Err() == nil && !one.told {
		one.told = true // the next ones say the same
		a.log.Warn("VMs made from a golden snapshot do not share its memory", "snapshot", one.ID, "template", one.Template.Name, "error", err)
	}
}

func (a *Agent) memoryOf(ctx context.Context, one *golden) (*os.File, error) {
	if err := a.giveWay(ctx); err != nil {
		return nil, err
	}
	path := one.Image().Memory
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mib := info.Sys().(*syscall.Stat_t).Blocks * blockSize >> 20; !a.roomNow().spare(mib) {
		return nil, models.Errorf(models.Exhausted, "it takes %d MiB of the memory, which the host has not to spare", mib)
	}
	return memfd.Load(ctx, path)
}

// unshared returns one that was asked for lately, and since the last try, and whose memory is not loaded, counted as used, or nil. It gives back that of those which were
// not asked for lately.
func (g *goldens) unshared(now time.Time) (found *golden, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range g.have {
		switch wanted := one.wanted(now); {
		case wanted && one.memory == nil && one.asked.After(one.tried):
			found = one
		case !wanted && one.memory != nil && one.users == 0:
			err = errors.Join(err, one.memory.Close())
			one.memory = nil
		}
	}
	if found != nil {
		found.users, found.tried = found.users+1, now
	}
	return found, err
}

func (g *goldens) share(one *golden, memory *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one.memory = memory
}

// source is what VMs of others are made from, for as long as one is counted as used.
func (g *goldens) source(one *golden) source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return source{one.Snapshot, one.memory}
}
