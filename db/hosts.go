package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Host is a host as its agent last described it.
type Host struct {
	ID            id.Host
	Name          string
	Address       string // where its agent listens
	AgentVersion  string
	Driver        string
	DriverVersion string
	Accelerator   string
	VCPUs         int
	MemoryMiB     int64
	OverheadMiB   int64 // of the memory, that a VM takes beside its guest's
	DiskMiB       int64
	Reflinks      bool
	Templates     []models.Template
	Archive       bool  // whether it has an object store
	Connects      int64 // how often a control plane has connected to it
	LastSeenAt    time.Time
	CreatedAt     time.Time // it was heard of first
	JoinedAt      time.Time // with a token; zero for one that is in the settings
	HostCondition
}

// Use is what the sandboxes of a host take of it.
type Use struct {
	Sandboxes, VCPUs, MemoryMiB, DiskMiB int64
}

// HostUse is a host and what is taken of it.
type HostUse struct {
	Host
	Use Use
}

// RegisterHost records what a host says of itself. connected counts a new connection. Hosts
// that were at its address before are marked as replaced and returned.
func (s *Store) RegisterHost(ctx context.Context, h Host, connected bool) (Host, []id.Host, error) {
	p, err := hostParams(h, connected)
	if err != nil {
		return Host{}, nil, err
	}
	type result struct {
		host     Host
		replaced []id.Host
	}
	r, err := retry(ctx, func(ctx context.Context) (r result, err error) {
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			r.host, r.replaced, err = register(ctx, s.q.WithTx(tx), p)
			return err
		})
		return r, err
	})
	return r.host, r.replaced, err
}

func register(ctx context.Context, q *dbgen.Queries, p dbgen.UpsertHostParams) (Host, []id.Host, error) {
	ids, err := q.ReplaceHosts(ctx, dbgen.ReplaceHostsParams{Address: p.Address, ID: p.ID})
	if err != nil {
		return Host{}, nil, fmt.Errorf("replace hosts at %s: %w", p.Address, err)
	}
	replaced, err := convert(ids, func(s string) (id.Host, error) { return id.Host(s), nil })
	if err != nil {
		return Host{}, nil, err
	}
	row, err := q.UpsertHost(ctx, p)
	if err != nil {
		return Host{}, nil, fmt.Errorf("register host %s: %w", p.ID, errRemoved(err, p.ID))
	}
	h, err := host(row)
	return h, replaced, err
}

// HeardOf notes that hosts were heard of which are as they were registered, unless that was noted within fresh, and returns those that are ready. The others are to
// be registered again: they were marked as unreachable, replaced or removed meanwhile.
func (s *Store) HeardOf(ctx context.Context, hosts []id.Host, fresh time.Duration) (ready []id.Host, err error) {
	p := dbgen.HeardOfParams{FreshSeconds: fresh.Seconds()}
	for _, h := range hosts {
		p.IDs = append(p.IDs, string(h))
	}
	return retry(ctx, func(ctx context.Context) ([]id.Host, error) {
		ids, err := s.q.HeardOf(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("note that hosts were heard of: %w", err)
		}
		return convert(ids, func(s string) (id.Host, error) { return id.Host(s), nil })
	})
}

func hostParams(h Host, connected bool) (dbgen.UpsertHostParams, error) {
	if h.Templates == nil {
		h.Templates = []models.Template{}
	}
	templates, err := json.Marshal(h.Templates)
	if err != nil {
		return dbgen.UpsertHostParams{}, fmt.Errorf("encode templates: %w", err)
	}
	p := dbgen.UpsertHostParams{
		ID: string(h.ID), Name: h.Name, Address: h.Address, AgentVersion: h.AgentVersion,
		Driver: h.Driver, DriverVersion: h.DriverVersion, Accelerator: h.Accelerator,
		VCPUs: int32(h.VCPUs), MemoryMiB: h.MemoryMiB, OverheadMiB: h.OverheadMiB, DiskMiB: h.DiskMiB, Reflinks: h.Reflinks, Templates: templates, Archive: h.Archive,
	}
	if connected {
		p.Connects = 1
	}
	return p, nil
}

func host(r dbgen.Host) (Host, error) {
	h := Host{
		ID: id.Host(r.ID), Name: r.Name, Address: r.Address, AgentVersion: r.AgentVersion,
		Driver: r.Driver, DriverVersion: r.DriverVersion, Accelerator: r.Accelerator,
		VCPUs: int(r.VCPUs), MemoryMiB: r.MemoryMiB, OverheadMiB: r.OverheadMiB, DiskMiB: r.DiskMiB, Reflinks: r.Reflinks,
		Archive: r.Archive, Connects: r.Connects, LastSeenAt: r.LastSeenAt, CreatedAt: r.CreatedAt, JoinedAt: orZero(r.JoinedAt), HostCondition: condition(r),
	}
	if err := json.Unmarshal(r.Templates, &h.Templates); err != nil {
		return h, fmt.Errorf("decode templates of %s: %w", r.ID, err)
	}
	return h, nil
}

// MarkUnreachable notes that a host does not answer. RegisterHost takes it back.
func (s *Store) MarkUnreachable(ctx context.Context, h id.Host) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.MarkUnreachable(ctx, string(h))
	})
	return err
}

// Hosts lists the hosts that were neither replaced nor removed.
func (s *Store) Hosts(ctx context.Context) ([]Host, error) {
	return retry(ctx, func(ctx context.Context) ([]Host, error) {
		rows, err := s.q.ListHosts(ctx)
		if err != nil {
			return nil, fmt.Errorf("list hosts: %w", err)
		}
		return convert(rows, host)
	})
}

// usedHosts returns the hosts and what is taken of them. Nothing is locked.
func usedHosts(ctx context.Context, q *dbgen.Queries) ([]HostUse, error) {
	rows, err := q.ListHosts(ctx)
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", err)
	}
	taken, err := q.Allotments(ctx)
	if err != nil {
		return nil, fmt.Errorf("sum what sandboxes take: %w", err)
	}
	use := map[string]Use{}
	for _, t := range taken {
		use[t.HostID] = Use{Sandboxes: t.Sandboxes, VCPUs: t.VCPUs, MemoryMiB: t.MemoryMiB, DiskMiB: t.DiskMiB}
	}
	return convert(rows, func(r dbgen.Host) (HostUse, error) {
		h, err := host(r)
		return HostUse{Host: h, Use: use[r.ID]}, err
	})
}

// Row is what a reconciler needs to know of a sandbox.
type Row struct {
	ID         id.Sandbox
	Host       id.Host // empty for one that was never placed
	HostName   string  // only from Homeless
	Removed    bool    // likewise: its host was, and not replaced
	State      models.State
	Generation int64
	Overdue    bool          // past the deadline of its state
	Forsaken   bool          // the control plane that carried out what its state is for has died
	Age        time.Duration // since its state last changed
	Forked     bool          // it is the child of a fork

	NetworkGeneration int64 // of the network policy that is wanted
	Cold              bool  // see models.Sandbox

	Verified time.Time // when the snapshot that it sleeps in was found whole; zero before
	Damage   string    // of that
}

// PolicyNews is for how long after a change of a sandbox's network policy Unsettled returns it.
const PolicyNews = 2 * time.Minute

// RowsForHost returns the sandboxes that h should hold (all but pending and ended ones) and
// those among observed, wherever they should be.
func (s *Store) RowsForHost(ctx context.Context, h id.Host, observed []id.Sandbox) ([]Row, error) {
	rows, err := s.reconcileRows(ctx, dbgen.ReconcileRowsParams{HostID: string(h)}, observed)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of host %s: %w", h, err)
	}
	return rows, nil
}

// Unsettled returns the sandboxes of all hosts of which anything is on its way: those in a passing state, those whose network policy was changed within PolicyNews,
// and those among observed.
func (s *Store) Unsettled(ctx context.Context, observed []id.Sandbox) ([]Row, error) {
	rows, err := s.reconcileRows(ctx, dbgen.ReconcileRowsParams{Passing: true, PolicySeconds: PolicyNews.Seconds()}, observed)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes that are on their way: %w", err)
	}
	return rows, nil
}

func (s *Store) reconcileRows(ctx context.Context, p dbgen.ReconcileRowsParams, named []id.Sandbox) ([]Row, error) {
	p.SilenceSeconds, p.Named = Silence.Seconds(), make([]string, len(named))
	for i, sb := range named {
		p.Named[i] = string(sb)
	}
	return retry(ctx, func(ctx context.Context) ([]Row, error) {
		rows, err := s.q.ReconcileRows(ctx, p)
		if err != nil {
			return nil, err
		}
		return convert(rows, func(r dbgen.ReconcileRowsRow) (Row, error) {
			row := Row{ID: id.Sandbox(r.ID), State: r.State, Generation: r.Generation, Overdue: r.Overdue, Forsaken: r.Forsaken, NetworkGeneration: r.NetworkGeneration, Cold: r.Cold, Forked: r.Forked, Verified: orZero(r.VerifiedAt), Damage: r.Damage}
			row.Age = time.Duration(r.AgeSeconds * float64(time.Second))
			if r.HostID != nil {
				row.Host = id.Host(*r.HostID)
			}
			return row, nil
		})
	})
}

// Homeless returns the sandboxes in passing or running states that no host can answer for:
// those past their deadline without a host, and those of replaced or removed hosts.
func (s *Store) Homeless(ctx context.Context) ([]Row, error) {
	return retry(ctx, func(ctx context.Context) ([]Row, error) {
		rows, err := s.q.HomelessRows(ctx)
		if err != nil {
			return nil, fmt.Errorf("list sandboxes without a host: %w", err)
		}
		return convert(rows, func(r dbgen.HomelessRowsRow) (Row, error) {
			return Row{ID: id.Sandbox(r.ID), HostName: r.HostName, Removed: r.HostRemoved, State: r.State, Generation: r.Generation, Overdue: true, Cold: r.Cold, Forked: r.Forked}, nil
		})
	})
}
