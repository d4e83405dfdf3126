package auth

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxName is the longest name of a key or an account, in characters.
const maxName = 128

// AdminStore keeps keys and accounts, with the audit events of their changes.
type AdminStore interface {
	Account(ctx context.Context, name string) (id.Account, error)
	CreateKey(ctx context.Context, k db.NewKey) error
	RevokeKey(ctx context.Context, k id.Key, by db.By) ([32]byte, error)
}

// CheckName refuses what cannot be the name of a key or an account; what is how it is called.
func CheckName(what, s string) error {
	if strings.TrimSpace(s) == "" || utf8.RuneCountInString(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) {
		return models.Errorf(models.Invalid, "%s must have 1 to %d printable characters", what, maxName)
	}
	return nil
}

// Keep makes secret a valid key of the account of that name, which is made if there is
// none. The secret itself is not kept.
func Keep(ctx context.Context, store AdminStore, account, name string, secret Secret, by db.By) (id.Key, error) {
	for what, s := range map[string]string{"the account's name": account, "the key's name": name} {
		if err := CheckName(what, s); err != nil {
			return "", err
		}
	}
	owner, err := store.Account(ctx, account)
	if err != nil {
		return "", err
	}
	k := db.NewKey{ID: id.NewKey(), Account: owner, Hash: secret.Hash(), Prefix: secret.Prefix(), Name: name, By: by}
	return k.ID, store.CreateKey(ctx, k)
}

// Revoke ends a key's validity. cache may be nil; when it cannot be told, the key may work
// for CacheFor longer, and the error says so although the key is revoked.
func Revoke(ctx context.Context, store AdminStore, cache *Cache, key id.Key, by db.By) error {
	hash, err := store.RevokeKey(ctx, key, by)
	if err != nil || cache == nil {
		return err
	}
	if err := cache.Forget(ctx, hash); err != nil {
		return models.Errorf(models.Unavailable, "the key %s is revoked, but Redis could not be told: it may work for %s longer", key, CacheFor).WithCause(err)
	}
	return nil
}
