package api

import (
	"context"
	"sync"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth/grant"
)

// grants signs with the key of the deployment, which is in the database: it is there already, every replica reaches it, and
// nobody has to make and hand out another secret. It is read at the first use, so that a replica
// starts while the database is away.
type grants struct {
	store *db.Store

	mu     sync.Mutex // guards signer
	signer *grant.Signer
}

func (g *grants) get(ctx context.Context) (*grant.Signer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.signer != nil {
		return g.signer, nil
	}
	key, err := g.store.SigningKey(ctx, "grants")
	if err != nil {
		return nil, err
	}
	g.signer, err = grant.NewSigner(key)
	return g.signer, err
}
