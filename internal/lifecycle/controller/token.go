package controller

import (
	"context"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// MaxTokenLife bounds how long the token of a host lies about.
const MaxTokenLife = 7 * 24 * time.Hour

// TokenStore keeps the tokens of hosts.
type TokenStore interface {
	CreateHostToken(ctx context.Context, n db.NewHostToken) (db.HostToken, error)
}

// NewToken makes a token with which one host may join within ttl, once: h, or if that is empty one that is not known yet. It returns it with its name in the audit log and until when it
// is good.
func (f *Fleet) NewToken(ctx context.Context, store TokenStore, h id.Host, by db.By, ttl time.Duration) (mtls.Token, db.HostToken, error) {
	if ttl <= 0 || ttl > MaxTokenLife {
		return "", db.HostToken{}, models.Errorf(models.Invalid, "the life of a token must be above 0 and at most %s, not %s", MaxTokenLife, ttl)
	}
	authority, err := f.Authority(ctx)
	if err != nil {
		return "", db.HostToken{}, err
	}
	token := mtls.NewToken(authority)
	kept, err := store.CreateHostToken(ctx, db.NewHostToken{Hash: token.Hash(), Host: h, TTL: ttl, By: by})
	return token, kept, err
}
