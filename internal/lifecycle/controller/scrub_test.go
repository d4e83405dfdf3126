package controller

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestScrubIsTold: what a host finds of the snapshot that a sandbox sleeps in is in the row, damage also in its reason and its events, once, and all of it is over when it runs again.
func TestScrubIsTold(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.asleep(c)
	at := time.Now().Add(-time.Hour)
	r.sim.Scrubbed(string(sb.ID), timestamppb.New(at), "")
	r.eventually("it is verified", func() bool { return sameMoment(r.now(sb.ID).VerifiedAt, at) })
	r.sim.Scrubbed(string(sb.ID), timestamppb.New(at), "its snapshot is damaged: memory")
	r.eventually("its damage is told", func() bool { return strings.Contains(r.now(sb.ID).Reason, "memory") })
	if now := r.now(sb.ID); now.State != models.Paused || !sameMoment(now.VerifiedAt, at) {
		t.Errorf("it is %+v", now)
	}
	r.sim.Scrubbed(string(sb.ID), timestamppb.New(at.Add(time.Minute)), "")
	r.eventually("it is whole again", func() bool { return r.now(sb.ID).Reason == "" })
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Paused, models.Paused)
	if now, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || !now.VerifiedAt.IsZero() {
		t.Errorf("running it is %+v, %v", now, err)
	}
}
