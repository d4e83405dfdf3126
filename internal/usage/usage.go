// Package usage counts what accounts use, from periods with a beginning and an end, and never from samples. All of it is pure, and exact to the microsecond: what is counted of the
// parts of any time is, together, what is counted of the whole.
package usage

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Kind is what a period is about. The values equal those of the database, and of what is told to Lago.
type Kind string

// The kinds.
const (
	Running    Kind = "running"    // a sandbox runs: it uses processors and memory
	Paused     Kind = "paused"     // a sandbox sleeps on its host's disk
	Hibernated Kind = "hibernated" // a sandbox sleeps in the object store
	Snapshot   Kind = "snapshot"   // a snapshot is kept
)

// Period is a time in which a sandbox, or a snapshot of it, used the same all along.
type Period struct {
	ID        int64
	Account   id.Account
	Sandbox   id.Sandbox
	Snapshot  id.Snapshot // empty for the sandbox itself
	Kind      Kind
	VCPUs     int64 // while it runs
	MemoryMiB int64
	StoredMiB int64 // while it does not
	Begin     time.Time
	End       time.Time // zero while it lasts
}

// Amount is what was used.
type Amount struct {
	VCPU       Quantity // processors
	Memory     Quantity // MiB
	Paused     Quantity // MiB
	Hibernated Quantity // MiB
	Snapshot   Quantity // MiB
}

// Plus returns what a and b are together.
func (a Amount) Plus(b Amount) Amount {
	return Amount{
		VCPU: a.VCPU.Plus(b.VCPU), Memory: a.Memory.Plus(b.Memory),
		Paused: a.Paused.Plus(b.Paused), Hibernated: a.Hibernated.Plus(b.Hibernated), Snapshot: a.Snapshot.Plus(b.Snapshot),
	}
}

// In returns what was used in the part of the period that lies in [from, to).
func (p Period) In(from, to time.Time) Amount {
	begin, end := p.clip(from, to)
	return p.during(end.Sub(begin))
}

// clip returns the part of the period that lies in [from, to). One that lies elsewhere has an end that is not after its beginning.
func (p Period) clip(from, to time.Time) (begin, end time.Time) {
	begin, end = p.Begin, p.End
	if begin.Before(from) {
		begin = from
	}
	if p.End.IsZero() || end.After(to) {
		end = to
	}
	return begin, end
}

func (p Period) during(d time.Duration) Amount {
	if d <= 0 {
		return Amount{}
	}
	a := Amount{VCPU: times(p.VCPUs, d), Memory: times(p.MemoryMiB, d)}
	switch stored := times(p.StoredMiB, d); p.Kind {
	case Paused:
		a.Paused = stored
	case Hibernated:
		a.Hibernated = stored
	case Snapshot:
		a.Snapshot = stored
	case Running:
	}
	return a
}

// ByDay calls add with what was used on each day, of UTC, of which some lies in the period and in [from, to).
func (p Period) ByDay(from, to time.Time, add func(day time.Time, a Amount)) {
	begin, end := p.clip(from.UTC(), to.UTC())
	for begin.Before(end) {
		day := begin.UTC().Truncate(24 * time.Hour)
		next := day.Add(24 * time.Hour)
		add(day, p.In(begin, earlier(next, end)))
		begin = next
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
