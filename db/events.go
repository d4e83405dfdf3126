package db

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Event is one change of a sandbox's state that happened.
type Event struct {
	ID         int64 // grows from event to event of a sandbox
	Sandbox    id.Sandbox
	From       models.State // empty for the first
	To         models.State
	Reason     string
	Actor      string
	Operation  string
	Generation int64
	At         time.Time
}

func event(r dbgen.SandboxEvent) (Event, error) {
	e := Event{
		ID: r.ID, Sandbox: id.Sandbox(r.SandboxID), To: r.ToState, Reason: r.Reason, Actor: r.Actor, Operation: r.Operation,
		Generation: r.Generation, At: r.At,
	}
	if r.FromState != nil {
		e.From = *r.FromState
	}
	return e, nil
}

// Events returns up to limit changes of a sandbox after a generation, oldest first.
func (s *Store) Events(ctx context.Context, sb id.Sandbox, after int64, limit int) ([]Event, error) {
	return retry(ctx, func(ctx context.Context) ([]Event, error) {
		rows, err := s.q.SandboxEventsAfter(ctx, dbgen.SandboxEventsAfterParams{SandboxID: string(sb), After: after, MaxRows: int32(limit)})
		if err != nil {
			return nil, fmt.Errorf("list events: %w", err)
		}
		return convert(rows, event)
	})
}

// horizonPollFirst and horizonPollMost are how often it is looked whether writing transactions have ended, which take milliseconds.
const horizonPollFirst, horizonPollMost = 2 * time.Millisecond, 50 * time.Millisecond

// EventHorizon returns an id up to which it is decided which events there are: no transaction that is under way will add one at or below it. Ids are given before
// transactions end, in another order; who follows the events up to horizons misses none. It waits for the transactions that were writing when it was called.
//
// It rests on this: whoever inserts an event has written something else in its transaction before, and so has a transaction id, when the event gets its id.
func (s *Store) EventHorizon(ctx context.Context) (int64, error) {
	return retry(ctx, func(ctx context.Context) (int64, error) {
		last, err := s.q.LastEventID(ctx)
		if err != nil {
			return 0, fmt.Errorf("read the last event's id: %w", err)
		}
		begun, err := s.q.NewTransactionID(ctx) // after that: whoever has got an event's id by now has a smaller one
		if err != nil {
			return 0, err
		}
		for wait := horizonPollFirst; ; wait = min(2*wait, horizonPollMost) {
			oldest, err := s.q.OldestTransactionID(ctx)
			if err != nil {
				return 0, err
			}
			if oldest > begun {
				return last, nil
			}
			if !sleep(ctx, wait) {
				return 0, ctx.Err()
			}
		}
	})
}

// EventFilter chooses events up to a horizon.
type EventFilter struct {
	Account id.Account
	Sandbox id.Sandbox // "" for those of all
	Horizon int64
	After   int64 // only events with a greater id, oldest first; for EventsAfter
	Before  int64 // only events with a smaller id, 0 for all, newest first; for ListEvents
	Limit   int
}

// EventsAfter returns the next events of an account, oldest first.
func (s *Store) EventsAfter(ctx context.Context, f EventFilter) ([]Event, error) {
	return retry(ctx, func(ctx context.Context) ([]Event, error) {
		rows, err := s.q.EventsAfter(ctx, dbgen.EventsAfterParams{
			AccountID: string(f.Account), Sandbox: orNil(f.Sandbox), After: f.After, Horizon: f.Horizon, MaxRows: int32(f.Limit),
		})
		if err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		return convert(rows, event)
	})
}

// ListEvents returns events of an account, newest first.
func (s *Store) ListEvents(ctx context.Context, f EventFilter) ([]Event, error) {
	if f.Before == 0 {
		f.Before = math.MaxInt64
	}
	return retry(ctx, func(ctx context.Context) ([]Event, error) {
		rows, err := s.q.ListEvents(ctx, dbgen.ListEventsParams{
			AccountID: string(f.Account), Sandbox: orNil(f.Sandbox), Before: f.Before, Horizon: f.Horizon, MaxRows: int32(f.Limit),
		})
		if err != nil {
			return nil, fmt.Errorf("list events: %w", err)
		}
		return convert(rows, event)
	})
}

// AccountsWithEvents returns whose events lie beyond after, up to horizon.
func (s *Store) AccountsWithEvents(ctx context.Context, after, horizon int64) ([]id.Account, error) {
	return retry(ctx, func(ctx context.Context) ([]id.Account, error) {
		rows, err := s.q.AccountsWithEvents(ctx, dbgen.AccountsWithEventsParams{After: after, Horizon: horizon})
		if err != nil {
			return nil, fmt.Errorf("look for events: %w", err)
		}
		return convert(rows, func(a string) (id.Account, error) { return id.Account(a), nil })
	})
}

// WhenEvents has told called after each change of a sandbox's state through this store, and sometimes without one. It must not block. It is set before the store is used.
func (s *Store) WhenEvents(told func()) { s.told = told }

func (s *Store) tell() {
	if s.told != nil {
		s.told()
	}
}
