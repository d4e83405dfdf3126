package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clockTolerance is how wrong the clock may be without being set: the host's time is
// older than that by the time it arrives.
const clockTolerance = 50 * time.Millisecond

// setClock sets the wall clock. In a guest restored from a snapshot it is late by as long
// as the guest was frozen.
func setClock(now time.Time) error {
	if now.IsZero() || time.Until(now).Abs() <= clockTolerance {
		return nil
	}
	spec := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &spec); err != nil {
		return fmt.Errorf("to %s: %w", now, err)
	}
	if time.Since(now) < 0 {
		return fmt.Errorf("to %s: %w", now, errNotSet)
	}
	return nil
}
