package db

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

// usagePage is how many periods are read at a time.
const usagePage = 5000

func period(r dbgen.UsagePeriod) usage.Period {
	p := usage.Period{
		ID: r.ID, Account: id.Account(r.AccountID), Sandbox: id.Sandbox(r.SandboxID), Kind: usage.Kind(r.Kind),
		VCPUs: int64(r.VCPUs), MemoryMiB: r.MemoryMiB, StoredMiB: r.StoredMiB, Begin: r.BegunAt, End: orZero(r.EndedAt),
	}
	if r.SnapshotID != nil {
		p.Snapshot = id.Snapshot(*r.SnapshotID)
	}
	return p
}

// Now returns the time by the database's clock, as all times that it keeps.
func (s *Store) Now(ctx context.Context) (time.Time, error) { return retry(ctx, s.q.Now) }

// UsagePeriods goes through the periods of an account of which something lies in [from, to), in the order in which they end: each is given to what start returned last. It is called at the
// beginning of each try. They are of one moment, and are read by pages: their number costs no memory.
func (s *Store) UsagePeriods(ctx context.Context, account id.Account, from, to time.Time, start func() (add func(usage.Period))) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			return usagePages(ctx, s.q.WithTx(tx), account, from, to, start())
		})
	})
	return err
}

func usagePages(ctx context.Context, q *dbgen.Queries, account id.Account, from, to time.Time, add func(usage.Period)) error {
	p := dbgen.UsagePeriodsParams{AccountID: string(account), Until: to, AfterEnd: &from, AfterID: math.MaxInt64, MaxRows: usagePage} // one that ends at from has nothing of it
	for {
		rows, err := q.UsagePeriods(ctx, p)
		if err != nil {
			return fmt.Errorf("read the usage of %s: %w", account, err)
		}
		for _, r := range rows {
			add(period(r))
			p.AfterEnd, p.AfterID = r.EndedAt, r.ID
		}
		if len(rows) < usagePage {
			return nil
		}
	}
}
