package controller

import (
	"context"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestMadeBefore: a control plane dies at some moment of a create that has an idempotency key. The next attempt, at another one, ends with exactly one sandbox that runs.
func TestMadeBefore(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after string
		inHost        bool
	}{
		{name: "before the row", before: "insert"},
		{name: "while the host is at it", inHost: true},
		{name: "before the row says that it runs", before: string(models.Running)},
		{name: "after the end", after: string(models.Running)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dying := &mortal{Store: r.store, diesBefore: c.before, diesAfter: c.after}
			first := r.start(dying, Limits{Create: 2 * time.Second}, Pace{})
			if c.inHost {
				r.sim.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error {
					dying.dead.Store(true)
					first.cancel()
					<-ctx.Done()
					return ctx.Err()
				}, nil)
			}
			if _, err := first.Create(t.Context(), r.claims(time.Millisecond), Request{Template: "minimal"}); err == nil {
				t.Fatal("a dead control plane has answered")
			}
			first.end()
			r.sim.OnCreate(nil, nil)
			if c.inHost {
				r.expire(r.only().ID)
			}
			second := r.start(r.store, Limits{}, quick)
			by := r.claims(time.Minute)
			made, err := second.Create(t.Context(), by, Request{Template: "minimal"})
			if err != nil || made.State != models.Running {
				t.Fatalf("%+v, %v", made, err)
			}
			running, err := r.store.List(t.Context(), db.Filter{Account: r.by.Account, States: []models.State{models.Running}, Limit: 9})
			if err != nil || len(running) != 1 || running[0].ID != made.ID {
				t.Errorf("there run %+v, %v", running, err)
			}
			if err := r.store.ReleaseClaim(t.Context(), by.Claim); err != nil {
				t.Error(err)
			}
			again, err := second.Create(t.Context(), r.claims(time.Minute), Request{Template: "minimal"})
			if err != nil || again.ID != made.ID {
				t.Errorf("once more it is %s, not %s, %v", again.ID, made.ID, err)
			}
			r.holds(1)
		})
	}
}

// claims is a request of the rig's user with an idempotency key, whose earlier attempt has ended, or will have in a moment.
func (r *rig) claims(lease time.Duration) By {
	r.t.Helper()
	by := r.request()
	r.eventually("the key can be claimed", func() bool {
		c, err := r.store.Claim(r.t.Context(), db.NewClaim{Account: by.Account, Key: "k", Attempt: by.Request, Lease: lease, Keep: time.Hour})
		if err != nil {
			r.t.Fatal(err)
		}
		by.Claim = c.Claim
		return c.Claim != nil
	})
	return by
}
