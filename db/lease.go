package db

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// reconcilerLock is the advisory lock of the one replica that reconciles. Any constant
// will do that nothing else in the database uses.
const reconcilerLock = 0x7772656e6e01

// leaseSilence is how long the server keeps a lease that nobody checks: of a replica that is frozen, or whose machine is gone without a word, the connection stays for hours.
const leaseSilence = 2 * Silence

// Lease is held by one replica at a time. It ends with its connection, so a replica that
// dies or is cut off loses it without anybody's doing, and with leaseSilence.
type Lease struct {
	conn *pgx.Conn
}

// Lead tries to become the replica that reconciles. It returns nil while another one is.
func (s *Store) Lead(ctx context.Context) (*Lease, error) {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, coded(err)
	}
	conn := pooled.Hijack() // held for long: the pool must not count it
	var got bool
	err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(reconcilerLock)).Scan(&got)
	if err == nil && got {
		// A server that does not know the setting (before 14) has no row of it, and the lease lasts as long as the connection.
		_, err = conn.Exec(ctx, "SELECT set_config(name, $1, false) FROM pg_settings WHERE name = 'idle_session_timeout'", strconv.FormatInt(leaseSilence.Milliseconds(), 10))
		if err == nil {
			return &Lease{conn: conn}, nil
		}
	}
	closeConn(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("take the reconciler's lock: %w", coded(err))
	}
	return nil, nil
}

// Check fails when the lease is lost.
func (l *Lease) Check(ctx context.Context) error { return coded(l.conn.Ping(ctx)) }

// Release gives the lease up.
func (l *Lease) Release(ctx context.Context) { closeConn(ctx, l.conn) }

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
}
