// Package lifetest holds the life of sandboxes against a model: users do at random what there is to do, through two replicas of the real control plane with simulated hosts, while
// agents, replicas and connections to the databases die at random. Whatever happens, a deployment that is left alone comes to rest in a state that agrees with what was answered, with
// what the hosts hold, with all counts and with the state machine.
package lifetest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m)) }

const (
	// variable names how many operations there are to be; make test-model sets it.
	variable = "WRENN_MODEL_OPS"
	usual    = 500
	// lanes of each round work at the same time.
	lanes, opsOfLane = 4, 25
)

// TestLife does WRENN_MODEL_OPS things, in rounds after each of which everything is looked at. A failure prints the seed of its round, which -rapid.seed takes; the threads of a round
// race, so that a seed may have to be tried again.
func TestLife(t *testing.T) {
	n := usual
	if text := os.Getenv(variable); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("%s is %q, and must be a number", variable, text)
		}
	}
	for name, value := range map[string]string{"rapid.checks": strconv.Itoa(max(1, n/(lanes*opsOfLane))), "rapid.nofailfile": "true", "rapid.shrinktime": "1ms"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	began, rounds := time.Now(), 0
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.SliceOfN(ops, opsOfLane, opsOfLane), lanes, lanes).Draw(rt, "script")
		if wrong := w.round(script); len(wrong) > 0 {
			t.Logf("after %d operations: %s", rounds*lanes*opsOfLane, strings.Join(wrong, "\n")) // also where the round, tried again, goes well
			rt.Fatalf("%d things are not as they must be", len(wrong))
		}
		if rounds++; rounds%10 == 0 {
			t.Logf("%d operations in %s", rounds*lanes*opsOfLane, time.Since(began).Round(time.Second))
		}
	})
}

// round does what the lanes are to do, has everything come to rest, and tells what is wrong.
func (w *world) round(script [][]op) (wrong []string) {
	ctx := w.t.Context()
	w.drained.Store(false)
	w.evicted.Store(false)
	w.exec(ctx, "TRUNCATE oversold")
	account, key, err := w.user(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	all := make([]*lane, len(script))
	var wg sync.WaitGroup
	for i, ops := range script {
		l := &lane{w: w, account: account, key: key}
		all[i] = l
		wg.Go(func() {
			for _, o := range ops {
				l.do(o)
			}
		})
	}
	wg.Wait()
	w.faults.Wait()
	w.heal(ctx)
	wrong = append(w.settle(ctx), w.tables.Oversold(ctx)...)
	wrong = append(wrong, w.disagrees(ctx, account, all)...)
	wrong = append(wrong, w.clear(ctx, account)...)
	wrong = append(wrong, w.tables.Usage(ctx, account)...)
	return append(wrong, w.tables.Paths(ctx, account)...)
}

// user makes an account with a key.
func (w *world) user(ctx context.Context) (id.Account, auth.Secret, error) {
	secret, name := auth.NewSecret(), string(id.NewRequest())
	if _, err := auth.Keep(ctx, w.store, name, "model", secret, []auth.Scope{auth.Admin}, time.Time{}, operator); err != nil {
		return "", "", err
	}
	account, err := w.store.AccountNamed(ctx, name)
	return account, secret, err
}

// disagrees tells where the table says something else than the answers did.
func (w *world) disagrees(ctx context.Context, account id.Account, all []*lane) (wrong []string) {
	unknown, known := 0, map[string]bool{}
	for _, l := range all {
		wrong = append(wrong, l.wrong...)
		unknown += l.unknown
		for _, sb := range l.sandboxes {
			known[string(sb.id)] = true
			row, err := w.store.Sandbox(ctx, account, sb.id)
			if err != nil {
				wrong = append(wrong, err.Error())
				continue
			}
			if !w.allows(sb, row.State) {
				wrong = append(wrong, fmt.Sprintf("%s is %s (%s), and can be %v", sb.id, row.State, row.Reason, sb.may))
			}
			if label := row.Metadata["label"]; !sb.metadata["*"] && !sb.metadata[label] {
				wrong = append(wrong, fmt.Sprintf("%s has the label %q, and can have %v", sb.id, label, sb.metadata))
			}
		}
	}
	extra := slices.DeleteFunc(w.rows(ctx, fmt.Sprintf("WHERE account_id = '%s' AND state NOT IN ('stopped', 'error')", account)), func(r row) bool { return known[r.ID] })
	if len(extra) > unknown {
		wrong = append(wrong, fmt.Sprintf("%d sandboxes that nobody was told of, and of %d it is not known whether they were made: %v", len(extra), unknown, extra))
	}
	return wrong
}

// allows tells whether a sandbox may be in a state. What lies on a host that is drained sleeps, and leaves; what was begun there is carried out when it no more is.
func (w *world) allows(sb *sandbox, state models.State) bool {
	switch {
	case sb.may[state]:
		return true
	case (state == models.Paused || state == models.Pausing) && w.evicted.Load():
		return sb.may[models.Running]
	case (state == models.Hibernated || state == models.Hibernating) && w.drained.Load():
		return sb.may[models.Paused] || w.evicted.Load() && sb.may[models.Running]
	}
	return false
}

// clear destroys all of an account, and tells what is left.
func (w *world) clear(ctx context.Context, account id.Account) (wrong []string) {
	live := fmt.Sprintf("WHERE account_id = '%s' AND state <> 'stopped'", account)
	by := controller.By{Account: account, Key: "key-00000001"}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		rows := w.rows(ctx, live)
		if len(rows) == 0 {
			break
		}
		if time.Since(began) > patience {
			return []string{fmt.Sprintf("not destroyed: %v", rows)}
		}
		for i, r := range rows {
			by.Request = id.NewRequest()
			_, _ = w.replica(i).ctl.Destroy(ctx, by, id.Sandbox(r.ID)) // tried again
		}
	}
	return w.clearSnapshots(ctx, by)
}

func (w *world) clearSnapshots(ctx context.Context, by controller.By) (wrong []string) {
	for _, h := range w.hosts {
		for _, name := range h.Snapshots() {
			by.Request = id.NewRequest()
			if err := w.replica(0).ctl.DeleteSnapshot(ctx, by, id.Snapshot(name)); err != nil && models.CodeOf(err) != models.NotFound {
				wrong = append(wrong, err.Error())
			}
		}
	}
	return append(wrong, w.settle(ctx)...)
}
