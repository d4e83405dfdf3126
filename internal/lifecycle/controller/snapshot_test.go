package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

func (r *rig) keep(c *replica, sb id.Sandbox) models.Snapshot {
	r.t.Helper()
	made, err := c.CreateSnapshot(r.t.Context(), r.request(), sb, "n")
	if err != nil || made.State != models.SnapshotReady {
		r.t.Fatalf("snapshot: %+v, %v", made, err)
	}
	return made
}

func (r *rig) snapshots() []models.Snapshot {
	r.t.Helper()
	all, err := r.store.Snapshots(r.t.Context(), db.SnapshotFilter{Account: r.by.Account, Limit: 100})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// TestSnapshots: of one that runs and of one that sleeps; they outlive it, have their ancestors, are what sandboxes are created from, with the policy that was, and go.
func TestSnapshots(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb, err := c.Create(t.Context(), r.request(), Request{Template: "minimal", Network: models.NetworkPolicy{}})
	if err != nil {
		t.Fatal(err)
	}
	first := r.keep(c, sb.ID)
	if _, err := c.Pause(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	second := r.keep(c, sb.ID)
	if first.Sandbox != sb.ID || first.Parent != "" || first.Size != sb.Size || first.Bytes == 0 || second.Parent != first.ID {
		t.Errorf("they are %+v and %+v", first, second)
	}
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil {
		t.Fatal(err)
	}
	again, err := c.Create(t.Context(), r.request(), Request{Snapshot: second.ID, Network: models.DefaultNetwork(), SameNetwork: true})
	if err != nil || again.Snapshot != second.ID || again.Size != sb.Size || again.Template != "minimal" || again.Network.Internet {
		t.Errorf("create from a snapshot: %+v, %v", again, err)
	}
	if of := r.keep(c, again.ID); of.Parent != second.ID {
		t.Errorf("a snapshot of that has the parent %q", of.Parent)
	}
	for _, one := range []models.Snapshot{first, second} {
		if err := c.DeleteSnapshot(t.Context(), r.request(), one.ID); err != nil {
			t.Error(err)
		}
	}
	if len(r.snapshots()) != 1 || len(r.sim.Snapshots()) != 1 {
		t.Errorf("of three, two of them deleted, there are %v, and on the host %v", r.snapshots(), r.sim.Snapshots())
	}
	if _, err := c.Create(t.Context(), r.request(), Request{Snapshot: first.ID}); models.CodeOf(err) != models.NotFound {
		t.Errorf("create from a deleted one: %v", err)
	}
	audit, err := r.store.AuditLog(t.Context(), r.by.Account, 2)
	if err != nil || audit[0].Action != auditDiscard || audit[0].Outcome != "ok" || audit[1].Outcome != "accepted" {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

// TestSnapshotsTakeDisk: of the room for sandboxes, until they are gone.
func TestSnapshotsTakeDisk(t *testing.T) {
	r := newRig(t)
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.DiskMib = 1000 })
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c) // 512 MiB of disk and 256 of memory, of which 4000 are given away
	for range 4 {
		r.keep(c, sb.ID)
	}
	if _, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "n"); models.CodeOf(err) != models.Exhausted || !strings.Contains(err.Error(), "768 MiB of disk needed, 416 left") {
		t.Errorf("a fifth: %v", err)
	}
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Exhausted {
		t.Errorf("another sandbox: %v", err)
	}
	if err := c.DeleteSnapshot(t.Context(), r.request(), r.snapshots()[0].ID); err != nil {
		t.Fatal(err)
	}
	r.create(c)
}

// TestSnapshotThatFails leaves none; nor does one whose host goes away, whatever that has made.
func TestSnapshotThatFails(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.sim.OnSnapshot(func(context.Context, *pb.CreateSnapshotRequest) error {
		return models.Errorf(models.Exhausted, "the host's disk is full")
	}, nil)
	if _, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "n"); models.CodeOf(err) != models.Exhausted || len(r.snapshots()) > 0 {
		t.Errorf("a full disk: %v; there are %v", err, r.snapshots())
	}
	killed := make(chan struct{})
	r.sim.OnSnapshot(nil, func() {
		go func() { r.sim.Kill(); close(killed) }()
		time.Sleep(500 * time.Millisecond)
	})
	if _, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "n"); models.CodeOf(err) != models.Unavailable {
		t.Errorf("its host goes away: %v", err)
	}
	<-killed
	if one := r.snapshots(); len(one) != 1 || one[0].State != models.SnapshotDeleting {
		t.Errorf("then there are %+v", one)
	}
	r.sim.OnSnapshot(nil, nil)
	r.sim.Restart()
	r.eventually("it is gone", func() bool { return len(r.snapshots()) == 0 && len(r.sim.Snapshots()) == 0 })
}

// TestSnapshotsOfAHostThatIsAway: nothing can be made of them, and a delete is finished when it is back.
func TestSnapshotsOfAHostThatIsAway(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	kept := r.keep(c, r.create(c).ID)
	r.sim.Kill()
	r.eventually("the host is away", func() bool { return !c.Fleet.Status()[0].Up })
	if _, err := c.Create(t.Context(), r.request(), Request{Snapshot: kept.ID}); models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "where it lies") {
		t.Errorf("create: %v", err)
	}
	if err := c.DeleteSnapshot(t.Context(), r.request(), kept.ID); models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "not deleted yet") {
		t.Errorf("delete: %v", err)
	}
	if _, err := c.Create(t.Context(), r.request(), Request{Snapshot: kept.ID}); models.CodeOf(err) != models.Precondition {
		t.Errorf("create from one that is being deleted: %v", err)
	}
	r.sim.Restart()
	r.eventually("it is gone", func() bool { return len(r.snapshots()) == 0 && len(r.sim.Snapshots()) == 0 })
}

// TestSnapshotsAreReconciled: what is lost or damaged is told, what nobody wants is removed, what a control plane left that was killed comes to an end.
func TestSnapshotsAreReconciled(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	lost, damaged, half, done := r.keep(c, sb.ID), r.keep(c, sb.ID), r.keep(c, sb.ID), r.keep(c, sb.ID)
	r.sim.LoseSnapshot(string(lost.ID))
	r.sim.PutSnapshot(&pb.Snapshot{SnapshotId: string(damaged.ID), Damage: "snapshot is damaged: memory"})
	r.sim.LoseSnapshot(string(half.ID))
	r.sim.PutSnapshot(&pb.Snapshot{SnapshotId: "snap-0000dead"})
	r.sql("UPDATE snapshots SET state = 'creating', deadline = clock_timestamp() WHERE id IN ('" + string(half.ID) + "', '" + string(done.ID) + "')")
	r.start(r.store, Limits{}, quick)
	r.eventually("all is told", func() bool {
		states := map[id.Snapshot]string{}
		for _, s := range r.snapshots() {
			states[s.ID] = string(s.State) + " " + s.Reason
		}
		return len(states) == 3 && states[done.ID] == "ready " && strings.HasPrefix(states[lost.ID], "error lost") &&
			states[damaged.ID] == "error snapshot is damaged: memory" && len(r.sim.Snapshots()) == 2
	})
	if _, err := c.Create(t.Context(), r.request(), Request{Snapshot: lost.ID}); models.CodeOf(err) != models.Precondition || !strings.Contains(err.Error(), "lost") {
		t.Errorf("create from one that is lost: %v", err)
	}
	if err := c.DeleteSnapshot(t.Context(), r.request(), lost.ID); err != nil {
		t.Errorf("delete of one that is lost: %v", err)
	}
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = "host-0000beef" })
	r.sim.Kill()
	r.sim.Restart()
	r.eventually("the host is replaced", func() bool {
		for _, s := range r.snapshots() {
			if s.ID == done.ID {
				return s.State == models.SnapshotFailed && strings.Contains(s.Reason, "replaced")
			}
		}
		return false
	})
}

// TestPlanSnapshots: what is under way is left alone.
func TestPlanSnapshots(t *testing.T) {
	p := patience{settle: time.Minute, grace: time.Minute}
	now := time.Now()
	whole := hostclient.Snapshot{ID: "snap-00000001"}
	for name, c := range map[string]struct {
		row  models.SnapshotState
		age  time.Duration
		late bool
		seen *hostclient.Snapshot
		want snapshotRemedy
	}{
		"being made":            {models.SnapshotCreating, time.Hour, false, nil, ""},
		"just made":             {models.SnapshotCreating, time.Second, false, &whole, ""},
		"made and not told":     {models.SnapshotCreating, time.Hour, false, &whole, markReady},
		"not made in time":      {models.SnapshotCreating, time.Hour, true, nil, dropRow},
		"being deleted":         {models.SnapshotDeleting, time.Second, false, &whole, ""},
		"not deleted":           {models.SnapshotDeleting, time.Hour, false, &whole, finishErase},
		"there":                 {models.SnapshotReady, time.Hour, false, &whole, ""},
		"gone":                  {models.SnapshotReady, time.Second, false, nil, markLost},
		"damaged":               {models.SnapshotReady, time.Hour, false, &hostclient.Snapshot{Damage: "x"}, markLost},
		"known to be damaged":   {models.SnapshotFailed, time.Hour, false, &hostclient.Snapshot{Damage: "x"}, ""},
		"wanted by nobody, new": {"", 0, false, &whole, ""},
	} {
		var rows []db.SnapshotRow
		if c.row != "" {
			rows = append(rows, db.SnapshotRow{ID: whole.ID, State: c.row, Age: c.age, Overdue: c.late})
		}
		held := map[id.Snapshot]hostclient.Snapshot{}
		if c.seen != nil {
			held[whole.ID] = *c.seen
		}
		gaps := planSnapshots(rows, held, map[id.Snapshot]time.Time{whole.ID: now.Add(-time.Second)}, now, p)
		var got snapshotRemedy
		for _, g := range gaps {
			got = g.snapshotRemedy
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
