package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

// counted is a store that counts how often it is asked for keys.
type counted struct {
	*db.Store
	mu    sync.Mutex // guards asked
	asked int
}

func (c *counted) KeyByHash(ctx context.Context, hash [32]byte) (db.ValidKey, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	return c.Store.KeyByHash(ctx, hash)
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// setUp returns a store with one key, and the URL of an empty Redis.
func setUp(t *testing.T) (store *counted, key Secret, keyID id.Key, redisURL string) {
	t.Helper()
	dbs := stacktest.ForTest(t)
	if _, err := db.MigrateUp(t.Context(), dbs.PostgresURL); err != nil {
		t.Fatal(err)
	}
	s, err := db.Open(t.Context(), dbs.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	key = NewSecret()
	keyID, err = Keep(t.Context(), s, "acme", "ci", key, []Scope{Admin}, time.Time{}, db.By{Actor: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	return &counted{Store: s}, key, keyID, dbs.RedisURL
}

func openCache(t *testing.T, url string) *Cache {
	t.Helper()
	c, err := OpenCache(url, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.keep = time.Hour // however slow the machine is
	return c
}

func TestSecret(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if a == b || !a.WellFormed() || len(a) != 36 {
		t.Errorf("NewSecret gave %q and %q", string(a), string(b))
	}
	for _, shown := range []string{fmt.Sprint(a), fmt.Sprintf("%v %s %#v %q", a, a, a, a)} {
		if strings.Contains(shown, string(a)[4:]) {
			t.Errorf("a secret prints as %s", shown)
		}
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", a)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", a)
	if strings.Contains(log.String(), string(a)[4:]) {
		t.Errorf("a secret is logged: %s", log.String())
	}
	for _, bad := range []Secret{"", "wrn_", "wrn_" + Secret(strings.Repeat("A", 32)), a + "0", a[:35], " " + a, a + "\n"} {
		if bad.WellFormed() {
			t.Errorf("%q is taken for a key", string(bad))
		}
	}
}

func TestAuthenticate(t *testing.T) {
	store, key, keyID, redisURL := setUp(t)
	for name, cache := range map[string]*Cache{"with Redis": openCache(t, redisURL), "without Redis": nil} {
		a := New(store, cache, quiet)
		before := store.count()
		for range 10 {
			if p, err := a.Authenticate(t.Context(), key); err != nil || p.Key != keyID || p.Account == "" {
				t.Fatalf("%s: %+v, %v", name, p, err)
			}
		}
		if asked := store.count() - before; cache != nil && asked != 1 {
			t.Errorf("%s: the store was asked %d times, want once", name, asked)
		}
		for _, bad := range []Secret{"", "x", NewSecret()} {
			if _, err := a.Authenticate(t.Context(), bad); models.CodeOf(err) != models.Unauthenticated {
				t.Errorf("%s: key %q: %v", name, string(bad), err)
			}
		}
		a.Close()
	}
	keys, err := store.Keys(t.Context())
	if err != nil || keys[0].LastUsedAt.IsZero() {
		t.Errorf("last use not recorded: %+v, %v", keys, err)
	}
}

func TestRevokedKeyIsRefusedAtOnce(t *testing.T) {
	store, key, keyID, redisURL := setUp(t)
	cache := openCache(t, redisURL)
	a := New(store, cache, quiet)
	defer a.Close()
	if _, err := a.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := Revoke(t.Context(), store, cache, "", keyID, db.By{Actor: "operator"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), key); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a revoked key: %v", err)
	}
}

// TestRedisGone: a Redis that is not there, or that takes connections and says nothing, costs
// no request its answer.
func TestRedisGone(t *testing.T) {
	store, key, _, _ := setUp(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, url := range map[string]string{
		"absent": "unix:///nonexistent/redis.sock", "silent": "redis://" + silent.Addr().String(),
	} {
		cache := openCache(t, url)
		a := New(store, cache, quiet)
		for range 20 {
			if _, err := a.Authenticate(t.Context(), key); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !cache.down.Load() {
			t.Errorf("%s: Redis is still asked", name)
		}
		if err := cache.Check(t.Context()); models.CodeOf(err) != models.Unavailable {
			t.Errorf("%s: Check: %v", name, err)
		}
		a.Close()
	}
}

// TestRedisComesBack: after a failure the cache is used again as soon as Redis answers.
func TestRedisComesBack(t *testing.T) {
	store, key, _, redisURL := setUp(t)
	cache := openCache(t, redisURL)
	a := New(store, cache, quiet)
	defer a.Close()
	cache.fail(t.Context(), errors.New("cut off"))
	if _, err := a.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); cache.down.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if err := cache.Check(t.Context()); err != nil {
		t.Fatalf("Redis is not used again: %v", err)
	}
	before := store.count()
	for range 3 {
		if _, err := a.Authenticate(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if asked := store.count() - before; asked > 1 {
		t.Errorf("the store was asked %d times with Redis back", asked)
	}
}

// TestCallerWhoGivesUpIsNoFailureOfRedis: one impatient client must not cost the others the cache.
func TestCallerWhoGivesUpIsNoFailureOfRedis(t *testing.T) {
	store, key, _, redisURL := setUp(t)
	cache := openCache(t, redisURL)
	a := New(store, cache, quiet)
	defer a.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Authenticate(gone, key); err == nil {
		t.Error("a cancelled request was answered")
	}
	if cache.down.Load() {
		t.Error("Redis is taken for dead")
	}
}

func TestForeignEntryIsIgnored(t *testing.T) {
	store, key, keyID, redisURL := setUp(t)
	cache := openCache(t, redisURL)
	a := New(store, cache, quiet)
	defer a.Close()
	for _, text := range []string{"", "x", "key-zz acc-1", "key-00000001", "key-00000001 ", "key-00000001 acc-1", "key-00000001 acc-1 root 0", "key-00000001 acc-1 admin x", "key-00000001  admin 0"} {
		if err := cache.client.Set(t.Context(), entry(key.Hash()), text, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if p, err := a.Authenticate(t.Context(), key); err != nil || p.Key != keyID {
			t.Errorf("entry %q gave %+v, %v", text, p, err)
		}
	}
}

func TestKeepRefusesBadNames(t *testing.T) {
	store, _, _, _ := setUp(t)
	for _, bad := range []string{"", "  ", "a\nb", strings.Repeat("x", 129), "\xff"} {
		for _, pair := range [][2]string{{bad, "ok"}, {"ok", bad}} {
			if _, err := Keep(t.Context(), store, pair[0], pair[1], NewSecret(), []Scope{Admin}, time.Time{}, db.By{}); models.CodeOf(err) != models.Invalid {
				t.Errorf("account %q, name %q: %v", pair[0], pair[1], err)
			}
		}
	}
}

// slow is a store whose lookups take as long as the test wants.
type slow struct {
	*counted
	during func()
}

func (s slow) KeyByHash(ctx context.Context, hash [32]byte) (db.ValidKey, error) {
	k, err := s.counted.KeyByHash(ctx, hash)
	s.during()
	return k, err
}

// TestRevokedKeyIsRefusedInTime: also where the cache was not told, or a lookup was under way that had found it valid, nothing is remembered for longer than CacheFor.
func TestRevokedKeyIsRefusedInTime(t *testing.T) {
	if CacheFor >= time.Second {
		t.Errorf("a key is remembered for %s", CacheFor)
	}
	store, key, keyID, redisURL := setUp(t)
	cache := openCache(t, redisURL)
	cache.keep = CacheFor
	a := New(slow{store, func() {}}, cache, quiet)
	defer a.Close()
	if _, err := a.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if left := cache.client.PTTL(t.Context(), entry(key.Hash())).Val(); left > CacheFor {
		t.Errorf("it is remembered for %s", left)
	}
	cache.client.FlushDB(t.Context())
	late := New(slow{store, func() { time.Sleep(CacheFor) }}, cache, quiet)
	defer late.Close()
	if _, err := late.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if n := cache.client.DBSize(t.Context()).Val(); n != 0 {
		t.Error("what was true a while ago is remembered")
	}
	if err := Revoke(t.Context(), store, nil, "", keyID, db.By{Actor: "operator"}); err != nil { // by a control plane that has no Redis
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), key); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a revoked key: %v", err)
	}
}

// TestExpiry: a key works until it expires, remembered or not, and tells what it may do.
func TestExpiry(t *testing.T) {
	store, _, _, redisURL := setUp(t)
	for name, cache := range map[string]*Cache{"with Redis": openCache(t, redisURL), "without Redis": nil} {
		a := New(store, cache, quiet)
		defer a.Close()
		key, expires := NewSecret(), time.Now().Add(time.Hour)
		if _, err := Keep(t.Context(), store, "acme", "short", key, []Scope{Guest, Keys}, expires, db.By{Actor: "operator"}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			p, err := a.Authenticate(t.Context(), key)
			if err != nil || p.Require(Guest) != nil || models.CodeOf(p.Require(WriteSandboxes)) != models.Forbidden || !p.until.Equal(expires.Truncate(time.Microsecond)) {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		}
		gone := NewSecret()
		if _, err := Keep(t.Context(), store, "acme", "gone", gone, []Scope{Guest}, time.Now().Add(-time.Second), db.By{Actor: "operator"}); err != nil {
			t.Fatal(err)
		}
		cache.remember(t.Context(), gone.Hash(), Principal{Key: "key-00000001", Account: "acc-00000001", Scopes: []Scope{Guest}, until: time.Now()}, time.Now())
		if _, err := a.Authenticate(t.Context(), gone); models.CodeOf(err) != models.Unauthenticated {
			t.Errorf("%s: an expired key: %v", name, err)
		}
	}
}
