// Package invariant tells what in the tables of a deployment is not as it must be, whatever has happened to it: for tests of whole deployments, with simulated hosts and with real ones.
package invariant

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Tables are those of a deployment, looked at past its replicas. What its methods return in words is wrong; nothing is right.
type Tables struct {
	Pool  *pgxpool.Pool
	Store *db.Store
}

// Row is a sandbox in the table.
type Row struct {
	ID         string
	Account    string
	Host       string
	State      models.State
	Generation int64
	Network    int64 // generation of its policy
	Archive    string
	Reason     string
}

// Rows returns the sandboxes of a condition, which begins with WHERE.
func (t Tables) Rows(ctx context.Context, where string) ([]Row, error) {
	rows, err := t.Pool.Query(ctx, `SELECT id, account_id, coalesce(host_id, ''), state, generation, network_generation, coalesce(archive ->> 'key', ''), reason FROM sandboxes `+where)
	if err != nil {
		return nil, fmt.Errorf("read the sandboxes: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Row])
	if err != nil {
		return nil, fmt.Errorf("read the sandboxes: %w", err)
	}
	return all, nil
}

// texts returns what a query of one column finds, or why it does not.
func (t Tables) texts(ctx context.Context, query string) []string {
	rows, err := t.Pool.Query(ctx, query)
	if err != nil {
		return []string{err.Error()}
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return []string{err.Error()}
	}
	return found
}

// Pools compares the counts of all accounts with what they have.
func (t Tables) Pools(ctx context.Context) []string {
	return t.texts(ctx, `SELECT format('%s has %s vCPUs, %s MiB, %s MiB of disk, %s sandboxes, and is counted as %s, %s, %s, %s',
			a.id, s.vcpus, s.memory, s.disk, s.n, used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes)
		FROM accounts a CROSS JOIN LATERAL (
			SELECT coalesce(sum(vcpus) FILTER (WHERE is_awake(state)), 0) AS vcpus, coalesce(sum(memory_mib) FILTER (WHERE is_awake(state)), 0) AS memory,
				coalesce(sum(disk_mib) FILTER (WHERE is_kept(state)), 0) + (SELECT coalesce(sum(disk_mib + memory_mib), 0) FROM snapshots n WHERE n.account_id = a.id AND n.state <> 'error') AS disk,
				count(*) FILTER (WHERE is_awake(state)) AS n
			FROM sandboxes WHERE account_id = a.id
		) AS s
		WHERE (s.vcpus, s.memory, s.disk, s.n) <> (used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes)`)
}

const noteOversold = `
CREATE TABLE oversold (what text);
CREATE FUNCTION note_oversold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.to_state = 'starting' THEN
        INSERT INTO oversold SELECT format('%%s has %%s sandboxes in a pool of %%s', id, used_sandboxes, pool_sandboxes) FROM accounts
        WHERE id = NEW.account_id AND used_sandboxes > pool_sandboxes;
        INSERT INTO oversold SELECT format('%%s has promised %%s MiB of %%s', h.id, sum(s.memory_mib), h.memory_mib * %[1]g)
        FROM sandboxes placed JOIN hosts h ON h.id = placed.host_id JOIN sandboxes s ON s.host_id = h.id
        WHERE placed.id = NEW.sandbox_id AND s.state IN ('starting', 'running', 'pausing', 'resuming')
        GROUP BY h.id HAVING sum(s.memory_mib) > h.memory_mib * %[1]g;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note_oversold AFTER INSERT ON sandbox_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_oversold()`

// NotePlacements has the database note, from now on, each placement that leaves more taken of its host, whose memory may be promised so many times, or of its account's pool, than
// there is. Having more is no fault else: a limit may have been lowered, and a host may have woken what nobody asked for.
func (t Tables) NotePlacements(ctx context.Context, overcommit float64) error {
	if _, err := t.Pool.Exec(ctx, fmt.Sprintf(noteOversold, overcommit)); err != nil {
		return fmt.Errorf("have placements noted: %w", err)
	}
	return nil
}

// Oversold returns what was noted.
func (t Tables) Oversold(ctx context.Context) []string {
	return t.texts(ctx, "SELECT what FROM oversold")
}
