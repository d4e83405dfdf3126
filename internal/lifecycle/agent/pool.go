package agent

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// pool keeps VMs that were restored from golden snapshots before anybody asked for them, and stand still: of each shape as many as have been asked for at once lately.
// A create that finds one takes it over, and restores nothing. Why so: docs/adr/0018-the-warm-pool.md.
type pool struct {
	mu     sync.Mutex // guards what follows
	asked  map[shape]demand
	ready  map[shape][]*sandbox // the oldest first
	trials map[shape]*wish      // of shapes that could not be made
	closed bool

	bell // of the worker
}

func newPool() *pool {
	return &pool{asked: map[shape]demand{}, ready: map[shape][]*sandbox{}, trials: map[shape]*wish{}, bell: newBell()}
}

// ask notes a create.
func (p *pool) ask(of shape, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[of] = p.asked[of].at(now)
	if len(p.asked) > maxShapes {
		delete(p.asked, p.coldest(maps.Keys(p.asked)))
	}
	p.nudge()
}

// take returns the VM that came last, or nil: of those that wait it is the one whose pages, and whose VMM's, are most likely in the processor's caches still.
func (p *pool) take(of shape) *sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeAt(of, len(p.ready[of])-1)
}

// coldest of shapes is the one that was not asked for for longest. The caller holds mu.
func (p *pool) coldest(shapes func(func(shape) bool)) shape {
	return slices.MinFunc(slices.Collect(shapes), func(x, y shape) int { return p.lastAsked(x).Compare(p.lastAsked(y)) })
}

func (p *pool) lastAsked(of shape) time.Time {
	if d := p.asked[of]; len(d) > 0 {
		return d.last()
	}
	return time.Time{}
}

// takeFirst takes the VM that has waited for longest, as takeAt does.
func (p *pool) takeFirst(of shape) *sandbox { return p.takeAt(of, 0) }

// takeAt is called with mu held. Who gets a VM ends it or gives it to a sandbox.
func (p *pool) takeAt(of shape, i int) *sandbox {
	waiting := p.ready[of]
	if len(waiting) == 0 {
		return nil
	}
	taken := waiting[i]
	if p.ready[of] = slices.Delete(waiting, i, i+1); len(waiting) == 1 {
		delete(p.ready, of)
	}
	return taken
}

// put has a VM wait, unless the pool is closed.
func (p *pool) put(of shape, s *sandbox) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.ready[of] = append(p.ready[of], s)
	delete(p.trials, of)
	return true
}

// pop takes out the VM that is missed the least, or returns nil.
func (p *pool) pop() *sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) == 0 {
		return nil
	}
	return p.takeFirst(p.coldest(maps.Keys(p.ready)))
}

// close empties the pool for good.
func (p *pool) close() (rest []*sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, waiting := range p.ready {
		rest = append(rest, waiting...)
	}
	clear(p.ready)
	return rest
}

// weed takes out what has died, and what is more than its share.
func (p *pool) weed(shares map[shape]int) (out []*sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for of, waiting := range p.ready {
		p.ready[of] = slices.DeleteFunc(waiting, func(s *sandbox) bool {
			if s.ended() {
				out = append(out, s)
			}
			return s.ended()
		})
		for len(p.ready[of]) > shares[of] {
			out = append(out, p.takeFirst(of))
		}
		if len(p.ready[of]) == 0 {
			delete(p.ready, of)
		}
	}
	return out
}

// lacking returns the shape that lacks a VM of its share and was asked for last; what failed lately comes later.
func (p *pool) lacking(shares map[shape]int, now time.Time) (of shape, found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for candidate, count := range shares {
		trial := p.trials[candidate]
		if len(p.ready[candidate]) >= count || trial != nil && trial.due.After(now) {
			continue
		}
		if !found || p.lastAsked(candidate).After(p.lastAsked(of)) {
			of, found = candidate, true
		}
	}
	return of, found
}

// putOff notes that one could not be made, and reports whether that is new.
func (p *pool) putOff(of shape, now time.Time) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	trial := p.trials[of]
	if first = trial == nil; first {
		trial = &wish{}
		p.trials[of] = trial
	}
	trial.failures++
	trial.due = now.Add(retryAfter(trial.failures))
	return first
}

// wants is what should wait of each shape, each taking as much memory as cost says, and forgets what nobody wants any more.
func (p *pool) wants(now time.Time, cost func(models.Size) int64) (all []wanted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for of, d := range p.asked {
		if count := d.want(now); count > 0 {
			all = append(all, wanted{of, count, cost(of.size), d.last()})
			continue
		}
		delete(p.asked, of)
		delete(p.trials, of)
	}
	return all
}

// waiting is how many VMs wait, of each shape.
func (p *pool) waiting() map[shape]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := map[shape]int{}
	for of, waiting := range p.ready {
		counts[of] = len(waiting)
	}
	return counts
}

// PooledVMs is how many VMs of one kind wait for sandboxes to be.
type PooledVMs struct {
	Template string
	Size     models.Size
	Count    int
}

// Pool returns what waits at present, by template.
func (a *Agent) Pool() []PooledVMs {
	waiting := a.pool.waiting()
	all := make([]PooledVMs, 0, len(waiting))
	for of, count := range waiting {
		all = append(all, PooledVMs{of.template, of.size, count})
	}
	slices.SortFunc(all, func(x, y PooledVMs) int {
		return cmp.Or(cmp.Compare(x.Template, y.Template), x.Size.MemoryMiB-y.Size.MemoryMiB, x.Size.VCPUs-y.Size.VCPUs, x.Size.DiskMiB-y.Size.DiskMiB)
	})
	return all
}
