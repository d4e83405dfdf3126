package agent

import (
	"slices"
	"time"
)

const (
	// burst is the time in which creates count as having come at once: making the VM for the next one takes about a tenth of it.
	burst = 10 * time.Second
	// demandLasts is how long a create is remembered. Who was asked for less than that long ago is kept ready.
	demandLasts = 15 * time.Minute
	// maxAsked bounds what is remembered of one shape, and so the pool of it; maxShapes how many shapes are.
	maxAsked, maxShapes = 64, 64
)

// demand is when the creates of one shape came, the last one last.
type demand []time.Time

// at adds a create.
func (d demand) at(now time.Time) demand {
	d = append(d, now)
	return d[max(0, len(d)-maxAsked):]
}

// want is how many VMs should wait: as many as creates came in the greatest burst that is remembered.
func (d demand) want(now time.Time) (most int) {
	first := 0
	for i, t := range d {
		for d[first].Before(t.Add(-burst)) {
			first++
		}
		if t.After(now.Add(-demandLasts)) {
			most = max(most, i-first+1)
		}
	}
	return most
}

func (d demand) last() time.Time { return d[len(d)-1] }

// wanted is how many VMs of one shape should wait.
type wanted struct {
	of    shape
	count int
	mib   int64     // that each takes of the budget
	last  time.Time // when it was asked for
}

// share says how many of each shape wait, within the budget. Who was asked for last comes first, but nobody has a second one before all have one.
func share(all []wanted, budget int64) map[shape]int {
	slices.SortFunc(all, func(x, y wanted) int { return y.last.Compare(x.last) })
	shares := map[shape]int{}
	for round, more := 1, true; more; round++ {
		more = false
		for _, w := range all {
			if w.count >= round && w.mib <= budget {
				shares[w.of], budget, more = round, budget-w.mib, true
			}
		}
	}
	return shares
}

// room is what there is of a host's memory, in MiB, and who has it.
type room struct {
	total, available int64 // of the host, and what programs can still have
	sandboxes, pool  int64 // promised to sandboxes that run or are about to, and to VMs of the pool
}

// spare tells whether one more VM may be restored ahead: not on a host that is full, or nearly.
func (r room) spare(mib int64) bool {
	return r.sandboxes+r.pool+mib <= r.total && mib <= r.available/4
}

// short tells whether VMs of the pool stand in the way of a sandbox that is about to run, which is among those that have a promise.
func (r room) short(mib int64) bool {
	return r.pool > 0 && (r.sandboxes+r.pool > r.total || mib > r.available)
}
