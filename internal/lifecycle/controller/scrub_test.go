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

// TestHibernatedIsScrubbed: what is stored of a hibernated sandbox is read again and again, and its row says when it was last found whole, and what is wrong with it, until that is over.
func TestHibernatedIsScrubbed(t *testing.T) {
	r := newRig(t)
	pace := quick
	pace.Scrub = 1200 * time.Millisecond // and tried again every 50 ms
	c := r.start(r.store, Limits{}, pace)
	sb := r.hibernated(c)
	r.eventually("it is verified", func() bool { return !r.now(sb.ID).VerifiedAt.IsZero() })
	first := r.now(sb.ID).VerifiedAt
	r.eventually("it is verified again", func() bool { return r.now(sb.ID).VerifiedAt.After(first) })

	r.sim.Objects().Damage(sb.Archive.Key, "chunk 7 is missing from the object store")
	r.eventually("its damage is told", func() bool { return strings.Contains(r.now(sb.ID).Reason, "chunk 7") })
	damaged := r.now(sb.ID)
	if damaged.State != models.Hibernated || damaged.VerifiedAt.IsZero() {
		t.Errorf("it is %+v", damaged)
	}
	r.sim.Objects().Damage(sb.Archive.Key, "")
	r.eventually("it is whole again", func() bool { now := r.now(sb.ID); return now.Reason == "" && now.VerifiedAt.After(damaged.VerifiedAt) })
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Hibernating, models.Hibernated, models.Hibernated, models.Hibernated)

	r.sim.Objects().Down(models.Errorf(models.Unavailable, "the object store cannot be reached"))
	before := r.now(sb.ID)
	time.Sleep(2 * pace.Scrub) // for it to be tried; where that takes longer, this tests less
	r.sim.Objects().Down(nil)
	if now := r.now(sb.ID); now.Reason != "" || now.State != models.Hibernated || now.VerifiedAt.Before(before.VerifiedAt) {
		t.Errorf("of a store that was away it is %+v", now)
	}
	if now, err := c.Resume(t.Context(), r.request(), sb.ID); err != nil || !now.VerifiedAt.IsZero() {
		t.Errorf("running it is %+v, %v", now, err)
	}
}
