package usage

import (
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Metric is what an event counts. The values equal those of the database.
type Metric string

// The metrics.
const (
	VCPU   Metric = "vcpu"   // in vCPU-seconds
	Memory Metric = "memory" // in GiB-seconds
	Stored Metric = "stored" // in GiB-hours
)

// Event is the usage of a part of one period, in one metric, for somebody who adds events up.
type Event struct {
	Transaction string // no two events have the same, and each has it for ever
	Account     id.Account
	Sandbox     id.Sandbox
	Snapshot    id.Snapshot // empty for the sandbox itself
	Kind        Kind
	Metric      Metric
	Begin, End  time.Time
	Value       string // a decimal number
}

// Cut cuts the next parts off a period, of which what lies before cut is cut off already: at each full hour up to one, and at the period's end. Of most parts at most. It returns the events of
// the parts, and up to where the period is cut then.
func (p Period) Cut(cut, hour time.Time, most int) ([]Event, time.Time) {
	var events []Event
	for range most {
		next := cut.Truncate(time.Hour).Add(time.Hour)
		switch {
		case !p.End.IsZero() && !next.Before(p.End):
			next = p.End
		case p.End.IsZero() && next.After(hour):
			return events, cut
		}
		if !cut.Before(next) {
			return events, next
		}
		events = append(events, p.part(cut, next)...)
		cut = next
	}
	return events, cut
}

// part returns the events of one part of a period. A value is what was used from the beginning of the period to the end of the part, rounded down, without what was used from the beginning of the
// period to that of the part, rounded down: however the period is cut, the values add up to what it used, rounded down once.
func (p Period) part(begin, end time.Time) []Event {
	before, after := p.In(p.Begin, begin), p.In(p.Begin, end)
	var events []Event
	add := func(m Metric, before, after Quantity, n int64) {
		value := after.Per(n).Minus(before.Per(n))
		if value == (Decimal{}) {
			return
		}
		events = append(events, Event{
			Transaction: p.name() + "." + strconv.FormatInt(begin.UnixMicro(), 10) + "." + string(m),
			Account:     p.Account, Sandbox: p.Sandbox, Snapshot: p.Snapshot, Kind: p.Kind, Metric: m, Begin: begin, End: end, Value: value.String(),
		})
	}
	add(VCPU, before.VCPU, after.VCPU, UnitSeconds)
	add(Memory, before.Memory, after.Memory, GiBSeconds)
	add(Stored, before.stored(), after.stored(), GiBHours)
	return events
}

// name is that of what the period is of. The periods of one name do not overlap, so that with the beginning of a part it names the part.
func (p Period) name() string {
	if p.Snapshot != "" {
		return string(p.Snapshot)
	}
	return string(p.Sandbox)
}

func (a Amount) stored() Quantity { return a.Paused.Plus(a.Hibernated).Plus(a.Snapshot) }
