package db

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
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

const hostTokenPrefix = "token-"

// hostTokenID is how the audit log names a token.
func hostTokenID(hash [32]byte) id.HostToken {
	return id.HostToken(hostTokenPrefix + hex.EncodeToString(hash[:8]))
}

// hashDigits is how the hash of a token begins, in hexadecimal digits.
func hashDigits(t id.HostToken) string { return strings.TrimPrefix(string(t), hostTokenPrefix) }

// HostToken is a token that is kept.
type HostToken struct {
	ID        id.HostToken
	Host      id.Host // see NewHostToken
	CreatedAt time.Time
	ExpiresAt time.Time
}

// CreateHostToken keeps the hash of a token, with its audit event.
func (s *Store) CreateHostToken(ctx context.Context, n NewHostToken) (HostToken, error) {
	p := dbgen.InsertHostTokenParams{
		Hash: n.Hash[:], HostID: orNil(n.Host), TtlSeconds: n.TTL.Seconds(), Token: string(hostTokenID(n.Hash)), Actor: n.By.Actor, RequestID: n.By.Operation,
	}
	return retry(ctx, func(ctx context.Context) (HostToken, error) {
		row, err := s.q.InsertHostToken(ctx, p)
		if err != nil {
			return HostToken{}, fmt.Errorf("keep a host's token: %w", err)
		}
		return HostToken{ID: hostTokenID(n.Hash), Host: n.Host, CreatedAt: row.CreatedAt, ExpiresAt: row.ExpiresAt}, nil
	})
}

// HostTokenPage is a part of the list of tokens.
type HostTokenPage struct {
	Before   time.Time // only those that come after (Before, BeforeID) in the list; zero for the first page
	BeforeID id.HostToken
	Limit    int // 0 for all
}

// HostTokens returns the tokens that can still be used, newest first.
func (s *Store) HostTokens(ctx context.Context, page HostTokenPage) ([]HostToken, error) {
	p := dbgen.PageOfHostTokensParams{Before: timeOrNil(page.Before), BeforeDigits: hashDigits(page.BeforeID)}
	if page.Limit != 0 {
		most := int32(page.Limit)
		p.MaxRows = &most
	}
	return retry(ctx, func(ctx context.Context) ([]HostToken, error) {
		rows, err := s.q.PageOfHostTokens(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("list the tokens of hosts: %w", err)
		}
		return convert(rows, func(r dbgen.PageOfHostTokensRow) (HostToken, error) {
			t := HostToken{ID: hostTokenID([32]byte(r.Hash)), CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt}
			if r.HostID != nil {
				t.Host = id.Host(*r.HostID)
			}
			return t, nil
		})
	})
}

// RevokeHostToken has a token let no host join any more, with its audit event; of one that was revoked already nothing changes. It is NotFound where there is no such token, and Precondition
// where a host has used it, which is in the audit log too.
func (s *Store) RevokeHostToken(ctx context.Context, t id.HostToken, by By) error {
	return s.judged(ctx, func(ctx context.Context, q *dbgen.Queries) (refused, err error) {
		return revokeHostToken(ctx, q, t, by)
	})
}

func revokeHostToken(ctx context.Context, q *dbgen.Queries, t id.HostToken, by By) (refused, err error) {
	token, err := q.LockHostTokenByID(ctx, hashDigits(t)) // nobody joins with it meanwhile
	if err != nil {
		return nil, notFound(err, models.Errorf(models.NotFound, "there is no token %s", t))
	}
	audit := dbgen.InsertHostAuditParams{Actor: by.Actor, Action: "host.token.revoke", Target: string(t), Outcome: "ok", RequestID: by.Operation}
	switch {
	case token.UsedBy != nil:
		audit.Outcome, audit.Detail = string(models.Precondition), "used by "+*token.UsedBy
		refused = models.Errorf(models.Precondition, "the token %s was used already, by the host %s", t, *token.UsedBy).WithHint("remove the host, if it should not have joined")
		return refused, q.InsertHostAudit(ctx, audit)
	case token.RevokedAt != nil:
		return nil, nil
	}
	if err := q.RevokeHostToken(ctx, token.Hash); err != nil {
		return nil, fmt.Errorf("revoke the token %s: %w", t, err)
	}
	return nil, q.InsertHostAudit(ctx, audit)
}

// NewMember is a host that wants to join.
type NewMember struct {
	Token   [32]byte // hash of
	ID      id.Host
	Name    string
	Address string // where its agent listens
	Request string // by which it asked for that
}

// JoinHost spends a token for a host, which is then one of JoinedHosts, with its audit event. It is Unauthenticated with a token that is not valid, or not any more (used, revoked, expired), Forbidden with one that is for another
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
			Actor: string(hostTokenID(n.Token)), Action: "host.join", Target: string(n.ID), Outcome: "ok", Detail: n.Address, RequestID: n.Request,
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
	case token.RevokedAt != nil:
		return models.Errorf(models.Unauthenticated, "the token was revoked").WithHint("control-plane host token prints another one")
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
