package db

import (
	"context"
	"fmt"
	"time"

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

// UsagePeriods calls add with each period of an account of which something lies in [from, to), in no order that means anything. They are read by pages: their number costs no memory.
func (s *Store) UsagePeriods(ctx context.Context, account id.Account, from, to time.Time, add func(usage.Period)) error {
	p := dbgen.UsagePeriodsParams{AccountID: string(account), Since: from, Until: to, MaxRows: usagePage}
	for {
		rows, err := retry(ctx, func(ctx context.Context) ([]dbgen.UsagePeriod, error) { return s.q.UsagePeriods(ctx, p) })
		if err != nil {
			return fmt.Errorf("read the usage of %s: %w", account, err)
		}
		for _, r := range rows {
			add(period(r))
			p.After = r.ID
		}
		if len(rows) < usagePage {
			return nil
		}
	}
}
