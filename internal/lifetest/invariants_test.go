package lifetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// patience is how long after the last fault everything must have come to rest, also on a machine that does other things. What waits for a deadline is not waited for:
// deadlines pass after a part of it.
const patience, deadlinesPass = 90 * time.Second, 2 * time.Second

// settle waits until nothing is wrong, and fails with what still is.
func (w *world) settle(ctx context.Context) []string {
	began := time.Now()
	for {
		wrong := w.wrong(ctx)
		if len(wrong) == 0 || time.Since(began) > patience {
			return wrong
		}
		if time.Since(began) > deadlinesPass {
			w.exec(ctx, `UPDATE sandboxes SET deadline = least(deadline, clock_timestamp()) WHERE deadline IS NOT NULL`)
			w.exec(ctx, `UPDATE snapshots SET deadline = least(deadline, clock_timestamp()) WHERE deadline IS NOT NULL`)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) exec(ctx context.Context, statement string) {
	if _, err := w.pool.Exec(ctx, statement); err != nil {
		w.t.Errorf("%s: %v", statement, err)
	}
}

// row is a sandbox in the table.
type row struct {
	ID         string
	Account    string
	Host       string
	State      models.State
	Generation int64
	Network    int64
	Archive    string
	Reason     string
}

func (w *world) rows(ctx context.Context, where string) []row {
	rows, err := w.pool.Query(ctx, `SELECT id, account_id, coalesce(host_id, ''), state, generation, network_generation, coalesce(archive ->> 'key', ''), reason FROM sandboxes `+where)
	if err != nil {
		w.t.Errorf("read the sandboxes: %v", err)
		return nil
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		w.t.Errorf("read the sandboxes: %v", err)
	}
	return all
}

// wrong tells what is not as it must be when nothing is under way.
func (w *world) wrong(ctx context.Context) []string {
	var wrong []string
	rows := w.rows(ctx, "WHERE state <> 'stopped'")
	of := map[string]row{}
	stored := w.hosts[0].Objects().Keys()
	for _, r := range rows {
		of[r.ID] = r
		switch {
		case lifecycle.Passing(r.State):
			wrong = append(wrong, fmt.Sprintf("%s is stuck in state %s on %s (%s)", r.ID, r.State, r.Host, r.Reason))
		case r.State == models.Hibernated && !slices.Contains(stored, r.Archive):
			wrong = append(wrong, fmt.Sprintf("%s is hibernated, and nothing is stored as %q", r.ID, r.Archive))
		}
	}
	for i, h := range w.hosts {
		wrong = append(wrong, hostWrong(string(hostID(i)), h.States(), rows, of)...)
		for _, r := range rows {
			if _, lasts := running[r.State]; lasts && r.Host == string(hostID(i)) && h.Network(r.ID, nil).GetPolicy().GetGeneration() != r.Network {
				wrong = append(wrong, fmt.Sprintf("the policy of %s has generation %d, and on its host %d", r.ID, r.Network, h.Network(r.ID, nil).GetPolicy().GetGeneration()))
			}
		}
	}
	return append(append(wrong, w.snapshotsWrong(ctx)...), w.poolsWrong(ctx)...)
}

var running = map[models.State]pb.SandboxState{models.Running: pb.SandboxState_SANDBOX_STATE_RUNNING, models.Paused: pb.SandboxState_SANDBOX_STATE_PAUSED}

// hostWrong compares what a host holds with the rows, both ways.
func hostWrong(host string, held map[string]pb.SandboxState, rows []row, of map[string]row) (wrong []string) {
	for sb, state := range held {
		r, known := of[sb]
		want, lasts := running[r.State]
		switch {
		case known && r.Host == host && lasts && want == state:
		case known && r.Host == host && r.State == models.Failed && state != pb.SandboxState_SANDBOX_STATE_RUNNING:
		case known && r.Host == host:
			wrong = append(wrong, fmt.Sprintf("%s is %s, and %s on its host %s", sb, r.State, state, host))
		default:
			wrong = append(wrong, fmt.Sprintf("%s is an orphan on %s: %s there, and %q on %q in the table", sb, host, state, r.State, r.Host))
		}
	}
	for _, r := range rows {
		if _, lasts := running[r.State]; lasts && r.Host == host && held[r.ID] == pb.SandboxState_SANDBOX_STATE_UNSPECIFIED {
			wrong = append(wrong, fmt.Sprintf("%s is %s, and %s holds nothing of it", r.ID, r.State, host))
		}
	}
	return wrong
}

// snapshotsWrong compares the snapshots in the table with those on the hosts.
func (w *world) snapshotsWrong(ctx context.Context) (wrong []string) {
	for i, h := range w.hosts {
		rows, err := w.store.SnapshotsOfHost(ctx, hostID(i))
		if err != nil {
			return []string{err.Error()}
		}
		var want []string
		for _, s := range rows {
			if s.State == models.SnapshotReady {
				want = append(want, string(s.ID))
			} else if s.State != models.SnapshotFailed {
				wrong = append(wrong, fmt.Sprintf("%s is stuck in state %s", s.ID, s.State))
			}
		}
		slices.Sort(want)
		if got := h.Snapshots(); !slices.Equal(got, want) {
			wrong = append(wrong, fmt.Sprintf("%s holds the snapshots %v, and the table has %v", hostID(i), got, want))
		}
	}
	return wrong
}

// poolsWrong compares the counts of all accounts with what they have.
func (w *world) poolsWrong(ctx context.Context) []string {
	rows, err := w.pool.Query(ctx, `SELECT format('%s has %s vCPUs, %s MiB, %s MiB of disk, %s sandboxes, and is counted as %s, %s, %s, %s',
			a.id, s.vcpus, s.memory, s.disk, s.n, used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes)
		FROM accounts a CROSS JOIN LATERAL (
			SELECT coalesce(sum(vcpus) FILTER (WHERE is_awake(state)), 0) AS vcpus, coalesce(sum(memory_mib) FILTER (WHERE is_awake(state)), 0) AS memory,
				coalesce(sum(disk_mib) FILTER (WHERE is_kept(state)), 0) + (SELECT coalesce(sum(disk_mib + memory_mib), 0) FROM snapshots n WHERE n.account_id = a.id AND n.state <> 'error') AS disk,
				count(*) FILTER (WHERE is_awake(state)) AS n
			FROM sandboxes WHERE account_id = a.id
		) AS s
		WHERE (s.vcpus, s.memory, s.disk, s.n) <> (used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes)`)
	if err != nil {
		return []string{err.Error()}
	}
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return []string{err.Error()}
	}
	return wrong
}

// events are all that happen to sandboxes.
var events = []lifecycle.Event{
	lifecycle.Placed, lifecycle.Started, lifecycle.Failed, lifecycle.Pause, lifecycle.Froze, lifecycle.Resume, lifecycle.Woke, lifecycle.Undone, lifecycle.Destroy,
	lifecycle.Freed, lifecycle.Hibernate, lifecycle.Stored, lifecycle.Unfetched,
}

// pathWrong tells whether the events of a sandbox are no way through the state machine that ends where its row is.
func pathWrong(r row, path []db.Event) string {
	text := make([]string, len(path))
	at, ok := models.State(""), true
	for i, e := range path {
		text[i] = string(e.To)
		leads := i == 0 && e.To == models.Pending || slices.ContainsFunc(events, func(by lifecycle.Event) bool {
			to, err := lifecycle.Next(at, by)
			return err == nil && to == e.To
		})
		ok = ok && leads && e.From == at && e.Generation == int64(i+1)
		at = e.To
	}
	if ok && at == r.State && int64(len(path)) == r.Generation {
		return ""
	}
	return fmt.Sprintf("%s is %s at generation %d and went no way that there is: %s", r.ID, r.State, r.Generation, strings.Join(text, " "))
}

// pathsWrong looks at the events of all sandboxes of an account.
func (w *world) pathsWrong(ctx context.Context, account id.Account) (wrong []string) {
	for _, r := range w.rows(ctx, fmt.Sprintf("WHERE account_id = '%s'", account)) {
		path, err := w.store.Events(ctx, id.Sandbox(r.ID), 0, 10_000)
		if err != nil {
			return []string{err.Error()}
		}
		if what := pathWrong(r, path); what != "" {
			wrong = append(wrong, what)
		}
	}
	return wrong
}

// noteOversold has the database note each placement that leaves more taken of its host, or of its account's pool, than there is. Having more is no fault else: a limit may have
// been lowered, and a host may have woken what nobody asked for.
const noteOversold = `
CREATE TABLE oversold (what text);
CREATE FUNCTION note_oversold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.to_state = 'starting' THEN
        INSERT INTO oversold SELECT format('%s has %s sandboxes in a pool of %s', id, used_sandboxes, pool_sandboxes) FROM accounts
        WHERE id = NEW.account_id AND used_sandboxes > pool_sandboxes;
        INSERT INTO oversold SELECT format('%s has promised %s MiB of %s', h.id, sum(s.memory_mib), h.memory_mib)
        FROM sandboxes placed JOIN hosts h ON h.id = placed.host_id JOIN sandboxes s ON s.host_id = h.id
        WHERE placed.id = NEW.sandbox_id AND s.state IN ('starting', 'running', 'pausing', 'resuming')
        GROUP BY h.id HAVING sum(s.memory_mib) > h.memory_mib;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note_oversold AFTER INSERT ON sandbox_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_oversold()`

// oversold returns what was noted.
func (w *world) oversold(ctx context.Context) []string {
	rows, err := w.pool.Query(ctx, "SELECT what FROM oversold")
	if err != nil {
		return []string{err.Error()}
	}
	what, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return []string{err.Error()}
	}
	return what
}

// used is how a sandbox that is in a state is used.
var used = map[models.State]string{
	models.Running: "running", models.Pausing: "running", models.Paused: "paused", models.Resuming: "paused", models.Hibernating: "paused", models.Hibernated: "hibernated",
}

// usageWrong compares the usage that is kept of the sandboxes of an account, all of which have ended, with what their events say: no time is lost or counted twice.
func (w *world) usageWrong(ctx context.Context, account id.Account) (wrong []string) {
	for _, r := range w.rows(ctx, fmt.Sprintf("WHERE account_id = '%s'", account)) {
		path, err := w.store.Events(ctx, id.Sandbox(r.ID), 0, 10_000)
		if err != nil {
			return []string{err.Error()}
		}
		want := map[string]time.Duration{}
		for i, e := range path[:max(1, len(path))-1] {
			if kind := used[e.To]; kind != "" {
				want[kind] += path[i+1].At.Sub(e.At)
			}
		}
		got, err := w.usage(ctx, r.ID)
		if err != nil {
			return []string{err.Error()}
		}
		if !maps.Equal(got, want) {
			wrong = append(wrong, fmt.Sprintf("the usage of %s is kept as %v, and its events say %v", r.ID, got, want))
		}
	}
	return wrong
}

// usage is how long a sandbox is said to have been used, by kinds. A period that still lasts counts as one of an hour too little.
func (w *world) usage(ctx context.Context, sandbox string) (map[string]time.Duration, error) {
	rows, err := w.pool.Query(ctx, `SELECT kind, sum(coalesce(extract(epoch FROM ended_at - begun_at) * 1000000, -3600000000))::bigint
		FROM usage_periods WHERE sandbox_id = $1 AND snapshot_id IS NULL GROUP BY kind`, sandbox)
	if err != nil {
		return nil, err
	}
	all := map[string]time.Duration{}
	var kind string
	var micros int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &micros}, func() error {
		all[kind] = time.Duration(micros) * time.Microsecond
		return nil
	})
	return all, err
}
