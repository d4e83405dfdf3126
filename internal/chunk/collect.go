package chunk

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Collected is what a collection did.
type Collected struct {
	Roots     int
	Chunks    int   // that were there
	Condemned int   // of these: named by nobody, and old enough
	Deleted   int   // of these: still named by nobody when every upload that could have relied on them was over
	Bytes     int64 // that they took
}

// maxCondemned is how much one collection deletes; the next goes on.
const maxCondemned = 100_000

// deletes is how many go on at the same time.
const deletes = 16

// Collect deletes the chunks that no root names. It waits for the uploads that were under way when it had condemned them, at most leaseTime.
// Several may run at the same time. After an error, or when it is killed, nothing is wrong, and the next one does what is left.
func (p *Pool) Collect(ctx context.Context) (Collected, error) {
	c := collection{pool: p, id: strings.ToLower(rand.Text())}
	if err := c.run(ctx); err != nil {
		return c.Collected, fmt.Errorf("collect chunks: %w", err)
	}
	return c.Collected, nil
}

// collection is one run. It deletes what it has condemned itself, and nothing else: what a killed one condemned is condemned again.
type collection struct {
	Collected
	pool *Pool
	id   string
}

func (c *collection) run(ctx context.Context) error {
	now, err := c.pool.clock(ctx)
	if err != nil {
		return err
	}
	if err := c.forget(ctx, now); err != nil {
		return err
	}
	dead, err := c.dead(ctx, now)
	if err != nil || len(dead) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime) // from before the list is put: so it is there for longer than any delete may take
	defer cancel()
	if err := c.condemn(ctx, dead); err != nil {
		return err
	}
	if err := c.waitForUploads(ctx); err != nil {
		return err
	}
	named, err := c.pool.named(ctx) // after the uploads were over: what they put is in it
	if err != nil {
		return err
	}
	return c.sweep(ctx, dead, named)
}

// clock returns the store's time: that of an object which was put just now.
func (p *Pool) clock(ctx context.Context) (time.Time, error) {
	if err := p.Objects.Put(ctx, clockKey, nil); err != nil {
		return time.Time{}, err
	}
	info, err := p.Objects.Stat(ctx, clockKey)
	return info.Modified, err
}

// forget removes what lasts for a time only: leases of uploads that are overdue, lists of condemned of which no delete is under way any more, intents
// whose root cannot come any more.
func (c *collection) forget(ctx context.Context, now time.Time) error {
	for _, kind := range []struct {
		prefix string
		after  time.Duration
	}{{leasePrefix, leaseTime}, {condemnedPrefix, recordTime}, {intentPrefix, recordTime}} {
		for info, err := range c.pool.Objects.List(ctx, kind.prefix) {
			if err != nil {
				return err
			}
			if now.Sub(info.Modified) <= kind.after {
				continue
			}
			if err := c.pool.delete(ctx, info.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Pool) delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return p.Objects.Delete(ctx, key)
}

// dead returns the chunks, with their sizes, that nobody names and that are old enough.
func (c *collection) dead(ctx context.Context, now time.Time) (map[Name]int64, error) {
	named, err := c.pool.named(ctx)
	if err != nil {
		return nil, err
	}
	c.Roots = named.roots
	dead := map[Name]int64{}
	for info, err := range c.pool.Objects.List(ctx, chunkPrefix) {
		if err != nil {
			return nil, err
		}
		name, err := ParseName(info.Key[strings.LastIndexByte(info.Key, '/')+1:])
		if err != nil || name.key() != info.Key { // not ours: it stays
			continue
		}
		c.Chunks++
		if !named.chunks[name] && now.Sub(info.Modified) > c.pool.Grace && len(dead) < maxCondemned {
			dead[name] = info.Size
		}
	}
	c.Condemned = len(dead)
	return dead, nil
}

// naming is what roots name.
type naming struct {
	roots  int
	chunks map[Name]bool
}

// named reads every intent, and then every root: an intent goes only when its root is there, or cannot come any more. So a root that comes meanwhile is found
// as one or as the other.
func (p *Pool) named(ctx context.Context) (naming, error) {
	n := naming{chunks: map[Name]bool{}}
	for _, prefix := range []string{intentPrefix, rootPrefix} {
		for info, err := range p.Objects.List(ctx, prefix) {
			if err != nil {
				return naming{}, err
			}
			if err := p.addNames(ctx, info.Key, n.chunks); err != nil {
				return naming{}, err
			}
			if prefix == rootPrefix {
				n.roots++
			}
		}
	}
	return n, nil
}

// addNames fails when it cannot know what the root names: then nothing may be collected.
func (p *Pool) addNames(ctx context.Context, key string, chunks map[Name]bool) error {
	root, err := p.root(ctx, key)
	if err != nil && models.CodeOf(err) == models.NotFound { // removed meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	names, err := p.Names(root)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	for name := range names {
		chunks[name] = true
	}
	return nil
}

// waitForUploads returns when the uploads that are under way now are over. They may rely on what has just been condemned; those that begin later do not.
func (c *collection) waitForUploads(ctx context.Context) error {
	waiting, err := c.leases(ctx)
	for pause := 100 * time.Millisecond; err == nil && len(waiting) > 0; pause = min(2*pause, 10*time.Second) {
		if err = sleep(ctx, pause); err != nil {
			return err
		}
		waiting, err = c.stillWaiting(ctx, waiting)
	}
	return err
}

// stillWaiting returns those of the leases that are there still, of which it takes away what is overdue.
func (c *collection) stillWaiting(ctx context.Context, leases map[string]time.Time) (map[string]time.Time, error) {
	now, err := c.pool.clock(ctx)
	if err != nil {
		return nil, err
	}
	there, err := c.leases(ctx)
	if err != nil {
		return nil, err
	}
	still := map[string]time.Time{}
	for key, since := range leases {
		if _, ok := there[key]; !ok {
			continue
		}
		if now.Sub(since) <= leaseTime {
			still[key] = since
		} else if err := c.pool.delete(ctx, key); err != nil {
			return nil, err
		}
	}
	return still, nil
}

func (c *collection) leases(ctx context.Context) (map[string]time.Time, error) {
	leases := map[string]time.Time{}
	for info, err := range c.pool.Objects.List(ctx, leasePrefix) {
		if err != nil {
			return nil, err
		}
		leases[info.Key] = info.Modified
	}
	return leases, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sweep deletes the dead that are not named after all.
func (c *collection) sweep(ctx context.Context, dead map[Name]int64, named naming) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deletes)
	for name, size := range dead {
		if named.chunks[name] {
			continue
		}
		c.Deleted++
		c.Bytes += size
		group.Go(func() error { return c.pool.Objects.Delete(ctx, name.key()) })
	}
	return group.Wait()
}
