package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// censusKept is how long a count is told again: it reads all sandboxes that have not ended.
const censusKept = 10 * time.Second

const mib = 1 << 20

// lookAround has s tell what is in the database, and how this replica reaches it, Redis and the hosts.
func lookAround(s *metrics.Set, p parts, over scheduler.Overcommit, log *slog.Logger) {
	s.Look(metrics.Look{Part: "census", Keep: censusKept, Families: censusFamilies, Read: func(ctx context.Context, put metrics.Put) error {
		c, err := p.store.Census(ctx)
		if err == nil {
			putCensus(c, over, put)
		}
		return err
	}}, log)
	s.Look(metrics.Look{Part: "replica", Families: replicaFamilies, Read: func(ctx context.Context, put metrics.Put) error {
		p.putReplica(ctx, put)
		return nil
	}}, log)
}

// censusFamilies are the same whichever replica is asked.
var censusFamilies = []metrics.Family{
	{Name: "sandboxes", Help: "Sandboxes that have not ended, by state.", Labels: []string{"state"}},
	{Name: "hosts", Help: "Hosts by state.", Labels: []string{"state"}},
	{Name: "hosts_room", Help: "What all hosts that can be reached may promise to sandboxes, overcommit included: vcpus; memory and disk in bytes.", Labels: []string{"resource"}},
	{Name: "hosts_promised", Help: "What is promised of that, in the same units.", Labels: []string{"resource"}},
	{Name: "webhook_deliveries_pending", Help: "Deliveries to webhooks that are not done."},
	{Name: "webhook_deliveries_oldest_seconds", Help: "Age of the oldest of them; 0 for none."},
	{Name: "usage_events_pending", Help: "Events of usage that are to be delivered."},
	{Name: "usage_events_oldest_seconds", Help: "Age of the oldest of them; 0 for none."},
	{Name: "usage_events_refused", Help: "Events of usage that were refused, until usage retry."},
}

func putCensus(c db.Census, over scheduler.Overcommit, put metrics.Put) {
	for state, n := range c.Sandboxes {
		put("sandboxes", float64(n), string(state))
	}
	hosts := map[models.HostState]int{models.HostReady: 0, models.HostDraining: 0, models.HostQuarantined: 0, models.HostDown: 0}
	room, promised := map[string]float64{}, map[string]float64{}
	for _, h := range c.Hosts {
		hosts[h.State()]++
		if h.State() == models.HostDown {
			continue
		}
		room["vcpus"] += float64(h.VCPUs) * over.VCPU
		room["memory"] += float64(h.MemoryMiB*mib) * over.Memory
		room["disk"] += float64(h.DiskMiB*mib) * over.Disk
		promised["vcpus"] += float64(h.Use.VCPUs)
		promised["memory"] += float64((h.Use.MemoryMiB + h.Use.Sandboxes*h.OverheadMiB) * mib)
		promised["disk"] += float64(h.Use.DiskMiB * mib)
	}
	for state, n := range hosts {
		put("hosts", float64(n), string(state))
	}
	for _, resource := range []string{"vcpus", "memory", "disk"} {
		put("hosts_room", room[resource], resource)
		put("hosts_promised", promised[resource], resource)
	}
	put("webhook_deliveries_pending", float64(c.Webhooks.Number))
	put("webhook_deliveries_oldest_seconds", c.Webhooks.Age.Seconds())
	put("usage_events_pending", float64(c.Usage.Number))
	put("usage_events_oldest_seconds", c.Usage.Age.Seconds())
	put("usage_events_refused", float64(c.Refused))
}

// replicaFamilies are this replica's own.
var replicaFamilies = []metrics.Family{
	{Name: "hosts_known", Help: "Hosts that this replica keeps a connection to, or tries to."},
	{Name: "hosts_reachable", Help: "Those of them that it can reach now."},
	{Name: "redis_up", Help: "1 where Redis answers this replica, 0 where it does not; absent where none is used."},
	{Name: "database_connections", Help: "Connections to the database, by what they are: used or idle.", Labels: []string{"state"}},
	{Name: "database_connections_max", Help: "The most there can be."},
	{Name: "database_connection_waits_total", Help: "Times that something has waited for one.", Total: true},
	{Name: "database_connection_wait_seconds_total", Help: "How long, in all.", Total: true},
}

func (p parts) putReplica(ctx context.Context, put metrics.Put) {
	hosts, up := p.fleet.Status(), 0
	for _, h := range hosts {
		if h.Up {
			up++
		}
	}
	put("hosts_known", float64(len(hosts)))
	put("hosts_reachable", float64(up))
	if p.cache != nil {
		answers := 0.0
		if p.cache.Check(ctx) == nil {
			answers = 1
		}
		put("redis_up", answers)
	}
	c := p.store.Connections()
	put("database_connections", float64(c.Used), "used")
	put("database_connections", float64(c.Idle), "idle")
	put("database_connections_max", float64(c.Most))
	put("database_connection_waits_total", float64(c.Waits))
	put("database_connection_wait_seconds_total", c.Waited.Seconds())
}
