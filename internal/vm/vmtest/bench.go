package vmtest

import (
	"slices"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// BenchmarkBoot reports how long it takes from Start to the guest's first answer, as p50-ms and max-ms.
func BenchmarkBoot(b *testing.B, subject Subject, vcpus int) {
	image := buildGuest(b)
	w := newWorld(b, subject, image)
	var took []time.Duration
	for b.Loop() {
		spec := w.spec()
		spec.VCPUs, spec.MemoryMiB = vcpus, 256
		configured, err := subject.Driver.Configure(b.Context(), spec)
		w.must(err)
		start := time.Now()
		running, err := configured.Start(b.Context())
		w.must(err)
		w.keep(running)
		w.checkHealth(running)
		took = append(took, time.Since(start))
		_, err = running.Kill()
		w.must(err)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}

// BenchmarkIdle reports what share of a processor a VM takes on the host while nothing happens in it, as cpu-%, over ten
// seconds for each iteration.
func BenchmarkIdle(b *testing.B, subject Subject, vcpus int) {
	w := newWorld(b, subject, buildGuest(b))
	spec := w.spec()
	spec.VCPUs, spec.MemoryMiB = vcpus, 256
	running := w.boot(spec)
	<-time.After(2 * time.Second) // for what the guest still does after its boot
	start, startCPU := time.Now(), w.cpuTime(running)
	for b.Loop() {
		<-time.After(10 * time.Second)
	}
	share := float64(w.cpuTime(running)-startCPU) / float64(time.Since(start))
	b.ReportMetric(100*share, "cpu-%")
}

func (w *world) cpuTime(running vm.Running) time.Duration {
	w.Helper()
	took, err := cpuTime(running.Saved().PID)
	w.must(err)
	return took
}
