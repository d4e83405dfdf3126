package auth

import (
	"context"
	"strings"
	"time"
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
	RevokeKey(ctx context.Context, account id.Account, k id.Key, by db.By) ([][32]byte, error)
}

// CheckName refuses what cannot be the name of a key or an account; what is how it is called.
func CheckName(what, s string) error {
	if strings.TrimSpace(s) == "" || utf8.RuneCountInString(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) {
		return models.Errorf(models.Invalid, "%s must have 1 to %d printable characters", what, maxName)
	}
	return nil
}

// Keep makes secret a valid key with scopes of the account of that name, which is made if there is
// none. The secret itself is not kept. A zero expires is never.
func Keep(ctx context.Context, store AdminStore, account, name string, secret Secret, scopes []Scope, expires time.Time, by db.By) (id.Key, error) {
	for what, s := range map[string]string{"the account's name": account, "the key's name": name} {
		if err := CheckName(what, s); err != nil {
			return "", err
		}
	}
	owner, err := store.Account(ctx, account)
	if err != nil {
		return "", err
	}
	k := newKey(owner, name, secret, scopes, expires, by)
	return k.ID, store.CreateKey(ctx, k)
}

func newKey(owner id.Account, name string, secret Secret, scopes []Scope, expires time.Time, by db.By) db.NewKey {
	return db.NewKey{ID: id.NewKey(), Account: owner, Hash: secret.Hash(), Prefix: secret.Prefix(), Name: name, Scopes: texts(scopes), Expires: expires, By: by}
}

// Revoke ends a key's validity: of an account, or, where that is empty, whosever it is. cache may be nil; when it cannot be told, the key may work
// for CacheFor longer.
func Revoke(ctx context.Context, store AdminStore, cache *Cache, account id.Account, key id.Key, by db.By) error {
	hashes, err := store.RevokeKey(ctx, account, key, by)
	if err != nil || cache == nil {
		return err
	}
	for _, hash := range hashes {
		cache.Forget(ctx, hash)
	}
	return nil
}
