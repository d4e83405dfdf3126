package db

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// NewHostToken is a token with which one host may join.
type NewHostToken struct {
	Hash [32]byte
	Host id.Host       // the only one that may; empty for one that is not known yet
	TTL  time.Duration // within which it must
	By   By
}

// hostTokenID is how the audit log names a token.
func hostTokenID(hash [32]byte) string { return "token-" + hex.EncodeToString(hash[:8]) }

// HostToken is a token that is kept.
type HostToken struct {
	ID        string  // how the audit log names it
	Host      id.Host // see NewHostToken
	ExpiresAt time.Time
}

// CreateHostToken keeps the hash of a token, with its audit event.
func (s *Store) CreateHostToken(ctx context.Context, n NewHostToken) (HostToken, error) {
	p := dbgen.InsertHostTokenParams{
		Hash: n.Hash[:], HostID: orNil(n.Host), TtlSeconds: n.TTL.Seconds(), Token: hostTokenID(n.Hash), Actor: n.By.Actor, RequestID: n.By.Operation,
	}
	return retry(ctx, func(ctx context.Context) (HostToken, error) {
		expires, err := s.q.InsertHostToken(ctx, p)
		if err != nil {
			return HostToken{}, fmt.Errorf("keep a host's token: %w", err)
		}
		return HostToken{ID: p.Token, Host: n.Host, ExpiresAt: expires}, nil
	})
}

// NewMember is a host that wants to join.
type NewMember struct {
	Token   [32]byte // hash of
	ID      id.Host
	Name    string
	Address string // where its agent listens
	Request string // by which it asked for that
}

// JoinHost spends a token for a host, which is then one of JoinedHosts, with its audit event. It is Unauthenticated with a token that is not valid, or not any more, Forbidden with one that is for another
// host, and Conflict where the host exists already, or another one has its address. It is not tried again, as nobody can tell who has used a token.
func (s *Store) JoinHost(ctx context.Context, n NewMember) error {
	return coded(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		q := s.q.WithTx(tx)
		if err := mayJoin(ctx, q, n); err != nil {
			return err
		}
		if err := q.SpendHostToken(ctx, dbgen.SpendHostTokenParams{Hash: n.Token[:], HostID: string(n.ID)}); err != nil {
			return fmt.Errorf("spend a host's token: %w", err)
		}
		if err := q.JoinHost(ctx, dbgen.JoinHostParams{ID: string(n.ID), Name: n.Name, Address: n.Address}); err != nil {
			return fmt.Errorf("let the host %s join: %w", n.ID, err)
		}
		return q.InsertHostAudit(ctx, dbgen.InsertHostAuditParams{
			Actor: hostTokenID(n.Token), Action: "host.join", Target: string(n.ID), Outcome: "ok", Detail: n.Address, RequestID: n.Request,
		})
	}))
}

func mayJoin(ctx context.Context, q *dbgen.Queries, n NewMember) error {
	token, err := q.LockHostToken(ctx, n.Token[:])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return models.Errorf(models.Unauthenticated, "the token is not valid").WithHint("control-plane host token prints one")
	case err != nil:
		return fmt.Errorf("look up a host's token: %w", err)
	case token.UsedAt != nil:
		return models.Errorf(models.Unauthenticated, "the token was used already").WithHint("each is good for one host, once: control-plane host token prints another one")
	case token.Expired:
		return models.Errorf(models.Unauthenticated, "the token has expired").WithHint("control-plane host token prints another one")
	case token.HostID != nil && *token.HostID != string(n.ID):
		return models.Errorf(models.Forbidden, "the token is for another host")
	}
	taken, err := q.AddressTaken(ctx, dbgen.AddressTakenParams{Address: n.Address, ID: string(n.ID)})
	switch {
	case err != nil:
		return fmt.Errorf("look for a host's address: %w", err)
	case taken:
		return models.Errorf(models.Conflict, "another host has the address %s", n.Address).WithHint("remove that one first, if it is no more")
	}
	known, err := q.HostByID(ctx, string(n.ID))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil && token.HostID == nil && known.State != "removed" && known.State != "replaced" {
		return models.Errorf(models.Conflict, "there is a host %s already", n.ID).WithHint("a token of control-plane host token --host %s lets it join again", n.ID)
	}
	return err
}

// Member is a host that has joined.
type Member struct {
	ID      id.Host
	Address string // where its agent listens
}

// JoinedHosts returns the hosts that have joined and were not removed.
func (s *Store) JoinedHosts(ctx context.Context) ([]Member, error) {
	return retry(ctx, func(ctx context.Context) ([]Member, error) {
		rows, err := s.q.JoinedHosts(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the hosts that have joined: %w", err)
		}
		return convert(rows, func(r dbgen.JoinedHostsRow) (Member, error) {
			return Member{ID: id.Host(r.ID), Address: r.Address}, nil
		})
	})
}
