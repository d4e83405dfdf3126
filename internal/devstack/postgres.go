package devstack

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
)

// database is the one that the stack's URL names.
const database = "wrenn"

// postgres is the database server of one stack.
type postgres struct {
	program string
	data    string
	run     string
	owner   owner
	noSync  bool
	log     *child.Log
}

// postgresStop: SIGINT is Postgres' fast shutdown, SIGQUIT the immediate one, which
// costs a recovery at the next start and no data (postgres(1)).
var postgresStop = []child.Step{{Signal: syscall.SIGINT, Grace: 20 * time.Second}, {Signal: syscall.SIGQUIT, Grace: 5 * time.Second}}

// url names a database of this server for libpq and pgx.
func (p *postgres) url(db string) string {
	query := url.Values{"host": {p.run}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + db, RawQuery: query.Encode()}).String()
}

// start runs the server and waits until it answers. After a kill of its predecessor,
// left-over backends may hold the shared memory for a moment; the server then refuses and is
// tried again.
func (p *postgres) start(ctx context.Context) (*child.Process, error) {
	pidFile := filepath.Join(p.data, "postmaster.pid")
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		if err := child.EndLeftover(ctx, pidFile, p.data, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL); err != nil {
			return nil, fmt.Errorf("end left-over Postgres: %w", err)
		}
		proc, err := p.try(ctx)
		if err == nil || ctx.Err() != nil || !strings.Contains(p.log.Tail(2048), "is still in use") {
			return proc, err
		}
		if pause > 2*time.Second {
			return nil, err
		}
		_ = child.Poll(ctx, after(pause))
	}
}

func (p *postgres) try(ctx context.Context) (*child.Process, error) {
	proc, err := child.Start(child.Spec{
		Path: p.program, Args: p.args(), Env: serverEnv(), Dir: p.data, Credential: p.owner.credential,
		DeathSignal: syscall.SIGINT, Stdout: p.log, Stderr: p.log,
	})
	if err != nil {
		return nil, err
	}
	if err := proc.WaitReady(ctx, p.answers); err != nil {
		proc.Stop(context.WithoutCancel(ctx), postgresStop...)
		return nil, fmt.Errorf("start Postgres: %w; its log ends: %s", err, strings.TrimSpace(p.log.Tail(1024)))
	}
	return proc, nil
}

// args sets everything on the command line, so that the data folder holds only data.
func (p *postgres) args() []string {
	settings := []string{
		"listen_addresses=", "unix_socket_directories=" + p.run, "unix_socket_permissions=0700", "port=5432",
		"shared_buffers=64MB", "max_connections=200", "max_wal_size=512MB", "jit=off", "huge_pages=off",
		"logging_collector=off", "log_destination=stderr", "log_timezone=UTC", "timezone=UTC",
	}
	if p.noSync {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	args := make([]string, 0, 2+2*len(settings))
	args = append(args, "-D", p.data)
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return args
}

func (p *postgres) answers(ctx context.Context) bool {
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		return false
	}
	return conn.Close(ctx) == nil
}

// createDatabase makes the stack's own database, once.
func (p *postgres) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&exists); err != nil {
		return fmt.Errorf("look for database: %w", err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

// after is true once d has passed.
func after(d time.Duration) func() bool {
	end := time.Now().Add(d)
	return func() bool { return time.Now().After(end) }
}

// serverEnv is all that the servers see of our environment.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
}
