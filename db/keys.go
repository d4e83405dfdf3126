package db

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Key describes an API key; the key itself is nowhere kept.
type Key struct {
	ID         id.Key
	Account    string // the account's name
	Name       string
	Prefix     string // the key's first characters
	Scopes     []string
	CreatedAt  time.Time
	LastUsedAt time.Time // zero for never
	ExpiresAt  time.Time // zero for never
	RevokedAt  time.Time // zero for a key that was not
	OldUntil   time.Time // until when the secret before the last rotation works; zero for none
	Hash       [32]byte  // of the newest secret
}

// ValidKey is whose a key is, and what it may do.
type ValidKey struct {
	ID      id.Key
	Account id.Account
	Scopes  []string
	Until   time.Time // it is valid; zero for ever
}

// signingKeySize is that of a signing key, in bytes.
const signingKeySize = 32

// NewKey is a key to be kept.
type NewKey struct {
	ID      id.Key
	Account id.Account
	Hash    [32]byte // SHA-256 of the key
	Prefix  string
	Name    string
	Scopes  []string
	Expires time.Time // zero for never
	By      By
}

// Account returns the account of that name and makes it if there is none.
func (s *Store) Account(ctx context.Context, name string) (id.Account, error) {
	return retry(ctx, func(ctx context.Context) (id.Account, error) {
		p := dbgen.EnsureAccountParams{ID: string(id.NewAccount()), Name: name}
		got, err := s.q.EnsureAccount(ctx, p)
		if errors.Is(err, pgx.ErrNoRows) { // another call made it after this statement began: now it is seen
			got, err = s.q.EnsureAccount(ctx, p)
		}
		return id.Account(got), err
	})
}

// CreateKey keeps a key, with its audit event.
func (s *Store) CreateKey(ctx context.Context, k NewKey) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		err := insertKey(ctx, s.q, k)
		if isUnique(err) { // the answer to an earlier try may have been lost
			row, found := s.q.KeyByHash(ctx, k.Hash[:])
			if found == nil && row.ID == string(k.ID) {
				return struct{}{}, nil
			}
			return struct{}{}, models.Errorf(models.Conflict, "the key exists").WithCause(err)
		}
		return struct{}{}, err
	})
	return err
}

func insertKey(ctx context.Context, q *dbgen.Queries, k NewKey) error {
	p := dbgen.InsertKeyParams{
		ID: string(k.ID), AccountID: string(k.Account), Hash: k.Hash[:], Prefix: k.Prefix, Name: k.Name, Scopes: k.Scopes,
		Actor: k.By.Actor, RequestID: k.By.Operation,
	}
	if !k.Expires.IsZero() {
		p.ExpiresAt = &k.Expires
	}
	return q.InsertKey(ctx, p)
}

// RevokeKey ends a key's validity, with its audit event, and returns the hashes of its secrets. A key that
// does not exist or is revoked gives NotFound, and so does one of another account, unless account is empty.
func (s *Store) RevokeKey(ctx context.Context, account id.Account, k id.Key, by By) ([][32]byte, error) {
	return retry(ctx, func(ctx context.Context) ([][32]byte, error) {
		row, err := s.q.RevokeKey(ctx, dbgen.RevokeKeyParams{ID: string(k), AccountID: orNil(account), Actor: by.Actor, RequestID: by.Operation})
		if err != nil {
			return nil, notFound(err, noKey(k))
		}
		hashes := [][32]byte{[32]byte(row.Hash)}
		if row.OldHash != nil {
			hashes = append(hashes, [32]byte(row.OldHash))
		}
		return hashes, nil
	})
}

func noKey(k id.Key) *models.Error {
	return models.Errorf(models.NotFound, "there is no valid key %s", k)
}

// Keys lists all keys, oldest first, revoked ones too.
func (s *Store) Keys(ctx context.Context) ([]Key, error) {
	return retry(ctx, func(ctx context.Context) ([]Key, error) {
		rows, err := s.q.ListKeys(ctx)
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		return convert(rows, func(r dbgen.ListKeysRow) (Key, error) { return key(r.ApiKey, r.Account), nil })
	})
}

func key(r dbgen.ApiKey, account string) Key {
	return Key{
		ID: id.Key(r.ID), Account: account, Name: r.Name, Prefix: r.Prefix, Scopes: r.Scopes, CreatedAt: r.CreatedAt,
		LastUsedAt: orZero(r.LastUsedAt), ExpiresAt: orZero(r.ExpiresAt), RevokedAt: orZero(r.RevokedAt), OldUntil: orZero(r.OldExpiresAt),
		Hash: [32]byte(r.Hash),
	}
}

// KeyByHash returns the valid key with that hash, or NotFound. A key that was rotated has two for a while.
func (s *Store) KeyByHash(ctx context.Context, hash [32]byte) (ValidKey, error) {
	return retry(ctx, func(ctx context.Context) (ValidKey, error) {
		r, err := s.q.KeyByHash(ctx, hash[:])
		if err != nil {
			return ValidKey{}, notFound(err, models.Errorf(models.NotFound, "there is no such key"))
		}
		k := ValidKey{ID: id.Key(r.ID), Account: id.Account(r.AccountID), Scopes: r.Scopes, Until: orZero(r.ExpiresAt)}
		if old := orZero(r.OldExpiresAt); !r.Newest && (k.Until.IsZero() || old.Before(k.Until)) {
			k.Until = old
		}
		return k, nil
	})
}

// TouchKeys notes when keys were last used.
func (s *Store) TouchKeys(ctx context.Context, used map[id.Key]time.Time) error {
	var p dbgen.TouchKeysParams
	for k, at := range used {
		p.IDs, p.Times = append(p.IDs, string(k)), append(p.Times, at)
	}
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.TouchKeys(ctx, p)
	})
	return err
}

// SigningKey returns the key of that name that all replicas share. The first to ask for it makes it.
func (s *Store) SigningKey(ctx context.Context, name string) ([]byte, error) {
	made := make([]byte, signingKeySize)
	rand.Read(made) // never fails: crypto/rand aborts the program when the system has no randomness
	return retry(ctx, func(ctx context.Context) ([]byte, error) {
		p := dbgen.EnsureSigningKeyParams{Name: name, Key: made}
		key, err := s.q.EnsureSigningKey(ctx, p)
		if errors.Is(err, pgx.ErrNoRows) { // another replica made it after this statement began: now it is seen
			key, err = s.q.EnsureSigningKey(ctx, p)
		}
		return key, err
	})
}
