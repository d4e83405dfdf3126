package db

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ErrMoved is returned by Transition when the row was not in the state and generation
// expected: another request or the reconciler got there first.
var ErrMoved = models.Errorf(models.Conflict, "another request has changed the sandbox meanwhile")

// By says who changes something, and in the course of what.
type By struct {
	Actor     string // an API key's id, "operator" or "system"
	Operation string // a request's id, or "reconcile"
	Claim     *Claim // of the request's idempotency key, to which what is inserted is bound; nil for none
}

// NewSandbox is a sandbox that does not exist yet.
type NewSandbox struct {
	ID       id.Sandbox
	Account  id.Account
	Name     string
	Template string
	Metadata map[string]string
	Network  models.NetworkPolicy
	By       By
	Within   time.Duration // until when it must run

	AutoResume bool
	Lifecycle  models.Lifecycle
	Parent     id.Sandbox  // that it is forked from; empty for none
	Snapshot   id.Snapshot // that it is created from; empty for none

	carrier *id.Replica // set by the store
}

// Placement is where a new sandbox goes and what it takes there.
type Placement struct {
	Host id.Host
	Size models.Size
}

// PlaceFunc chooses among hosts, and is called again with the one that it has chosen, as that is while no other placement happens there. It must not block.
type PlaceFunc func(hosts []*HostUse) (Placement, error)

// CreateSandbox inserts a sandbox, places it and leaves it in state starting, all in one
// transaction. When place fails nothing is left and its error is returned. An id that is
// taken gives Conflict: draw another.
func (s *Store) CreateSandbox(ctx context.Context, n NewSandbox, place PlaceFunc) (models.Sandbox, error) {
	defer s.tell()
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		var made models.Sandbox
		n.carrier = s.carrier()
		err := s.placing(ctx, func(q *dbgen.Queries, p *placing) (err error) {
			made, err = insertPlaced(ctx, q, n, p.placeFunc(place))
			return err
		})
		if isUnique(err) {
			return s.madeBefore(ctx, n)
		}
		return made, err
	})
}

func insertPlaced(ctx context.Context, q *dbgen.Queries, n NewSandbox, place reserveFunc) (models.Sandbox, error) {
	where, err := place(ctx, q)
	if err != nil {
		return models.Sandbox{}, err
	}
	if err := bind(ctx, q, n.By.Claim, n.ID); err != nil {
		return models.Sandbox{}, err
	}
	made, err := insertAt(ctx, q, n, where)
	if err != nil {
		return models.Sandbox{}, err
	}
	return made, takePool(ctx, q, n.Account, where.Size.Whole(1))
}

func insertAt(ctx context.Context, q *dbgen.Queries, n NewSandbox, where Placement) (models.Sandbox, error) {
	meta, err := json.Marshal(nonNil(n.Metadata))
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("encode metadata: %w", err)
	}
	policy, err := encodeNetwork(n.Network)
	if err != nil {
		return models.Sandbox{}, err
	}
	row, err := q.InsertSandbox(ctx, dbgen.InsertSandboxParams{
		ID: string(n.ID), AccountID: string(n.Account), HostID: string(where.Host), Name: n.Name, Template: n.Template,
		VCPUs: int32(where.Size.VCPUs), MemoryMiB: int32(where.Size.MemoryMiB), DiskMiB: int32(where.Size.DiskMiB),
		Metadata: meta, Network: policy, AutoResume: n.AutoResume, Actor: n.By.Actor, Operation: n.By.Operation, DeadlineSeconds: n.Within.Seconds(),
		AutoPauseSeconds: seconds(n.Lifecycle.AutoPause), AutoHibernateSeconds: seconds(n.Lifecycle.AutoHibernate),
		AutoDestroySeconds: seconds(n.Lifecycle.AutoDestroy), TimeoutSeconds: seconds(n.Lifecycle.Timeout), OnTimeout: string(cmp.Or(n.Lifecycle.OnTimeout, models.DestroyOnTimeout)),
		ParentID: orNil(n.Parent), SnapshotID: orNil(n.Snapshot), CarriedBy: (*string)(n.carrier),
	})
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("insert sandbox: %w", err)
	}
	return sandbox(dbgen.Sandbox(row))
}

// madeBefore returns the sandbox when this very operation has made it: its connection
// broke after the commit and before the answer.
func (s *Store) madeBefore(ctx context.Context, n NewSandbox) (models.Sandbox, error) {
	row, err := s.q.SandboxByID(ctx, string(n.ID))
	if err == nil && row.Operation == n.By.Operation && row.State == models.Starting {
		return sandbox(row)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return models.Sandbox{}, err
	}
	return models.Sandbox{}, models.Errorf(models.Conflict, "the sandbox id %s is taken", n.ID)
}

// Change is one change of a sandbox's state.
type Change struct {
	ID         id.Sandbox
	From       models.State
	Generation int64
	To         models.State
	Reason     string
	By         By
	Within     time.Duration // until To must have passed; 0 for a state that may last
	Host       id.Host       // set when it is placed; empty leaves it
	Steps      []models.Step // set when it was created; nil leaves them
	Audit      Audit

	carrier *id.Replica // set by the store

	Resumed *models.Certificate // set when it was resumed, or made from a golden snapshot; nil leaves it
	Archive *models.Archive     // set when it was stored; nil leaves it
}

// Audit is what the audit log says of a change. The zero Audit says nothing.
type Audit struct {
	Action  string // sandbox.create, sandbox.pause, sandbox.resume, sandbox.hibernate or sandbox.destroy
	Outcome string // accepted, ok or an error's code
}

// FitFunc refuses a change for want of room on one of hosts, as of PlaceFunc. It must not block.
type FitFunc func(hosts []*HostUse) error

// TransitionIfRoom is Transition of a sandbox that takes room again on c.Host: when fit fails nothing is changed and its error is returned.
func (s *Store) TransitionIfRoom(ctx context.Context, c Change, fit FitFunc) (models.Sandbox, error) {
	return s.TransitionPlaced(ctx, c, func(hosts []*HostUse) (id.Host, error) { return c.Host, fit(hosts) })
}

// Transition applies c and returns the new row, or the row as it is with ErrMoved. A
// change that its own earlier attempt had made counts as made.
func (s *Store) Transition(ctx context.Context, c Change) (models.Sandbox, error) {
	defer s.tell()
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		c.carrier = s.carrier()
		made, err := transition(ctx, s.q, c)
		return s.movedOr(ctx, c, made, err)
	})
}

// movedOr returns what became of c: where it found no row to change, the row as it is.
func (s *Store) movedOr(ctx context.Context, c Change, made models.Sandbox, err error) (models.Sandbox, error) {
	if !errors.Is(err, pgx.ErrNoRows) {
		return made, err
	}
	row, err := s.q.SandboxByID(ctx, string(c.ID))
	if err != nil {
		return models.Sandbox{}, notFound(err, missing(c.ID))
	}
	now, err := sandbox(row)
	if err == nil && (now.State != c.To || now.Generation != c.Generation+1 || row.Operation != c.By.Operation) {
		err = ErrMoved
	}
	return now, err
}

func transition(ctx context.Context, q *dbgen.Queries, c Change) (models.Sandbox, error) {
	p := dbgen.TransitionSandboxParams{
		ID: string(c.ID), FromState: c.From, Generation: c.Generation, ToState: c.To, Reason: c.Reason,
		Actor: c.By.Actor, Operation: c.By.Operation, AuditAction: c.Audit.Action, AuditOutcome: c.Audit.Outcome,
	}
	if c.Within > 0 {
		seconds := c.Within.Seconds()
		p.DeadlineSeconds, p.CarriedBy = &seconds, (*string)(c.carrier)
	}
	if c.Host != "" {
		host := string(c.Host)
		p.HostID = &host
	}
	if c.Steps != nil {
		b, err := encodeSteps(c.Steps)
		if err != nil {
			return models.Sandbox{}, err
		}
		p.Timings = b
	}
	var err error
	if p.Certificate, err = encodeCertificate(c.Resumed); err != nil {
		return models.Sandbox{}, err
	}
	if p.Archive, err = encodeArchive(c.Archive); err != nil {
		return models.Sandbox{}, err
	}
	row, err := q.TransitionSandbox(ctx, p)
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("change sandbox %s from %s to %s: %w", c.ID, c.From, c.To, err)
	}
	return sandbox(dbgen.Sandbox(row))
}

// Sandbox returns a sandbox of account, or NotFound.
func (s *Store) Sandbox(ctx context.Context, account id.Account, sb id.Sandbox) (models.Sandbox, error) {
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		row, err := s.q.SandboxOfAccount(ctx, dbgen.SandboxOfAccountParams{ID: string(sb), AccountID: string(account)})
		if err != nil {
			return models.Sandbox{}, notFound(err, missing(sb))
		}
		return sandbox(row)
	})
}

// SandboxOfAny returns a sandbox whoever's it is, or NotFound.
func (s *Store) SandboxOfAny(ctx context.Context, sb id.Sandbox) (models.Sandbox, error) {
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		row, err := s.q.SandboxByID(ctx, string(sb))
		if err != nil {
			return models.Sandbox{}, notFound(err, missing(sb))
		}
		return sandbox(row)
	})
}

// Filter chooses sandboxes of a list.
type Filter struct {
	Account  id.Account
	States   []models.State
	Template string            // "" for all
	Metadata map[string]string // that they have, beside others
	Before   time.Time         // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.Sandbox
	Limit    int
}

// List returns sandboxes, newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]models.Sandbox, error) {
	p := dbgen.ListSandboxesParams{AccountID: string(f.Account), BeforeID: string(f.BeforeID), MaxRows: int32(f.Limit)}
	for _, state := range f.States {
		p.States = append(p.States, string(state))
	}
	if f.Template != "" {
		p.Template = &f.Template
	}
	var err error
	if p.Metadata, err = json.Marshal(nonNil(f.Metadata)); err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	if !f.Before.IsZero() {
		p.Before = &f.Before
	}
	return retry(ctx, func(ctx context.Context) ([]models.Sandbox, error) {
		rows, err := s.q.ListSandboxes(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		return convert(rows, sandbox)
	})
}

func missing(sb id.Sandbox) *models.Error {
	return models.Errorf(models.NotFound, "there is no sandbox %s", sb)
}
