package vmtest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// BenchmarkSnapshot reports how long it takes to snapshot a VM of 256 MiB that was itself restored, as snapshot-ms, and from
// Prepare to the guest's first answer, as restore-ms, both medians.
func BenchmarkSnapshot(b *testing.B, subject Subject) {
	w := newWorld(b, subject, buildGuest(b))
	spec := w.spec()
	spec.MemoryMiB = 256
	running := w.boot(spec)
	f := w.snapshot(running, "first")
	_, err := running.Kill()
	w.must(err)
	var snapshots, restores []time.Duration
	for b.Loop() {
		clone := w.clone(f)
		clone.MemoryMiB = 256
		start := time.Now()
		running := w.restoreAs(clone, f)
		w.checkHealth(running)
		restores = append(restores, time.Since(start))
		to := vm.Files{State: filepath.Join(w.root, "vm-state"), Memory: filepath.Join(w.root, "vm-memory")}
		start = time.Now()
		w.must(running.Snapshot(w.ctx(), to))
		snapshots = append(snapshots, time.Since(start))
		_, err := running.Kill()
		w.must(err)
		w.must(os.Remove(to.State))
		w.must(os.Remove(to.Memory))
	}
	slices.Sort(snapshots)
	slices.Sort(restores)
	b.ReportMetric(float64(snapshots[len(snapshots)/2].Microseconds())/1000, "snapshot-ms")
	b.ReportMetric(float64(restores[len(restores)/2].Microseconds())/1000, "restore-ms")
}
