package firecracker

import "time"

// backoff waits longer the longer a thing takes: a tenth of the time gone by, within limits.
type backoff struct {
	since time.Time
}

const minWait, maxWait = time.Millisecond, 100 * time.Millisecond

func newBackoff() backoff { return backoff{since: time.Now()} }

func (b backoff) after() <-chan time.Time {
	return time.After(min(max(time.Since(b.since)/10, minWait), maxWait))
}
