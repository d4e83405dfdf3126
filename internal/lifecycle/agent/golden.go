package agent

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// shape is what a golden snapshot is of: a template, at one size. Its disk's size is never 0.
type shape struct {
	template string
	size     models.Size
}

// goldens keeps the golden snapshots of a host: of each shape that creates ask for one at most, which fits the template, the kernel and
// the machine of now. What does not fit any more is not used, and is removed. Why so: docs/adr/0015-golden-snapshots.md.
type goldens struct {
	store *snapshot.Store

	mu     sync.Mutex // guards what follows
	have   map[shape]*golden
	doomed []*golden       // to be removed once nobody uses them
	wanted map[shape]*wish // not there yet
	busy   int             // operations for which somebody waits
	quiet  chan struct{}   // closed while busy is 0

	bell // of the worker
}

// golden is one that is in place.
type golden struct {
	snapshot.Snapshot
	users    int       // creates that read it
	memory   *os.File  // by which VMs share its memory (vm.Image.Shared); nil while it is not loaded
	tried    time.Time // when it was last to be loaded
	told     bool      // the worker's: whether it was said why it is not
	failures int       // of those before it, since one was of use
	asked    time.Time // when one last did
}

// wish is a golden snapshot that is to be made.
type wish struct {
	failures int
	told     bool // of why it fails
	due      time.Time
}

func openGoldens(dir string) (*goldens, error) {
	store, err := snapshot.Open(filepath.Join(dir, "golden"))
	if err != nil {
		return nil, err
	}
	g := &goldens{
		store: store, have: map[shape]*golden{}, wanted: map[shape]*wish{},
		quiet: make(chan struct{}), bell: newBell(),
	}
	close(g.quiet)
	return g, nil
}

// recallGoldens finds what an earlier agent made. What is damaged, does not fit or is there twice is removed.
func (a *Agent) recallGoldens() error {
	all, err := a.golden.store.List()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(x, y snapshot.Entry) int { return y.Snapshot.CreatedAt.Compare(x.Snapshot.CreatedAt) })
	for _, entry := range all {
		of := shapeOf(entry.Snapshot)
		why := entry.Err
		if why == nil {
			why = a.fits(entry.Snapshot, of)
		}
		if a.golden.have[of] == nil && why == nil {
			a.golden.have[of] = &golden{Snapshot: entry.Snapshot, asked: entry.Snapshot.CreatedAt}
			continue
		}
		a.log.Info("removing a golden snapshot that is of no use any more", "snapshot", entry.ID, "reason", why)
		if err := a.golden.store.Remove(entry.ID); err != nil {
			return err
		}
	}
	return nil
}

func shapeOf(s snapshot.Snapshot) shape {
	return shape{s.Template.Name, models.Size{
		VCPUs: s.Machine.VCPUs, MemoryMiB: s.Machine.MemoryMiB, DiskMiB: int(s.Files[snapshot.RootfsFile].Size >> 20),
	}}
}

// shapeFor is the shape of what is asked for.
func shapeFor(tmpl filesystem.Template, size models.Size) shape {
	size.DiskMiB = cmp.Or(size.DiskMiB, tmpl.DiskMiB)
	return shape{tmpl.Name, size}
}

// fits returns why a snapshot must not be used for its shape, or nil. envd is part of the template's digest.
func (a *Agent) fits(s snapshot.Snapshot, of shape) error {
	tmpl, err := a.cfg.Images.Template(of.template)
	if err != nil {
		return err
	}
	return a.fitsTemplate(s, tmpl)
}

func (a *Agent) fitsTemplate(s snapshot.Snapshot, tmpl filesystem.Template) error {
	switch {
	case s.Kind != snapshot.Golden:
		return models.Errorf(models.Precondition, "it is of the kind %q", s.Kind)
	case s.Template.Digest != tmpl.Digest:
		return models.Errorf(models.Precondition, "the template has changed")
	case s.Kernel == "" || s.Kernel != a.kernel():
		return models.Errorf(models.Precondition, "the kernel has changed")
	}
	return s.Machine.CheckRestore(a.machineOf(shapeOf(s).size))
}

// goldenFor returns the golden snapshot of a template at a size, which the caller gives back, or nil. Where there is none, one will be made.
func (a *Agent) goldenFor(tmpl filesystem.Template, size models.Size) *golden {
	if a.cfg.GoldenMiB <= 0 || a.cfg.Driver.Info().NoRestore != "" {
		return nil
	}
	of := shapeFor(tmpl, size)
	g := a.golden.use(of)
	if g == nil {
		return nil
	}
	_, err := a.golden.store.Snapshot(g.ID) // it may have been damaged
	if err == nil {
		err = a.fitsTemplate(g.Snapshot, tmpl)
	}
	if err != nil {
		a.giveUp(of, g, err)
		a.golden.giveBack(g)
		return nil
	}
	return g
}

// giveUp has a golden snapshot removed and made anew.
func (a *Agent) giveUp(of shape, g *golden, why error) {
	if a.golden.replace(of, g) {
		a.log.Warn("a golden snapshot cannot be used; it is made anew", "snapshot", g.ID, "template", of.template, "error", why)
	}
}

// use counts a user of the golden snapshot of a shape, or asks for one.
func (g *goldens) use(of shape) *golden {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have := g.have[of]; have != nil {
		have.users, have.asked = have.users+1, time.Now()
		return have
	}
	g.wish(of)
	return nil
}

// hold counts a user of one for which nobody asks, and reports whether it is in place.
func (g *goldens) hold(one *golden) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.have[shapeOf(one.Snapshot)] != one {
		return false
	}
	one.users++
	return true
}

// wanted tells whether one was asked for lately. The caller holds mu.
func (one *golden) wanted(now time.Time) bool { return now.Sub(one.asked) < demandLasts }

// has tells whether there is a golden snapshot of a shape.
func (g *goldens) has(of shape) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.have[of] != nil
}

// maxWishes bounds what waits to be made: sizes are the users' to choose.
const maxWishes = 16

// wish is called with mu held. One that fails gives way to one that was not tried yet.
func (g *goldens) wish(of shape) {
	if g.wanted[of] != nil {
		return
	}
	if len(g.wanted) >= maxWishes {
		for other, w := range g.wanted {
			if w.failures > 0 {
				delete(g.wanted, other)
				break
			}
		}
	}
	if len(g.wanted) < maxWishes {
		g.wanted[of] = &wish{}
		g.nudge()
	}
}

func (g *goldens) giveBack(one *golden) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one.users--
	g.nudge()
}

// doom has one removed when nobody uses it any more, and reports whether it was the one in place.
func (g *goldens) doom(of shape, one *golden) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.have[of] != one {
		return false
	}
	delete(g.have, of)
	g.doomed = append(g.doomed, one)
	g.nudge()
	return true
}

// replace dooms one that proved to be of no use, and asks for another: the first at once, the next ones less and less often.
func (g *goldens) replace(of shape, one *golden) bool {
	if !g.doom(of, one) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wish(of)
	if w := g.wanted[of]; w != nil {
		w.failures, w.due = one.failures+1, time.Now().Add(retryAfter(one.failures))
	}
	return true
}

// proved notes that one was of use.
func (g *goldens) proved(one *golden) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one.failures = 0
}

// bury removes those that are doomed and not used. What cannot be removed the next agent removes: it is the older of two, or does not fit.
func (g *goldens) bury() error {
	g.mu.Lock()
	var free []*golden
	g.doomed = slices.DeleteFunc(g.doomed, func(one *golden) bool {
		if one.users > 0 {
			return false
		}
		free = append(free, one)
		return true
	})
	g.mu.Unlock()
	var err error
	for _, one := range free {
		if one.memory != nil {
			err = errors.Join(err, one.memory.Close())
		}
		err = errors.Join(err, g.store.Remove(one.ID))
	}
	return err
}

// hurry tells the worker that somebody waits for a VM, until done is called.
func (g *goldens) hurry() (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy++; g.busy == 1 {
		g.quiet = make(chan struct{})
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy--; g.busy == 0 {
			close(g.quiet)
		}
	}
}
