package invariant

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
)

// mostEvents is more than a sandbox of a test has.
const mostEvents = 10_000

// events are all that happen to sandboxes.
var events = []lifecycle.Event{
	lifecycle.Placed, lifecycle.Started, lifecycle.Failed, lifecycle.Pause, lifecycle.Froze, lifecycle.Resume, lifecycle.Woke, lifecycle.Undone, lifecycle.Destroy,
	lifecycle.Freed, lifecycle.Hibernate, lifecycle.Stored, lifecycle.Unfetched, lifecycle.Moved,
}

// each looks at all sandboxes of an account with their events.
func (t Tables) each(ctx context.Context, account id.Account, look func(Row, []db.Event) string) (wrong []string) {
	rows, err := t.Rows(ctx, fmt.Sprintf("WHERE account_id = '%s'", account))
	if err != nil {
		return []string{err.Error()}
	}
	for _, r := range rows {
		path, err := t.Store.Events(ctx, id.Sandbox(r.ID), 0, mostEvents)
		if err != nil {
			return []string{err.Error()}
		}
		if what := look(r, path); what != "" {
			wrong = append(wrong, what)
		}
	}
	return wrong
}

// Paths tells which sandboxes of an account have events that are no way through the state machine that ends where their row is.
func (t Tables) Paths(ctx context.Context, account id.Account) []string {
	return t.each(ctx, account, pathWrong)
}

func pathWrong(r Row, path []db.Event) string {
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

// used is how a sandbox that is in a state is used.
var used = map[models.State]string{
	models.Running: "running", models.Pausing: "running", models.Paused: "paused", models.Resuming: "paused", models.Hibernating: "paused", models.Hibernated: "hibernated",
}

// Usage compares the usage that is kept of the sandboxes of an account, all of which have ended, with what their events say: no time is lost or counted twice.
func (t Tables) Usage(ctx context.Context, account id.Account) []string {
	return t.each(ctx, account, func(r Row, path []db.Event) string {
		want := map[string]time.Duration{}
		for i, e := range path[:max(1, len(path))-1] {
			if kind := used[e.To]; kind != "" {
				want[kind] += path[i+1].At.Sub(e.At)
			}
		}
		got, err := t.usage(ctx, r.ID)
		if err != nil {
			return err.Error()
		}
		if !maps.Equal(got, want) {
			return fmt.Sprintf("the usage of %s is kept as %v, and its events say %v", r.ID, got, want)
		}
		return ""
	})
}

// usage is how long a sandbox is said to have been used, by kinds. A period that still lasts counts as one of an hour too little.
func (t Tables) usage(ctx context.Context, sandbox string) (map[string]time.Duration, error) {
	rows, err := t.Pool.Query(ctx, `SELECT kind, sum(coalesce(extract(epoch FROM ended_at - begun_at) * 1000000, -3600000000))::bigint
		FROM usage_periods WHERE sandbox_id = $1 AND snapshot_id IS NULL GROUP BY kind`, sandbox)
	if err != nil {
		return nil, fmt.Errorf("read the usage of %s: %w", sandbox, err)
	}
	all := map[string]time.Duration{}
	var kind string
	var micros int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &micros}, func() error {
		all[kind] = time.Duration(micros) * time.Microsecond
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the usage of %s: %w", sandbox, err)
	}
	return all, nil
}
