package usage

import (
	"encoding/json"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 2, 27, 22, 30, 0, 0, time.UTC)

// at is so many microseconds after start.
func at(micros int64) time.Time { return start.Add(time.Duration(micros) * time.Microsecond) }

const week = 7 * 24 * 3600 * microsPerSecond

// aPeriod draws a period of a week's time, from nothing at all to one that does not end.
func aPeriod(t *rapid.T) Period {
	begin := rapid.Int64Range(0, week).Draw(t, "begin")
	p := Period{Kind: rapid.SampledFrom([]Kind{Running, Paused, Hibernated, Snapshot}).Draw(t, "kind"), Begin: at(begin)}
	if p.Kind == Running {
		p.VCPUs, p.MemoryMiB = rapid.Int64Range(1, 32).Draw(t, "vcpus"), rapid.Int64Range(128, 65536).Draw(t, "memory")
	} else {
		p.StoredMiB = rapid.Int64Range(1, 1<<20).Draw(t, "stored")
	}
	if rapid.Bool().Draw(t, "ended") {
		p.End = at(rapid.Int64Range(begin, week).Draw(t, "end"))
	}
	return p
}

// cuts draws times in order, from the first one to the last one.
func cuts(t *rapid.T, from, to int64) []time.Time {
	var all []time.Time
	for _, micros := range slices.Sorted(slices.Values(append(rapid.SliceOfN(rapid.Int64Range(from, to), 0, 20).Draw(t, "cuts"), from, to))) {
		all = append(all, at(micros))
	}
	return all
}

// TestPartsAreTheWhole: what is counted of the parts of any time is, together, what is counted of the whole; and that is what it must be.
func TestPartsAreTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := aPeriod(t)
		parts := cuts(t, rapid.Int64Range(-week, 0).Draw(t, "from"), rapid.Int64Range(0, 2*week).Draw(t, "to"))
		from, to := parts[0], parts[len(parts)-1]
		var sum, days Amount
		for i := range parts[1:] {
			sum = sum.Plus(p.In(parts[i], parts[i+1]))
		}
		p.ByDay(from, to, func(_ time.Time, a Amount) { days = days.Plus(a) })
		whole := p.In(from, to)
		if sum != whole || days != whole {
			t.Fatalf("the parts are %+v, the days %+v, the whole %+v", sum, days, whole)
		}
		last := p.End
		if last.IsZero() || last.After(to) {
			last = to
		}
		if want := p.VCPUs * max(0, last.Sub(p.Begin).Microseconds()); whole.VCPU.Seconds*microsPerSecond+whole.VCPU.Micros != want {
			t.Fatalf("%+v, not %d vCPU-microseconds", whole.VCPU, want)
		}
	})
}

// TestAmountIsOfItsKind: each kind counts as what it is, and nothing else.
func TestAmountIsOfItsKind(t *testing.T) {
	to := start.Add(90 * time.Second)
	q := Quantity{Seconds: 90 * 768}
	for kind, want := range map[Kind]Amount{Paused: {Paused: q}, Hibernated: {Hibernated: q}, Snapshot: {Snapshot: q}} {
		if got := (Period{Kind: kind, StoredMiB: 768, Begin: start}).In(start, to); got != want {
			t.Errorf("%s: %+v", kind, got)
		}
	}
	if got := (Period{Kind: Running, VCPUs: 2, MemoryMiB: 768, Begin: start}).In(start, to); got != (Amount{VCPU: Quantity{Seconds: 180}, Memory: q}) {
		t.Errorf("running: %+v", got)
	}
}

func TestByDay(t *testing.T) {
	p := Period{Kind: Running, VCPUs: 1, Begin: start, End: start.Add(26 * time.Hour)} // until 00:30 of the day after the next one
	var days []string
	p.ByDay(start.Add(time.Hour), start.AddDate(1, 0, 0), func(day time.Time, a Amount) {
		days = append(days, day.Format(time.DateOnly)+" "+a.VCPU.Per(GiBHours/1024).String())
	})
	if want := []string{"2026-02-27 0.5", "2026-02-28 24", "2026-03-01 0.5"}; !slices.Equal(days, want) {
		t.Errorf("%q, not %q", days, want)
	}
}

// TestDecimal: a decimal is the quantity, rounded down, whatever its size.
func TestDecimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Quantity{Seconds: rapid.Int64Range(0, 1<<62).Draw(t, "seconds"), Micros: rapid.Int64Range(0, microsPerSecond-1).Draw(t, "micros")}
		n := rapid.SampledFrom([]int64{UnitSeconds, GiBSeconds, GiBHours}).Draw(t, "n")
		nanos := new(big.Int).Mul(big.NewInt(q.Seconds), big.NewInt(nanosPerUnit))
		nanos.Add(nanos, big.NewInt(q.Micros*nanosPerMicro))
		nanos.Div(nanos, big.NewInt(n))
		text, err := json.Marshal(q.Per(n))
		if err != nil {
			t.Fatal(err)
		}
		got, ok := new(big.Rat).SetString(string(text))
		if !ok || got.Cmp(new(big.Rat).SetFrac(nanos, big.NewInt(nanosPerUnit))) != 0 {
			t.Fatalf("%+v per %d is %s, not %d billionths", q, n, text, nanos)
		}
	})
	for d, want := range map[Decimal]string{{}: "0", {10, 0}: "10", {0, 1}: "0.000000001", {1200, 500_000_000}: "1200.5"} {
		if d.String() != want {
			t.Errorf("%+v is %s", d, d)
		}
	}
}
