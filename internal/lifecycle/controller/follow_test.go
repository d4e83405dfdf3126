package controller

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestSettledHasNoGap: what is not looked at again, since row and host agree, is never a gap, however long it lasts.
func TestSettledHasNoGap(t *testing.T) {
	const absent = hostclient.State("")
	now, long := time.Now(), time.Hour
	agreed := 0
	for _, state := range []models.State{models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Stopping, models.Stopped,
		models.Failed, models.Hibernating, models.Hibernated} {
		for _, host := range []hostclient.State{absent, hostclient.Starting, hostclient.Running, hostclient.Pausing, hostclient.Paused, hostclient.Resuming, hostclient.Stopping,
			hostclient.Failed, hostclient.Storing, hostclient.Fetching} {
			for variant := range 32 {
				bit := func(n int) bool { return variant>>n&1 == 1 }
				row := db.Row{ID: "sb-00000001", Host: "host-00000001", State: state, Age: long, NetworkGeneration: 2, Cold: bit(0)}
				s := sighting{Sandbox: hostclient.Sandbox{ID: row.ID, State: host, NetworkGeneration: 2}, since: now.Add(-long)}
				if bit(1) {
					row.Host = "host-00000002"
				}
				if bit(2) {
					s.NetworkGeneration = 1
				}
				if bit(3) {
					s.Damage = "a chunk is missing"
				}
				if bit(4) {
					s.Verified = now
				}
				seen := map[id.Sandbox]sighting{}
				if host != absent {
					seen[row.ID] = s
				}
				rows := []db.Row{row}
				if len(unsettled("host-00000001", rows, seen)) > 0 {
					continue
				}
				agreed++
				if gaps := plan("host-00000001", rows, seen, now, patience{}); len(gaps) > 0 {
					t.Errorf("row %s of %s, host %q, variant %b: settled, and a gap: %s", state, row.Host, host, variant, gaps[0].remedy)
				}
			}
		}
	}
	if agreed == 0 {
		t.Error("nothing is ever settled")
	}
	orphan := map[id.Sandbox]sighting{"sb-00000001": {since: now}}
	if got := unsettled("host-00000001", nil, orphan); len(got) != 1 {
		t.Errorf("of a sandbox without a row %v is looked at again", got)
	}
}

// TestPolicyOfADeadReplica: the policy that a control plane has written before it died is put in force by another one.
func TestPolicyOfADeadReplica(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	sb := r.create(c)
	r.settled(c)
	_, err := r.store.ChangeNetwork(t.Context(), r.by.Account, sb.ID, r.by.db(), func(models.Sandbox) (models.NetworkPolicy, error) {
		on := true
		return models.NetworkChange{Internet: &on}.Of(sb.Network), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the host has the policy", func() bool { return r.sim.Network(string(sb.ID), nil).GetPolicy().GetGeneration() == 2 })
}

// TestFullComparison: what nobody has told of is found as well, now and then.
func TestFullComparison(t *testing.T) {
	r := newRig(t)
	pace := quick
	pace.Full = 100 * time.Millisecond
	c := r.start(r.store, Limits{}, pace)
	sb := r.create(c)
	r.settled(c)
	conn, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "UPDATE sandboxes SET network_generation = 7"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the host has the policy", func() bool { return r.sim.Network(string(sb.ID), nil).GetPolicy().GetGeneration() == 7 })
}

// settled waits until nothing of the hosts is to be looked at again.
func (r *rig) settled(c *replica) {
	r.t.Helper()
	r.eventually("all is settled", func() bool {
		for _, h := range c.Fleet.all() {
			e := h.takeNews()
			h.addNews(e)
			if e.all || len(e.named) > 0 {
				return false
			}
		}
		return true
	})
}
