package lifetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/lifetest/invariant"
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
type row = invariant.Row

func (w *world) rows(ctx context.Context, where string) []row {
	all, err := w.tables.Rows(ctx, where)
	if err != nil {
		w.t.Error(err)
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
	return append(append(wrong, w.snapshotsWrong(ctx)...), w.tables.Pools(ctx)...)
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
