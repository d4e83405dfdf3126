package qemu

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// readTSC reads the processor's time stamp counter.
func readTSC() uint64

// tscPeriod is how long the counter is observed. Each end is read to within about 100 ns, which is 1 ppm of it.
const tscPeriod = 100 * time.Millisecond

// measureTSC returns the frequency of the processor's time stamp counter in kHz. A guest under TCG reads that counter,
// and its kernel cannot measure it against the emulated timers. It takes tscPeriod.
func measureTSC(ctx context.Context) (int64, error) {
	start, startTSC := readBoth()
	select {
	case <-time.After(tscPeriod):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	end, endTSC := readBoth()
	return int64(float64(endTSC-startTSC) * 1e6 / float64(end-start)), nil // per ns, times 1e6, is kHz
}

// readBoth reads clock and counter at the same moment: of several attempts it returns the one that took the
// fewest cycles, in which the thread was not interrupted.
func readBoth() (ns int64, tsc uint64) {
	least := ^uint64(0)
	for range 20 {
		before := readTSC()
		now := monotonicRaw()
		after := readTSC()
		if after-before < least {
			least, ns, tsc = after-before, now, before+(after-before)/2
		}
	}
	return ns, tsc
}

// monotonicRaw reads, in nanoseconds, the clock that no time daemon adjusts.
func monotonicRaw() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC_RAW): " + err.Error()) // since Linux 2.6.28
	}
	return t.Nano()
}
