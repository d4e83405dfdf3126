package usage

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestEventsAddUp: however often a period is cut, and wherever it is when it is, its events add up to what it has used, and none comes twice.
func TestEventsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := aPeriod(t)
		p.Sandbox = "sb-00000001"
		sums := map[Metric]*big.Rat{VCPU: new(big.Rat), Memory: new(big.Rat), Stored: new(big.Rat)}
		seen := map[string]bool{}
		cut := p.Begin
		take := func(p Period, hour time.Time, most int) {
			var events []Event
			if events, cut = p.Cut(cut, hour, most); cut.After(hour) && p.End.IsZero() && len(events) > 0 {
				t.Fatalf("cut beyond %s", hour)
			}
			for _, e := range events {
				value, ok := new(big.Rat).SetString(e.Value)
				if seen[e.Transaction] || !ok || value.Sign() <= 0 || e.End.Sub(e.Begin) > time.Hour || !strings.HasPrefix(e.Transaction, "sb-00000001.") {
					t.Fatalf("%+v", e)
				}
				seen[e.Transaction] = true
				sums[e.Metric].Add(sums[e.Metric], value)
			}
		}
		lasts, last := p, p.End
		lasts.End = time.Time{}
		if last.IsZero() {
			last = at(week)
		}
		for _, now := range cuts(t, 0, max(1, last.Sub(start).Microseconds())) {
			take(lasts, now.Truncate(time.Hour), rapid.IntRange(1, 30).Draw(t, "most"))
		}
		if p.End = last; cut.After(p.End) {
			t.Fatalf("cut at %s, but it has ended at %s", cut, p.End)
		}
		for range 100 { // more than enough for a week
			take(p, last, 10)
		}
		whole := p.In(p.Begin, p.End)
		for metric, want := range map[Metric]Decimal{VCPU: whole.VCPU.Per(UnitSeconds), Memory: whole.Memory.Per(GiBSeconds), Stored: whole.stored().Per(GiBHours)} {
			if exact, _ := new(big.Rat).SetString(want.String()); sums[metric].Cmp(exact) != 0 {
				t.Fatalf("%s: %s, not %s", metric, sums[metric].FloatString(9), want)
			}
		}
		if !cut.Equal(p.End) {
			t.Fatalf("cut up to %s, not %s", cut, p.End)
		}
	})
}
