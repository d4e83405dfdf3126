package db

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// HostFilter chooses hosts of a list.
type HostFilter struct {
	States   []models.HostState // empty for all
	Before   time.Time          // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.Host
	Limit    int
}

// PageOfHosts returns hosts that were neither replaced nor removed, newest first, with what is taken of them and what lies there. Nothing is locked.
func (s *Store) PageOfHosts(ctx context.Context, f HostFilter) ([]HeldHost, error) {
	p := dbgen.PageOfHostsParams{Before: timeOrNil(f.Before), BeforeID: string(f.BeforeID), MaxRows: int32(f.Limit)}
	for _, state := range f.States {
		p.States = append(p.States, string(state))
	}
	return retry(ctx, func(ctx context.Context) ([]HeldHost, error) {
		rows, err := s.q.PageOfHosts(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list hosts: %w", err)
		}
		return s.held(ctx, rows)
	})
}

// HeldHost returns a host with what is taken of it and what lies there. NotFound where there is none, or it was replaced or removed.
func (s *Store) HeldHost(ctx context.Context, h id.Host) (HeldHost, error) {
	return retry(ctx, func(ctx context.Context) (HeldHost, error) {
		row, err := s.q.KnownHost(ctx, string(h))
		if err != nil {
			return HeldHost{}, notFound(err, missingHost(h))
		}
		all, err := s.held(ctx, []dbgen.Host{row})
		if err != nil {
			return HeldHost{}, err
		}
		return all[0], nil
	})
}

// held counts what some hosts hold.
func (s *Store) held(ctx context.Context, rows []dbgen.Host) ([]HeldHost, error) {
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	counted, err := s.q.HeldBy(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("count what hosts hold: %w", err)
	}
	of := map[string]dbgen.HeldByRow{}
	for _, c := range counted {
		of[c.HostID] = c
	}
	return convert(rows, func(r dbgen.Host) (HeldHost, error) {
		h, err := host(r)
		n := of[r.ID]
		use := Use{Sandboxes: n.Running, VCPUs: n.VCPUs, MemoryMiB: n.MemoryMiB, DiskMiB: n.DiskMiB}
		return HeldHost{HostUse: HostUse{Host: h, Use: use}, Holds: Holdings{Running: n.Running, Sleeping: n.Sleeping, Snapshots: n.Snapshots}}, err
	})
}
