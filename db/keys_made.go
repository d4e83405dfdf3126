package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// KeyFilter chooses keys of a list.
type KeyFilter struct {
	Account  id.Account
	Before   time.Time // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.Key
	Limit    int
}

// KeysOf returns keys of an account, newest first, those that are not valid any more too.
func (s *Store) KeysOf(ctx context.Context, f KeyFilter) ([]Key, error) {
	p := dbgen.ListKeysOfAccountParams{AccountID: string(f.Account), BeforeID: string(f.BeforeID), MaxRows: int32(f.Limit)}
	if !f.Before.IsZero() {
		p.Before = &f.Before
	}
	return retry(ctx, func(ctx context.Context) ([]Key, error) {
		rows, err := s.q.ListKeysOfAccount(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list keys of %s: %w", f.Account, err)
		}
		return convert(rows, func(r dbgen.ListKeysOfAccountRow) (Key, error) { return key(r.ApiKey, r.Account), nil })
	})
}

// GrantFunc refuses what the key maker, which stays as it is meanwhile, may not give away. It must not block.
type GrantFunc func(maker Key) error

// CreateKeyBy keeps a key that another key of its account makes, with its audit event, and returns it. When may fails nothing is changed and its error is returned. NotFound when maker is not
// valid any more.
func (s *Store) CreateKeyBy(ctx context.Context, maker id.Key, k NewKey, may GrantFunc) (Key, error) {
	return s.onKeys(ctx, func(ctx context.Context, q *dbgen.Queries) (Key, error) {
		granter, err := lockKey(ctx, q, k.Account, maker)
		if err == nil {
			err = may(granter)
		}
		if err == nil {
			err = insertKey(ctx, q, k)
		}
		if err != nil {
			return Key{}, err
		}
		return lockKey(ctx, q, k.Account, k.ID)
	})
}

// Rotation gives a key another secret.
type Rotation struct {
	Account id.Account
	Key     id.Key
	Hash    [32]byte
	Prefix  string
	Grace   time.Duration // that the secret of now works on; one from before that ends at once
	By      By
}

// RotateKey gives a key of maker's account another secret, with its audit event, and returns it. may is asked about both. When it fails nothing is changed and its error is returned. NotFound
// when one of them is not valid any more.
func (s *Store) RotateKey(ctx context.Context, maker id.Key, r Rotation, may func(maker, rotated Key) error) (Key, error) {
	return s.onKeys(ctx, func(ctx context.Context, q *dbgen.Queries) (Key, error) {
		first, second := min(maker, r.Key), max(maker, r.Key) // always in this order, so that two who rotate each other do not wait for each other
		locked := map[id.Key]Key{}
		for _, k := range []id.Key{first, second} {
			now, err := lockKey(ctx, q, r.Account, k)
			if err != nil {
				return Key{}, err
			}
			locked[k] = now
		}
		if err := may(locked[maker], locked[r.Key]); err != nil {
			return Key{}, err
		}
		err := q.RotateKey(ctx, dbgen.RotateKeyParams{
			ID: string(r.Key), Hash: r.Hash[:], Prefix: r.Prefix, GraceSeconds: r.Grace.Seconds(), Actor: r.By.Actor, RequestID: r.By.Operation,
		})
		if err != nil {
			return Key{}, fmt.Errorf("rotate key %s: %w", r.Key, err)
		}
		return lockKey(ctx, q, r.Account, r.Key)
	})
}

// onKeys does op in a transaction. It is not tried again: whoever was not answered has no secret.
func (s *Store) onKeys(ctx context.Context, op func(context.Context, *dbgen.Queries) (Key, error)) (Key, error) {
	ctx, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	var done Key
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		done, err = op(ctx, s.q.WithTx(tx))
		return err
	})
	if isUnique(err) {
		err = models.Errorf(models.Conflict, "the id of the key is taken").WithHint("try again").WithCause(err)
	}
	return done, coded(err)
}

func lockKey(ctx context.Context, q *dbgen.Queries, account id.Account, k id.Key) (Key, error) {
	row, err := q.LockKey(ctx, dbgen.LockKeyParams{ID: string(k), AccountID: string(account)})
	if err != nil {
		return Key{}, notFound(err, noKey(k))
	}
	return key(row.ApiKey, row.Account), nil
}
