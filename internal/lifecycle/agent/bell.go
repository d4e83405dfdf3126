package agent

import (
	"context"
	"time"
)

// bell tells a worker that there is something to do. It is heard once, however often it was rung meanwhile.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) nudge() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// await waits until there may be something to do, or for a while.
func (b bell) await(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-b:
	case <-timer.C:
	}
}
