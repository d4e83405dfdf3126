package controller

import (
	"context"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestForsaken: what a replica had begun that is dead ends long before its deadline, at whichever step it died; while it is alive nobody interferes.
func TestForsaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		diesAfter string
		begin     func(*replica, *rig, id.Sandbox) error
		want      models.State
		leaves    bool // and says so
	}{
		{"insert", nil, models.Failed, false},
		{"pausing", func(c *replica, r *rig, sb id.Sandbox) error { _, err := c.Pause(t.Context(), r.by, sb); return err }, models.Running, true},
		{"stopping", func(c *replica, r *rig, sb id.Sandbox) error { _, err := c.Destroy(t.Context(), r.by, sb); return err }, models.Stopped, false},
	} {
		t.Run(c.diesAfter, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			other := r.start(r.store, Limits{}, quick)
			its, err := db.Open(t.Context(), r.url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(its.Close)
			replica := id.NewReplica()
			if err := its.Beat(t.Context(), replica); err != nil {
				t.Fatal(err)
			}
			dying := r.start(&mortal{Store: its, diesAfter: c.diesAfter}, Limits{}, Pace{})
			var sb id.Sandbox
			if c.begin == nil {
				_, err = dying.Create(t.Context(), r.request(), Request{Template: "minimal"})
				sb = r.only().ID
			} else {
				sb = r.create(other).ID
				err = c.begin(dying, r, sb)
			}
			if err == nil {
				t.Fatal("it did not die")
			}
			began, err := r.store.Sandbox(t.Context(), r.by.Account, sb)
			if err != nil || began.Deadline.IsZero() {
				t.Fatalf("nothing is under way: %+v, %v", began, err)
			}
			r.sql("UPDATE sandboxes SET updated_at = updated_at - interval '1 minute'")
			time.Sleep(20 * quick.Tick)
			if now, err := r.store.Sandbox(t.Context(), r.by.Account, sb); err != nil || now.State != began.State {
				t.Errorf("while it is alive, the sandbox is %s, %v; it was %s", now.State, err, began.State)
			}
			if c.leaves {
				err = its.Leave(t.Context(), replica)
			} else {
				r.sql("UPDATE replicas SET seen_at = seen_at - interval '1 minute'")
			}
			if err != nil {
				t.Fatal(err)
			}
			if now := r.becomes(sb, c.want); !now.UpdatedAt.Before(began.Deadline) {
				t.Errorf("it took until its deadline, %s", began.Deadline)
			}
		})
	}
}

// TestKeepAlive: a replica is heard from its start on, and has left when it has ended.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); KeepAlive(ctx, r.store, nil) }()
	r.eventually("the replica is known", func() bool {
		var known int
		r.query(&known, "SELECT count(*) FROM replicas WHERE seen_at > clock_timestamp() - interval '10 seconds'")
		return known == 1
	})
	cancel()
	<-done
	var known int
	if r.query(&known, "SELECT count(*) FROM replicas"); known != 0 {
		t.Errorf("when it has ended, %d are known", known)
	}
}
