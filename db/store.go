// Package db keeps the durable truth of the control plane in Postgres.
//
// Store is the only way to it. Every change of a sandbox's state is a compare-and-set on
// (id, state, generation) and writes its event row, and where a user asked for it its audit
// row, in the same transaction. Reads, and changes that can be recognised when they are
// repeated, are tried again for a short while when Postgres restarts; what still fails is a
// coded Unavailable error.
package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Store is a pool of connections to Postgres. All methods may be called at the same time.
type Store struct {
	pool  *pgxpool.Pool
	q     *dbgen.Queries
	hosts hostViews
	told  func() // see WhenEvents; nil for nobody

	replica atomic.Pointer[id.Replica] // see Beat
}

const (
	// retryFor is how long a statement is tried again after Postgres has gone away: a restart takes about a second.
	retryFor   = 3 * time.Second
	retryFirst = 20 * time.Millisecond
	retryMost  = 500 * time.Millisecond
	// statementLimit bounds a call whose caller set no deadline.
	statementLimit = 15 * time.Second
	connectLimit   = 5 * time.Second
	// maxConns suits one control plane: some hundred requests a second need about ten.
	maxConns = 20
)

// Open makes a pool for url (postgres://… or libpq's key=value form). It connects on first
// use: an unreachable database is reported by Ping, not here. pool_max_conns in url overrides the pool's size.
func Open(ctx context.Context, url string) (*Store, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse the database's URL: %w", err)
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = maxConns
	}
	cfg.ConnConfig.ConnectTimeout = connectLimit
	cfg.AfterConnect = alone
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	q := dbgen.New(pool)
	return &Store{pool: pool, q: q, hosts: hostViews{pool: q}}, nil
}

// alone has a statement take one processor: those that read all of a table are for later, and who waits for a sandbox must find another one free.
func alone(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SET max_parallel_workers_per_gather = 0")
	return err
}

// Close waits for the connections in use and closes them all.
func (s *Store) Close() { s.pool.Close() }

// Ping tells whether Postgres answers, without trying again.
func (s *Store) Ping(ctx context.Context) error {
	return coded(s.pool.Ping(ctx))
}

// retry runs f until it succeeds or fails for a reason other than the connection and what others did at the same time, for
// retryFor at most. f must be safe to repeat after it failed with its outcome unknown.
func retry[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	end := time.Now().Add(retryFor)
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		v, err := f(ctx)
		if err == nil || !disconnected(err) && !collided(err) || time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			return v, coded(err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// disconnected tells whether err came from the connection or from a server that is
// starting or stopping, and not from the statement.
func disconnected(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Class 08: connection exceptions; class 57 P: admin shutdown, crash shutdown, cannot connect now;
		// 53300: too many connections. See the appendix "PostgreSQL Error Codes" of its manual.
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P") || pg.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) ||
		errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded)
}

// collided tells whether the server undid a transaction for what another one did at the same time.
func collided(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	// 40001: serialization failure; 40P01: deadlock. The last is an internal error of Postgres 15 (multixact.c) where two transactions come to a row at once that both lock and change it,
	// as accounts are by foreign keys and by what counts in their pools.
	return pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "XX000" && strings.HasPrefix(pg.Message, "new multixact has more than one updating member")
}

func coded(err error) error {
	var already *models.Error
	switch {
	case err == nil || errors.As(err, &already):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return models.AsError(err)
	case disconnected(err):
		return models.Errorf(models.Unavailable, "the database cannot be reached").
			WithHint("try again in a few seconds").WithCause(err)
	default:
		return err
	}
}

// notFound turns the absence of a row into missing.
func notFound(err error, missing *models.Error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return missing
	}
	return err
}

// isUnique tells whether err is a violation of a unique constraint (SQLSTATE 23505).
func isUnique(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505"
}
