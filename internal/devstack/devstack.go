// Package devstack runs a private Postgres and a private Redis for one machine, from the
// installed packages: for development (`wrenn up`) and for tests.
//
// Both listen on unix sockets only, in a folder that only their user can enter. They end
// with this process, however it ends, and lose nothing that was committed: the kernel
// sends them the signal of an orderly end. A server that dies is started again.
package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
)

// startTimeout bounds a start, crash recovery included, when ctx has no earlier deadline.
const startTimeout = 60 * time.Second

// Options of a stack. Only Dir is required.
type Options struct {
	// Dir holds the data, the logs (at most 16 MiB) and the lock. It is made if it does
	// not exist. As root, the servers' user must be able to enter it.
	Dir string
	// Logger hears of servers that are started again; nil means slog.Default().
	Logger *slog.Logger
	// Failed is called, from a goroutine of the stack's, when a server cannot be kept running; nil for nobody.
	Failed func(error)
	// NoSync gives up durability for speed: for tests whose data nobody needs after a crash of the machine.
	NoSync bool
	// Cache is a folder that keeps an initialised, empty database for the next new Dir; "" for none.
	Cache string
}

// Stack is a running pair of servers. Its fields are constant.
type Stack struct {
	PostgresURL string // a database named wrenn, for pgx and libpq
	RedisURL    string // database 0, for go-redis

	dir      string
	postgres *postgres
	redis    *redis
	keepers  []*child.Keeper // in order of start
	logs     []*child.Log
	unlock   func()
}

// DefaultCache is the folder for Options.Cache: in WRENN_CACHE, else in /var/cache/wrenn for root and in the
// user's own cache folder for others; "" when there is none.
func DefaultCache() string {
	dir := os.Getenv("WRENN_CACHE")
	if dir == "" && os.Geteuid() == 0 {
		dir = "/var/cache/wrenn"
	}
	if dir == "" {
		own, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(own, "wrenn")
	}
	return filepath.Join(dir, "devstack")
}

// Start starts the servers in opts.Dir, on the data that is there, and returns once they answer. ctx
// bounds the start, not the life of the servers: the caller must call Stop. A folder that is in use
// is a Conflict error, a missing program a Precondition error that names the package.
func Start(ctx context.Context, opts Options) (*Stack, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, opts); err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// prepare checks what can be checked and takes the lock; nothing runs yet.
func prepare(opts Options) (*Stack, error) {
	binaries, err := FindBinaries()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolve folder: %w", err)
	}
	own, err := serverOwner()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o711); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if err := own.reaches(dir); err != nil {
		return nil, err
	}
	unlock, err := Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return &Stack{
		dir: dir, unlock: unlock,
		postgres: &postgres{program: binaries.Postgres, data: filepath.Join(dir, "postgres"), owner: own, noSync: opts.NoSync},
		redis:    &redis{program: binaries.Redis, data: filepath.Join(dir, "redis"), owner: own, noSync: opts.NoSync},
	}, nil
}

func (s *Stack) start(ctx context.Context, opts Options) error {
	if err := s.folders(); err != nil {
		return err
	}
	program, err := postgresFor(s.postgres.data, s.postgres.program)
	if err != nil {
		return err
	}
	s.postgres.program = program
	if err := s.keep(ctx, "redis", s.redis.start, child.Policy{Logger: opts.Logger, GaveUp: opts.Failed, Stop: redisStop}); err != nil {
		return err
	}
	if err := s.postgres.initialise(ctx, opts.Cache); err != nil {
		return err
	}
	if err := s.keep(ctx, "postgres", s.postgres.start, child.Policy{Logger: opts.Logger, GaveUp: opts.Failed, Stop: postgresStop}); err != nil {
		return err
	}
	if err := s.postgres.createDatabase(ctx); err != nil {
		return err
	}
	s.PostgresURL, s.RedisURL = s.postgres.url(database), s.redis.url(0)
	return nil
}

// folders makes what the servers need to run and opens their logs.
func (s *Stack) folders() (err error) {
	if err = s.redis.owner.mkdir(s.redis.data); err != nil {
		return fmt.Errorf("make Redis folder: %w", err)
	}
	run, err := runtimeDir(s.dir, s.redis.owner)
	if err != nil {
		return err
	}
	s.postgres.run, s.redis.run = run, run
	if s.postgres.log, err = child.OpenLog(filepath.Join(s.dir, "log", "postgres.log"), child.LogLimit); err != nil {
		return err
	}
	s.logs = append(s.logs, s.postgres.log)
	if s.redis.log, err = child.OpenLog(filepath.Join(s.dir, "log", "redis.log"), child.LogLimit); err != nil {
		return err
	}
	s.logs = append(s.logs, s.redis.log)
	return nil
}

func (s *Stack) keep(ctx context.Context, name string, start child.StartFunc, policy child.Policy) error {
	bounded := func(ctx context.Context) (*child.Process, error) {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		return start(ctx)
	}
	k, err := child.Keep(ctx, name, bounded, policy)
	if err != nil {
		return err
	}
	s.keepers = append(s.keepers, k)
	return nil
}

// RedisPID is the process of Redis.
func (s *Stack) RedisPID() int { return s.keepers[0].PID() }

// PostgresPID is the first process of Postgres.
func (s *Stack) PostgresPID() int { return s.keepers[1].PID() }

// Stop ends both servers in order, at the latest when ctx ends, and gives the folder
// back. It returns when nothing runs any more.
func (s *Stack) Stop(ctx context.Context) error {
	for i := len(s.keepers) - 1; i >= 0; i-- {
		s.keepers[i].Stop(ctx)
	}
	err := removeRuntimeDir(s.dir)
	for _, l := range s.logs {
		err = errors.Join(err, l.Close())
	}
	s.unlock()
	return err
}
