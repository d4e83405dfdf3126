package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

const (
	// cutGrace is how long ago an hour must have ended to be cut off periods that last. One that ends at that moment is then known to have ended. It is not what keeps the count
	// right: a period never ends before it was cut.
	cutGrace = time.Minute
	// cutsAtOnce is how many parts of a period are cut off in one transaction.
	cutsAtOnce = 50
)

// UsageState is what has become of a usage event. The values equal those of the database.
type UsageState string

// The states.
const (
	UsagePending   UsageState = "pending"
	UsageDelivered UsageState = "delivered"
	UsageRefused   UsageState = "refused" // it was answered that it is wrong, and is not tried again unless somebody says so
)

// QueuedUsage is a usage event in the outbox.
type QueuedUsage struct {
	usage.Event
	State       UsageState
	Attempts    int
	NextAt      time.Time // no try before
	Error       string    // of the last try that failed
	DeliveredAt time.Time // zero before
}

func queuedUsage(r dbgen.UsageOutbox) (QueuedUsage, error) {
	q := QueuedUsage{
		Event: usage.Event{
			Transaction: r.TransactionID, Account: id.Account(r.AccountID), Sandbox: id.Sandbox(r.SandboxID), Kind: usage.Kind(r.Kind), Metric: usage.Metric(r.Metric),
			Begin: r.BegunAt, End: r.EndedAt, Value: r.Value,
		},
		State: UsageState(r.State), Attempts: int(r.Attempts), NextAt: r.NextAt, Error: r.Error, DeliveredAt: orZero(r.DeliveredAt),
	}
	if r.SnapshotID != nil {
		q.Snapshot = id.Snapshot(*r.SnapshotID)
	}
	return q, nil
}

// CutUsage puts into the outbox what is due of up to most periods: of those that last the hours that are over, of those that have ended the rest. It returns of how many it was; any
// number of replicas may do it at once.
func (s *Store) CutUsage(ctx context.Context, most int) (int, error) {
	return retry(ctx, func(ctx context.Context) (n int, err error) {
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			n, err = cutUsage(ctx, s.q.WithTx(tx), most)
			return err
		})
		return n, err
	})
}

func cutUsage(ctx context.Context, q *dbgen.Queries, most int) (int, error) {
	now, err := q.Now(ctx)
	if err != nil {
		return 0, err
	}
	hour := now.Add(-cutGrace).Truncate(time.Hour)
	rows, err := q.LockUncutPeriods(ctx, dbgen.LockUncutPeriodsParams{Hour: hour, MaxRows: int32(most)})
	if err != nil {
		return 0, fmt.Errorf("look for usage to cut: %w", err)
	}
	var events []usage.Event
	var cuts dbgen.SetCutsParams
	for _, r := range rows {
		cut := r.BegunAt
		if r.CutAt != nil {
			cut = *r.CutAt
		}
		parts, cut := period(r).Cut(cut, hour, cutsAtOnce)
		events = append(events, parts...)
		cuts.IDs, cuts.Cuts = append(cuts.IDs, r.ID), append(cuts.Cuts, cut)
	}
	if err := queueUsage(ctx, q, events); err != nil {
		return 0, err
	}
	if err := q.SetCuts(ctx, cuts); err != nil {
		return 0, fmt.Errorf("note what is cut of usage: %w", err)
	}
	return len(rows), nil
}

func queueUsage(ctx context.Context, q *dbgen.Queries, events []usage.Event) error {
	var p dbgen.InsertUsageOutboxParams
	for _, e := range events {
		p.Transactions = append(p.Transactions, e.Transaction)
		p.Accounts = append(p.Accounts, string(e.Account))
		p.Sandboxes = append(p.Sandboxes, string(e.Sandbox))
		p.Snapshots = append(p.Snapshots, string(e.Snapshot))
		p.Kinds = append(p.Kinds, string(e.Kind))
		p.Metrics = append(p.Metrics, string(e.Metric))
		p.Begins = append(p.Begins, e.Begin)
		p.Ends = append(p.Ends, e.End)
		p.Vals = append(p.Vals, e.Value)
	}
	if err := q.InsertUsageOutbox(ctx, p); err != nil {
		return fmt.Errorf("queue usage: %w", err)
	}
	return nil
}

// ClaimUsage returns up to most events that it is time to deliver. Nobody else gets them until claim has passed.
func (s *Store) ClaimUsage(ctx context.Context, most int, claim time.Duration) ([]usage.Event, error) {
	rows, err := s.q.ClaimUsageOutbox(ctx, dbgen.ClaimUsageOutboxParams{MaxRows: int32(most), ClaimSeconds: claim.Seconds()})
	if err != nil {
		return nil, fmt.Errorf("claim usage: %w", coded(err))
	}
	return convert(rows, func(r dbgen.UsageOutbox) (usage.Event, error) {
		q, err := queuedUsage(r)
		return q.Event, err
	})
}

// UsageArrived notes that events are delivered.
func (s *Store) UsageArrived(ctx context.Context, events []usage.Event) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.NoteUsageDelivered(ctx, transactions(events))
	})
	return err
}

// UsageRefused notes that an event is wrong, and why. It is not tried again.
func (s *Store) UsageRefused(ctx context.Context, e usage.Event, why string) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.NoteUsageRefused(ctx, dbgen.NoteUsageRefusedParams{TransactionID: e.Transaction, Error: why})
	})
	return err
}

// Backoff is how long what has failed waits: first, then twice as long each time, up to most; and at least as long as was asked for.
type Backoff struct{ First, Most, Asked time.Duration }

// PostponeUsage has events that could not be delivered tried again later, and notes why.
func (s *Store) PostponeUsage(ctx context.Context, events []usage.Event, b Backoff, why string) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.PostponeUsageOutbox(ctx, dbgen.PostponeUsageOutboxParams{
			Transactions: transactions(events), Error: why, FirstSeconds: b.First.Seconds(), LongestSeconds: b.Most.Seconds(), AskedSeconds: b.Asked.Seconds(),
		})
	})
	return err
}

// ReturnUsage gives events back that were claimed and not tried.
func (s *Store) ReturnUsage(ctx context.Context, events []usage.Event) error {
	return coded(s.q.ReturnUsageOutbox(ctx, transactions(events))) // what is not given back is free when the claim has passed
}

func transactions(events []usage.Event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.Transaction
	}
	return all
}

// SweepUsage forgets up to most events that were delivered longer than keep ago, and returns how many there were.
func (s *Store) SweepUsage(ctx context.Context, keep time.Duration, most int) (int, error) {
	n, err := s.q.SweepUsageOutbox(ctx, dbgen.SweepUsageOutboxParams{KeepSeconds: keep.Seconds(), MaxRows: int32(most)})
	return int(n), coded(err)
}

// QueuedUsage lists up to most events of a state, oldest first.
func (s *Store) QueuedUsage(ctx context.Context, state UsageState, most int) ([]QueuedUsage, error) {
	return retry(ctx, func(ctx context.Context) ([]QueuedUsage, error) {
		rows, err := s.q.ListUsageOutbox(ctx, dbgen.ListUsageOutboxParams{State: string(state), MaxRows: int32(most)})
		if err != nil {
			return nil, fmt.Errorf("list usage events: %w", err)
		}
		return convert(rows, queuedUsage)
	})
}

// UsageCount is how many events of a state there are.
type UsageCount struct {
	State  UsageState
	Number int64
	Oldest time.Time // of what they are about
}

// CountUsage counts the events in the outbox, but for those that were delivered and forgotten.
func (s *Store) CountUsage(ctx context.Context) ([]UsageCount, error) {
	return retry(ctx, func(ctx context.Context) ([]UsageCount, error) {
		rows, err := s.q.CountUsageOutbox(ctx)
		if err != nil {
			return nil, fmt.Errorf("count usage events: %w", err)
		}
		return convert(rows, func(r dbgen.CountUsageOutboxRow) (UsageCount, error) {
			return UsageCount{UsageState(r.State), r.Number, r.Oldest}, nil
		})
	})
}

// RetryUsage has refused events tried again, with audit events: those of some transactions, or all where none is named. It returns how many there were.
func (s *Store) RetryUsage(ctx context.Context, by By, transactions []string) (int64, error) {
	if transactions == nil {
		transactions = []string{}
	}
	n, err := s.q.RetryUsageOutbox(ctx, dbgen.RetryUsageOutboxParams{Transactions: transactions, Actor: by.Actor, RequestID: by.Operation})
	return n, coded(err)
}
