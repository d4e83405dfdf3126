package auth

import (
	"context"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// MaxGrace is the longest that the old secret of a rotated key can work on.
const MaxGrace = 7 * 24 * time.Hour

// MakerStore keeps the keys that keys make.
type MakerStore interface {
	AdminStore
	CreateKeyBy(ctx context.Context, maker id.Key, k db.NewKey, may db.GrantFunc) (db.Key, error)
	RotateKey(ctx context.Context, maker id.Key, r db.Rotation, may func(maker, rotated db.Key) error) (db.Key, error)
}

// Maker is a key that makes, rotates and revokes keys of its account in the course of a request. It is valid as long as the secret that it came with, which may be the one before a rotation.
type Maker struct {
	Store MakerStore
	Cache *Cache // nil for none
	Principal
	Request id.Request
}

func (m Maker) by() db.By { return db.By{Actor: string(m.Key), Operation: string(m.Request)} }

// validUntil is until when the secret of a request is valid, by the row of its key: it may have been rotated since the secret was looked up.
func (m Maker) validUntil(now db.Key) time.Time {
	if m.hash == now.Hash || !now.ExpiresAt.IsZero() && now.ExpiresAt.Before(now.OldUntil) {
		return now.ExpiresAt
	}
	return now.OldUntil
}

// Make makes a key and returns it with its secret. One that could do more than its maker, or longer, is Forbidden; a zero expires is the maker's own.
func (m Maker) Make(ctx context.Context, name string, scopes []Scope, expires time.Time) (db.Key, Secret, error) {
	if err := CheckName("the key's name", name); err != nil {
		return db.Key{}, "", err
	}
	if expires.IsZero() {
		expires = m.until
	}
	secret := NewSecret()
	made, err := m.Store.CreateKeyBy(ctx, m.Key, newKey(m.Account, name, secret, scopes, expires, m.by()), func(maker db.Key) error {
		return checkGrant(scopesOf(maker.Scopes), m.validUntil(maker), scopes, expires)
	})
	return made, secret, err
}

// Rotate gives a key another secret and returns both. The one before works on for grace. A key that can do more than its maker, or longer, is Forbidden: the new secret would be a way to that.
func (m Maker) Rotate(ctx context.Context, key id.Key, grace time.Duration) (db.Key, Secret, error) {
	if grace < 0 || grace > MaxGrace {
		return db.Key{}, "", models.Errorf(models.Invalid, "grace_seconds must be between 0 and %d", int(MaxGrace/time.Second))
	}
	secret := NewSecret()
	r := db.Rotation{Account: m.Account, Key: key, Hash: secret.Hash(), Prefix: secret.Prefix(), Grace: grace, By: m.by()}
	now, err := m.Store.RotateKey(ctx, m.Key, r, func(maker, rotated db.Key) error {
		return checkGrant(scopesOf(maker.Scopes), m.validUntil(maker), scopesOf(rotated.Scopes), rotated.ExpiresAt)
	})
	return now, secret, err
}

// Revoke ends a key of the maker's account, which may be able to do more than the maker, and may be the maker itself.
func (m Maker) Revoke(ctx context.Context, key id.Key) error {
	return Revoke(ctx, m.Store, m.Cache, m.Account, key, m.by())
}
