package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

const (
	createHosts    = 100
	createAccounts = 100
	warmUp         = 500 // creates before a load
	segments       = 4   // of the database's log that are left to a load: 64 MiB
)

// creates measures how many creates a second there can be, and what one takes at half of that.
func (b *bench) creates(ctx context.Context) error {
	var rate float64
	err := b.onStage(ctx, plan{hosts: createHosts, accounts: createAccounts}, func(ctx context.Context, s *stage) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		used, err := s.cost(ctx)
		if err != nil {
			return err
		}
		n, took, err := s.closed(ctx, b.load)
		if err != nil {
			return err
		}
		rate = n / took.Seconds()
		b.add("cp_creates_per_second", "1/s", "creates by 64 clients of 100 accounts one after the other, on 100 hosts without VMs; load, hosts, Postgres and Redis on the same machine", rate)
		return b.costs(ctx, s, used, n)
	})
	if err != nil {
		return err
	}
	err = b.onStage(ctx, plan{hosts: createHosts, accounts: createAccounts}, func(ctx context.Context, s *stage) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		samples, err := s.open(ctx, rate/2, b.load)
		if err == nil {
			b.add("cp_create_half_load_ms", "ms", "a create at half of cp_creates_per_second, from when it was due, however late those before it are", samples...)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.variants(ctx)
}

// variants measures the rate where all sandboxes are one account's, and where each request has an idempotency key.
func (b *bench) variants(ctx context.Context) error {
	for _, v := range []struct {
		name, how string
		accounts  int
		headers   func() []string
	}{
		{"cp_creates_one_account_per_second", "the same, of a single account, whose pool is counted in one row", 1, nil},
		{"cp_creates_with_key_per_second", "the same, of 100 accounts, each request with an idempotency key", createAccounts, func() []string {
			return []string{"Idempotency-Key", string(id.NewRequest())}
		}},
	} {
		err := b.onStage(ctx, plan{hosts: createHosts, accounts: v.accounts}, func(ctx context.Context, s *stage) error {
			s.headers = v.headers
			if err := s.warm(ctx); err != nil {
				return err
			}
			n, took, err := s.closed(ctx, b.load)
			if err == nil {
				b.add(v.name, "1/s", v.how, n/took.Seconds())
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) one(ctx context.Context, n int) (created, error) {
	if s.headers == nil {
		return s.create(ctx, n)
	}
	return s.create(ctx, n, s.headers()...)
}

// warm creates some that do not count, and has the database look as if it had run for long.
func (s *stage) warm(ctx context.Context) error {
	g, limited := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range warmUp {
		g.Go(func() error {
			_, err := s.one(limited, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.age(ctx)
}

// age leaves segments of the write-ahead log to be used again, as there are on a server after its first checkpoints. A new one is first filled with 16 MiB of zeros, while all commits wait.
func (s *stage) age(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.stack.PostgresURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for range segments {
		if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()"); err != nil {
			return fmt.Errorf("switch to another segment of the log: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("free the segments of the log: %w", err)
	}
	unix.Sync() // what was measured before has left files to be written, for which the database's would wait
	return nil
}

// closed creates for a while, by clients that wait for an answer before they ask again.
func (s *stage) closed(ctx context.Context, load time.Duration) (n float64, took time.Duration, err error) {
	began := time.Now()
	var made atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for i := range atOnce {
		g.Go(func() error {
			for n := i; time.Since(began) < load; n += atOnce {
				if _, err := s.one(ctx, n); err != nil {
					return err
				}
				made.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return float64(made.Load()), time.Since(began), err
}

// open creates at a rate, and returns how many milliseconds it was from when each create was due until its answer.
func (s *stage) open(ctx context.Context, rate float64, load time.Duration) ([]float64, error) {
	var mu sync.Mutex // guards took
	var took []float64
	g, ctx := errgroup.WithContext(ctx)
	began, n := time.Now(), int(rate*load.Seconds())
	for i := range n {
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if err := until(ctx, due); err != nil {
			break
		}
		g.Go(func() error {
			_, err := s.one(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, milliseconds(time.Since(due)))
			return err
		})
	}
	return took, g.Wait()
}

func until(ctx context.Context, due time.Time) error {
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
