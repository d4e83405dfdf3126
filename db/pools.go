package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Account is an account as operators see it.
type Account struct {
	ID        id.Account
	Name      string
	CreatedAt time.Time
	Pool      models.Pool
}

// takePool refuses what this transaction has just taken of an account's pool when it was not there: the transaction must be given up then. It comes after the statements that
// take, which have counted it and hold the account until the end, so that of any number of transactions each sees what the others took. No lock is taken that the
// caller had not before: docs/adr/0023-pools.md.
func takePool(ctx context.Context, q *dbgen.Queries, account id.Account, asked models.Room) error {
	row, err := q.PoolOfAccount(ctx, string(account))
	if err != nil {
		return fmt.Errorf("read the pool of %s: %w", account, err)
	}
	p := pool(row)
	p.Used = p.Used.Minus(asked)
	return p.Take(asked)
}

func pool(r dbgen.PoolOfAccountRow) models.Pool {
	return models.Pool{
		Limit: models.Room{VCPUs: limit(r.PoolVCPUs), MemoryMiB: limit(r.PoolMemoryMiB), DiskMiB: limit(r.PoolDiskMiB), Sandboxes: limit(r.PoolSandboxes)},
		Used:  models.Room{VCPUs: r.UsedVCPUs, MemoryMiB: r.UsedMemoryMiB, DiskMiB: r.UsedDiskMiB, Sandboxes: r.UsedSandboxes},
	}
}

func limit(n *int64) int64 {
	if n == nil {
		return models.Unlimited
	}
	return *n
}

// Pool returns the pool of an account.
func (s *Store) Pool(ctx context.Context, account id.Account) (models.Pool, error) {
	return retry(ctx, func(ctx context.Context) (models.Pool, error) {
		row, err := s.q.PoolOfAccount(ctx, string(account))
		if err != nil {
			return models.Pool{}, fmt.Errorf("read the pool of %s: %w", account, err)
		}
		return pool(row), nil
	})
}

// AwaitPool has HearPools be told, for a while from now on, when an account gives something of its pool back. What was given back before that is seen by whoever looks after it.
func (s *Store) AwaitPool(ctx context.Context, account id.Account, wait time.Duration) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.AwaitPool(ctx, dbgen.AwaitPoolParams{ID: string(account), WaitSeconds: wait.Seconds()})
	})
	return err
}

// HearPools calls ready once it listens, and then heard whenever an account that is waited for has given something of its pool back, whichever replica was asked for that.
// It returns when ctx ends or the connection breaks.
func (s *Store) HearPools(ctx context.Context, ready func(), heard func(id.Account)) error {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return coded(err)
	}
	conn := pooled.Hijack() // held for long: the pool must not count it
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(ctx, "LISTEN wrenn_pool"); err != nil {
		return fmt.Errorf("listen for room in pools: %w", coded(err))
	}
	ready()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for room in pools: %w", coded(err))
		}
		heard(id.Account(n.Payload))
	}
}

// Accounts lists all accounts by name.
func (s *Store) Accounts(ctx context.Context) ([]Account, error) {
	return retry(ctx, func(ctx context.Context) ([]Account, error) {
		rows, err := s.q.ListAccounts(ctx)
		if err != nil {
			return nil, fmt.Errorf("list accounts: %w", err)
		}
		return convert(rows, func(r dbgen.ListAccountsRow) (Account, error) {
			return Account{ID: id.Account(r.ID), Name: r.Name, CreatedAt: r.CreatedAt, Pool: pool(dbgen.PoolOfAccountRow{
				PoolVCPUs: r.PoolVCPUs, PoolMemoryMiB: r.PoolMemoryMiB, PoolDiskMiB: r.PoolDiskMiB, PoolSandboxes: r.PoolSandboxes,
				UsedVCPUs: r.UsedVCPUs, UsedMemoryMiB: r.UsedMemoryMiB, UsedDiskMiB: r.UsedDiskMiB, UsedSandboxes: r.UsedSandboxes,
			})}, nil
		})
	})
}

// CreateAccount makes an account without limits, with its audit event. Conflict when there is one of that name.
func (s *Store) CreateAccount(ctx context.Context, name string, by By) (id.Account, error) {
	account := id.NewAccount()
	err := s.q.InsertAccount(ctx, dbgen.InsertAccountParams{ID: string(account), Name: name, Actor: by.Actor, RequestID: by.Operation})
	if isUnique(err) {
		return "", models.Errorf(models.Conflict, "there is an account %q", name).WithCause(err)
	}
	return account, coded(err)
}

// AccountNamed returns the account of that name, or NotFound.
func (s *Store) AccountNamed(ctx context.Context, name string) (id.Account, error) {
	return retry(ctx, func(ctx context.Context) (id.Account, error) {
		account, err := s.q.AccountByName(ctx, name)
		return id.Account(account), notFound(err, models.Errorf(models.NotFound, "there is no account %q", name))
	})
}

// PoolChange says which limits of a pool are to be others: Unlimited for none. What is nil stays.
type PoolChange struct {
	VCPUs, MemoryMiB, DiskMiB, Sandboxes *int64
}

// SetPool changes the limits of an account's pool, with its audit event. What the account has stays, also when it is more.
func (s *Store) SetPool(ctx context.Context, account id.Account, by By, c PoolChange) error {
	_, err := retry(ctx, func(ctx context.Context) (string, error) {
		p := dbgen.SetPoolParams{ID: string(account), Actor: by.Actor, RequestID: by.Operation}
		p.SetVCPUs, p.VCPUs = limitParam(c.VCPUs)
		p.SetMemoryMiB, p.MemoryMiB = limitParam(c.MemoryMiB)
		p.SetDiskMiB, p.DiskMiB = limitParam(c.DiskMiB)
		p.SetSandboxes, p.Sandboxes = limitParam(c.Sandboxes)
		_, err := s.q.SetPool(ctx, p)
		if errors.Is(err, pgx.ErrNoRows) {
			return "", models.Errorf(models.NotFound, "there is no account %s", account)
		}
		return "", err
	})
	return err
}

func limitParam(n *int64) (set bool, value *int64) {
	if n == nil || *n == models.Unlimited {
		return n != nil, nil
	}
	return true, n
}
