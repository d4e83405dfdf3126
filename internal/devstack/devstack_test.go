package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// ownerDir tells a copy of this test binary to own a stack in the folder it names.
const ownerDir = "DEVSTACK_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		ownStack(dir)
	}
	os.Exit(m.Run())
}

// ownStack says "ready" once the stack runs and waits to be killed.
func ownStack(dir string) {
	if _, err := Start(context.Background(), Options{Dir: dir, Logger: discard, Cache: DefaultCache()}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0) // the test is gone
}

var discard = slog.New(slog.DiscardHandler)

// limit is generous: on a loaded machine initdb alone may take a minute.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newDir is a folder that the servers' user can enter.
func newDir(t *testing.T) string {
	t.Helper()
	if _, err := FindBinaries(); err != nil {
		testlane.Missing(t, err.Error())
	}
	dir, err := os.MkdirTemp("", "devstack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, opts Options) *Stack {
	t.Helper()
	opts.Logger = discard
	if opts.Cache == "" {
		opts.Cache = DefaultCache()
	}
	s, err := Start(limit(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Stack) {
	t.Helper()
	if err := s.Stop(limit(t)); err != nil {
		t.Error(err)
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(limit(t), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(limit(t))
	if _, err := conn.Exec(limit(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func redisClient(t *testing.T, url string) *goredis.Client {
	t.Helper()
	opts, err := goredis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(opts)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDataOutlivesTheServers(t *testing.T) {
	dir := newDir(t)
	s := start(t, Options{Dir: dir})
	execute(t, s.PostgresURL, "CREATE TABLE kept (n int)")
	if err := redisClient(t, s.RedisURL).Set(limit(t), "kept", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	for _, run := range []string{"run", "run.path"} {
		if _, err := os.Lstat(filepath.Join(dir, run)); !os.IsNotExist(err) {
			t.Errorf("%s is left after Stop (%v)", run, err)
		}
	}

	s = start(t, Options{Dir: dir})
	execute(t, s.PostgresURL, "SELECT n FROM kept")
	if got, err := redisClient(t, s.RedisURL).Get(limit(t), "kept").Result(); err != nil || got != "yes" {
		t.Errorf("Redis kept %q, %v", got, err)
	}
}

func TestServersListenOnPrivateSocketsOnly(t *testing.T) {
	s := start(t, Options{Dir: newDir(t), NoSync: true})
	for _, k := range s.keepers {
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			if open := socketsOf(t, k.PID(), table); open > 0 {
				t.Errorf("process %d has %d %s sockets", k.PID(), open, table)
			}
		}
	}
	info, err := os.Stat(s.postgres.run)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("the folder of the sockets has mode %o", mode)
	}
}

// socketsOf counts the sockets of one of /proc/net's tables that pid holds.
func socketsOf(t *testing.T, pid int, table string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/" + table)
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]bool{}
	for _, line := range strings.Split(string(b), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 9 {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
	fds, err := filepath.Glob("/proc/" + itoa(pid) + "/fd/*")
	if err != nil || len(fds) == 0 {
		t.Fatalf("read descriptors of %d: %d, %v", pid, len(fds), err)
	}
	n := 0
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && inodes[target] {
			n++
		}
	}
	return n
}

func TestSecondStartIsRefused(t *testing.T) {
	dir := newDir(t)
	start(t, Options{Dir: dir, NoSync: true})
	_, err := Start(limit(t), Options{Dir: dir, Logger: discard})
	if models.CodeOf(err) != models.Conflict || !strings.Contains(err.Error(), "process "+itoa(os.Getpid())) {
		t.Errorf("a second start gave %v", err)
	}
}

func TestLongFolderGetsShortSockets(t *testing.T) {
	base := newDir(t)
	for _, name := range []string{strings.Repeat("long-", 20), "with space, and comma"} {
		dir := filepath.Join(base, name)
		s := start(t, Options{Dir: dir, NoSync: true})
		run := s.postgres.run
		execute(t, s.PostgresURL, "SELECT 1")
		if err := redisClient(t, s.RedisURL).Ping(limit(t)).Err(); err != nil {
			t.Error(err)
		}
		stop(t, s)
		if _, err := os.Lstat(run); !os.IsNotExist(err) {
			t.Errorf("%s is left after Stop (%v)", run, err)
		}
	}
}

func TestKilledServersComeBackWithTheirData(t *testing.T) {
	s := start(t, Options{Dir: newDir(t)})
	execute(t, s.PostgresURL, "CREATE TABLE kept (n int)")
	for _, k := range s.keepers {
		old := k.PID()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := child.Poll(limit(t), func() bool { return k.PID() != old }); err != nil {
			t.Fatalf("process %d was not started again: %v", old, err)
		}
	}
	execute(t, s.PostgresURL, "SELECT n FROM kept")
	if err := redisClient(t, s.RedisURL).Ping(limit(t)).Err(); err != nil {
		t.Error(err)
	}
}

func TestKilledOwnerTakesServersAlongWithoutLoss(t *testing.T) {
	dir := newDir(t)
	cmd := exec.CommandContext(limit(t), os.Args[0])
	cmd.Env = append(os.Environ(), ownerDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 512)
	n, err := stdout.Read(line)
	if err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the owner said %q, %v", line[:n], err)
	}
	postgres := &postgres{run: filepath.Join(dir, "run")}
	execute(t, postgres.url(database), "CREATE TABLE committed (n int)")
	t.Cleanup(func() { // on failure
		for dir, file := range map[string]string{filepath.Join(dir, "postgres"): "postmaster.pid", filepath.Join(dir, "redis"): "redis.pid"} {
			if err := child.EndLeftover(limit(t), filepath.Join(dir, file), dir, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	pids := []int{pidIn(t, filepath.Join(dir, "postgres", "postmaster.pid")), pidIn(t, filepath.Join(dir, "redis", "redis.pid"))}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for _, pid := range pids {
		if err := child.Poll(limit(t), func() bool {
			return !child.WorksIn(pid, filepath.Join(dir, "postgres")) && !child.WorksIn(pid, filepath.Join(dir, "redis"))
		}); err != nil {
			t.Errorf("server %d outlived its owner", pid)
		}
	}
	s := start(t, Options{Dir: dir})
	execute(t, s.PostgresURL, "SELECT n FROM committed")
}

func pidIn(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return atoi(t, first)
}

// A pid file may name a process that has nothing to do with us, even one of the servers' own user.
func TestStalePidFileOfAnotherProcessIsIgnored(t *testing.T) {
	dir := newDir(t)
	stop(t, start(t, Options{Dir: dir, NoSync: true}))
	own, err := serverOwner()
	if err != nil {
		t.Fatal(err)
	}
	bystander := exec.Command("sleep", "600")
	bystander.SysProcAttr = &syscall.SysProcAttr{Credential: own.credential, Pdeathsig: syscall.SIGKILL}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bystander.Process.Kill(); err != nil {
			t.Errorf("the bystander was ended: %v", err)
		}
		_ = bystander.Wait() // it was killed
	})
	for _, f := range []string{"postgres/postmaster.pid", "redis/redis.pid"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(itoa(bystander.Process.Pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, Options{Dir: dir, NoSync: true})
}

func TestTemplateIsMadeOnceAndUsed(t *testing.T) {
	dir := newDir(t)
	cache := filepath.Join(dir, "cache")
	stop(t, start(t, Options{Dir: filepath.Join(dir, "a"), NoSync: true, Cache: cache}))
	made, err := filepath.Glob(filepath.Join(cache, "postgres-*", "PG_VERSION"))
	if err != nil || len(made) != 1 {
		t.Fatalf("the cache holds %v, %v", made, err)
	}
	mark := filepath.Join(filepath.Dir(made[0]), "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Dir: filepath.Join(dir, "b"), Cache: cache})
	execute(t, s.PostgresURL, "SELECT 1")
	if _, err := os.Stat(filepath.Join(dir, "b", "postgres", "mark")); err != nil {
		t.Errorf("the template was not used: %v", err)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	dir := newDir(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ctx, Options{Dir: dir, Logger: discard}); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled start gave %v", err)
	}
	start(t, Options{Dir: dir, NoSync: true})
}

func TestMissingProgramsNameTheirPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := FindBinaries()
	if models.CodeOf(err) != models.Precondition || !strings.Contains(models.AsError(err).Hint, "redis-server") {
		t.Errorf("without a PATH: %v, hint %q", err, models.AsError(err).Hint)
	}
	if got := newest(postgresVersions(t.TempDir())); got != "" {
		t.Errorf("found %q in an empty folder", got)
	}
}

func TestNewestPostgresIsChosen(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"9", "15", "16", "other"} {
		bin := filepath.Join(root, version, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"postgres", "initdb"} {
			if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Remove(filepath.Join(root, "16", "bin", "initdb")); err != nil { // a client-only install
		t.Fatal(err)
	}
	if got, want := newest(postgresVersions(root)), filepath.Join(root, "15", "bin", "postgres"); got != want {
		t.Errorf("chose %s, not %s", got, want)
	}
}

func TestDatabaseOfAnotherVersionIsRefused(t *testing.T) {
	dir := newDir(t)
	if err := os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(postgresVersions(debianPostgres)) == 0 {
		testlane.Missing(t, "Postgres is not installed as Debian does it")
	}
	_, err := postgresFor(dir, "/default")
	if models.CodeOf(err) != models.Precondition || !strings.Contains(models.AsError(err).Hint, "postgresql-1234") {
		t.Errorf("a database of version 1234: %v", err)
	}
}

func TestUnreachableFolderIsExplained(t *testing.T) {
	testlane.NeedRoot(t)
	dir := newDir(t)
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(limit(t), Options{Dir: filepath.Join(closed, "stack"), Logger: discard})
	if models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), closed) {
		t.Errorf("a closed folder gave %v", err)
	}
}
