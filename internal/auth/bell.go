package auth

import (
	"context"
	"time"
)

// bellChannel is where replicas tell each other that there are new events.
const bellChannel = "wrenn:events"

// Ring tells the other replicas that there are new events, if Redis answers.
func (c *Cache) Ring(ctx context.Context) {
	if c == nil || c.down.Load() {
		return
	}
	if err := c.client.Publish(ctx, bellChannel, "").Err(); err != nil {
		c.fail(ctx, err)
	}
}

// Listen calls wake when a replica has rung, until ctx ends. While Redis does not answer it hears nothing.
func (c *Cache) Listen(ctx context.Context, wake func()) {
	for ctx.Err() == nil {
		c.hear(ctx, wake)
		select {
		case <-time.After(probeEvery):
		case <-ctx.Done():
		}
	}
}

// hear is Listen until the connection breaks.
func (c *Cache) hear(ctx context.Context, wake func()) {
	bell := c.client.Subscribe(ctx, bellChannel)
	defer bell.Close()
	defer context.AfterFunc(ctx, func() { bell.Close() })()
	for {
		if _, err := bell.ReceiveTimeout(ctx, 0); err != nil { // 0: as long as it takes
			return
		}
		wake() // also for the answer to the subscription: something may have been missed before
	}
}
