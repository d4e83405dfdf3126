// Package stacktest gives tests a real Postgres and a real Redis.
//
// One stack serves all tests of a test binary; each test gets a database of its own. A
// binary with many such tests should say
//
//	func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }
//
// so that the stack lives until its end; otherwise it ends with each test and the next
// one waits some 200 ms for another.
package stacktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// timeout bounds each step of making and ending what tests use.
const timeout = 2 * time.Minute

// Databases are one test's own.
type Databases struct {
	PostgresURL string // an empty database, for pgx
	RedisURL    string // an empty numbered database, for go-redis; channels are shared by all tests of the binary
}

// shared is the stack of this test binary.
var shared struct {
	mu      sync.Mutex // guards all of the following
	stack   *devstack.Stack
	dir     string
	users   int
	hold    bool // Main keeps the stack between tests
	created int  // databases so far
}

// Main runs the tests of a binary and then ends the stack they used. It returns the exit status.
func Main(m *testing.M) int {
	shared.mu.Lock()
	shared.hold = true
	shared.mu.Unlock()
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.hold = false
	if err := endIfIdle(); err != nil {
		fmt.Fprintln(os.Stderr, "stacktest:", err)
		code = max(code, 1)
	}
	return code
}

// ForTest returns databases for t, which are dropped when t ends. Where Postgres or
// Redis are not installed, t is skipped or fails as testlane says.
func ForTest(t testing.TB) Databases {
	t.Helper()
	if _, err := devstack.FindBinaries(); err != nil {
		testlane.Missing(t, err.Error())
	}
	stack, n := acquire(t)
	t.Cleanup(func() { release(t) })
	name := fmt.Sprintf("test_%d", n)
	execute(t, stack, "CREATE DATABASE "+name)
	t.Cleanup(func() { execute(t, stack, "DROP DATABASE "+name+" WITH (FORCE)") })
	return Databases{PostgresURL: inDatabase(t, stack.PostgresURL, name), RedisURL: redisDatabase(t, stack.RedisURL, n)}
}

func acquire(t testing.TB) (*devstack.Stack, int) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.stack == nil {
		if err := begin(); err != nil {
			t.Fatalf("start databases for tests: %v", err)
		}
	}
	shared.users++
	shared.created++
	return shared.stack, shared.created
}

func release(t testing.TB) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.users--
	if err := endIfIdle(); err != nil {
		t.Errorf("end databases of tests: %v", err)
	}
}

// begin starts the stack; the caller holds the lock.
func begin() error {
	sweep()
	dir, err := os.MkdirTemp(base(), prefix)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stack, err := devstack.Start(ctx, devstack.Options{Dir: dir, NoSync: true, Cache: devstack.DefaultCache(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	shared.stack, shared.dir = stack, dir
	return nil
}

// endIfIdle stops the stack when nobody uses or holds it; the caller holds the lock.
func endIfIdle() error {
	if shared.stack == nil || shared.users > 0 || shared.hold {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stack, dir := shared.stack, shared.dir
	shared.stack, shared.dir = nil, ""
	if err := stack.Stop(ctx); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

const prefix = "wrenn-stacktest-"

// base is where stacks are made: in memory where 4 GiB of it are free, because a database is some
// 300 files, which takes a disk 200 ms to make and memory 40 ms.
func base() string {
	const memory = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC && fs.Bavail*uint64(fs.Bsize) >= 4<<30 {
		return memory
	}
	return os.TempDir()
}

// sweep removes what test binaries left that were killed: folders whose lock nobody holds.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(base(), prefix+"*", "lock")) // fails only on a bad pattern
	for _, lock := range left {
		if info, err := os.Stat(lock); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue // perhaps about to be locked
		}
		release, err := devstack.Lock(lock)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(filepath.Dir(lock)) // best effort: a server may still be ending in it
		release()
	}
}

func execute(t testing.TB, stack *devstack.Stack, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, stack.PostgresURL)
	if err != nil {
		t.Errorf("connect to the tests' Postgres: %v", err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func inDatabase(t testing.TB, postgresURL, name string) string {
	t.Helper()
	u, err := url.Parse(postgresURL)
	if err != nil {
		t.Fatalf("parse URL of Postgres: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// redisDatabase empties the nth numbered database, beginning anew after the last, and returns its URL.
func redisDatabase(t testing.TB, redisURL string, n int) string {
	t.Helper()
	u, err := url.Parse(redisURL)
	if err != nil {
		t.Fatalf("parse URL of Redis: %v", err)
	}
	u.RawQuery = url.Values{"db": {strconv.Itoa(1 + (n-1)%(devstack.RedisDatabases-1))}}.Encode()
	opts, err := redis.ParseURL(u.String())
	if err != nil {
		t.Fatalf("parse URL of Redis: %v", err)
	}
	client := redis.NewClient(opts)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := client.FlushDB(ctx).Err(); err != nil {
		t.Fatalf("empty Redis database: %v", err)
	}
	return u.String()
}
