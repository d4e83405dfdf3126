package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// CacheFor is how long Redis remembers whose key it is, from when the store was asked: the longest that a revoked key
// can go on working, at whichever replica, also when Redis could not be told or a lookup was under way. A key in use costs the store one lookup in that time.
const CacheFor = 900 * time.Millisecond

const (
	// A Redis that answers does so within a millisecond; one that does not costs the first
	// request no more than these, and the following ones nothing.
	redisDialLimit = 50 * time.Millisecond
	redisLimit     = 25 * time.Millisecond
	probeEvery     = 500 * time.Millisecond
)

// Cache is Redis, as far as it is there. After a failure it is left alone, and asked
// in the background until it answers again, so that a dead Redis costs requests nothing.
// A nil Cache remembers nothing.
type Cache struct {
	client *redis.Client
	keep   time.Duration
	log    *slog.Logger
	down   atomic.Bool
	broken chan struct{} // wakes the prober
	cancel context.CancelFunc
	done   chan struct{}
}

// OpenCache returns a cache in the Redis at url (redis://… or unix://…). It does not
// connect yet. The caller must call Close.
func OpenCache(url string, log *slog.Logger) (*Cache, error) {
	logging.Disable() // the library would print every failed connection to stderr, past log
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL of Redis: %w", err)
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = redisDialLimit, redisLimit, redisLimit, redisLimit
	opts.MaxRetries, opts.DialerRetries = -1, 1
	opts.ContextTimeoutEnabled, opts.DisableIdentity = true, true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cache{
		client: redis.NewClient(opts), keep: CacheFor, log: log, broken: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}),
	}
	go c.probe(ctx)
	return c, nil
}

// Close ends the connections and the work in the background.
func (c *Cache) Close() error {
	c.cancel()
	<-c.done
	return c.client.Close()
}

// Check returns an Unavailable error when Redis does not answer.
func (c *Cache) Check(ctx context.Context) error {
	if c.down.Load() {
		return models.Errorf(models.Unavailable, "Redis does not answer")
	}
	if err := c.client.Ping(ctx).Err(); err != nil {
		c.fail(ctx, err)
		return models.Errorf(models.Unavailable, "Redis does not answer").WithCause(err)
	}
	return nil
}

// Forget drops what is remembered of a key, after it was revoked. Where Redis does not answer the entry ends by itself.
func (c *Cache) Forget(ctx context.Context, hash [32]byte) {
	if c.down.Load() {
		return
	}
	if err := c.client.Del(ctx, entry(hash)).Err(); err != nil {
		c.fail(ctx, err)
	}
}

func entry(hash [32]byte) string { return "wrenn:key:" + hex.EncodeToString(hash[:]) }

func (c *Cache) principal(ctx context.Context, hash [32]byte) (Principal, bool) {
	if c == nil || c.down.Load() {
		return Principal{}, false
	}
	text, err := c.client.Get(ctx, entry(hash)).Result()
	if err != nil {
		if !errors.Is(err, redis.Nil) {
			c.fail(ctx, err)
		}
		return Principal{}, false
	}
	return decodePrincipal(text) // what is not ours the store knows better
}

// encodePrincipal writes an entry: the key, the account, the scopes and until when the key is valid, in microseconds.
func encodePrincipal(p Principal) string {
	var until int64
	if !p.until.IsZero() {
		until = p.until.UnixMicro()
	}
	return fmt.Sprintf("%s %s %s %d", p.Key, p.Account, strings.Join(texts(p.Scopes), ","), until)
}

func decodePrincipal(text string) (Principal, bool) {
	parts := strings.Split(text, " ")
	if len(parts) != 4 || parts[1] == "" {
		return Principal{}, false
	}
	key, keyErr := id.ParseKey(parts[0])
	scopes, scopeErr := ParseScopes(strings.Split(parts[2], ","))
	until, numberErr := strconv.ParseInt(parts[3], 10, 64)
	p := Principal{Key: key, Account: id.Account(parts[1]), Scopes: scopes}
	if until != 0 {
		p.until = time.UnixMicro(until)
	}
	return p, keyErr == nil && scopeErr == nil && numberErr == nil
}

// remember keeps an entry that was true when began was.
func (c *Cache) remember(ctx context.Context, hash [32]byte, p Principal, began time.Time) {
	if c == nil || c.down.Load() {
		return
	}
	left := c.keep - time.Since(began)
	if left < time.Millisecond { // Redis counts in those
		return
	}
	if err := c.client.Set(ctx, entry(hash), encodePrincipal(p), left).Err(); err != nil {
		c.fail(ctx, err)
	}
}

// fail stops the use of Redis, unless it was the caller who gave up.
func (c *Cache) fail(ctx context.Context, err error) {
	if ctx.Err() != nil || c.down.Swap(true) {
		return
	}
	c.log.Warn("Redis does not answer: going on without it", "error", err)
	select {
	case c.broken <- struct{}{}:
	default:
	}
}

// probe asks a Redis that failed until it answers.
func (c *Cache) probe(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-c.broken:
		case <-ctx.Done():
			return
		}
		for c.client.Ping(ctx).Err() != nil {
			select {
			case <-time.After(probeEvery):
			case <-ctx.Done():
				return
			}
		}
		c.down.Store(false)
		c.log.Info("Redis answers again")
	}
}
