package snapshot

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkSleepAndWake takes a sandbox through its nights, each as a VM restored from the one before, and reports the medians of: pause-ms, from
// the order to freeze it until its snapshot is stored and its VM gone; restore-ms, until its guest runs; resume-ms, from there until
// it has given its certificate; exec-ms, from there to the end of its first program.
func BenchmarkSleepAndWake(b *testing.B) {
	l := newLab(b, true)
	s := l.slot(1)
	m, token := l.boot(s), "golden-token"
	m.run("true")
	times := map[string][]time.Duration{}
	measure := func(what string, do func()) {
		start := time.Now()
		do()
		times[what] = append(times[what], time.Since(start))
	}
	for n := 0; b.Loop(); n++ {
		var asleep Snapshot
		measure("pause", func() {
			asleep = m.store("sb-sleeper", Pause)
			_, err := m.Kill()
			must(b, err)
		})
		measure("restore", func() { m = l.restore("night-"+strconv.Itoa(n), asleep, s, token) })
		renewed := identity("sleeper", s)
		measure("resume", func() {
			_, err := m.guest.Resume(l.ctx(), renewed)
			must(b, err)
		})
		token = renewed.Token
		measure("exec", func() { m.run("true") })
	}
	for what, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-ms")
	}
}
