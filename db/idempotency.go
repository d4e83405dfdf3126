package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// NewClaim asks for the right to answer a request with an idempotency key.
type NewClaim struct {
	Account     id.Account
	Key         string
	Fingerprint [32]byte // of the request: another one with the same key is refused
	Attempt     id.Request
	Lease       time.Duration // after which another attempt may take over, unless it is renewed
	Keep        time.Duration // how long the answer is kept, from the first attempt on
}

// Claim is that right. What the attempt inserts it binds to the key in the same transaction, which fails once another attempt has taken over.
type Claim struct {
	Account id.Account
	Key     string
	Attempt id.Request
	Targets []string // what attempts before have inserted
	CutOff  bool     // the attempt before has come to no end: nobody knows how far it came
}

// Answer is what a request was answered with.
type Answer struct {
	Status  int // 0 for an answer that was too large to be kept
	Headers map[string]string
	Body    []byte
}

// Claimed is what came of a NewClaim: one of its members is set, or none while another attempt is under way.
type Claimed struct {
	Claim  *Claim
	Answer *Answer
	Misuse bool // the key was used for another request
}

// ErrClaimLost is returned to an attempt that wants to insert something after another one has taken over.
var ErrClaimLost = models.Errorf(models.Unavailable, "another request with the same idempotency key has taken over").WithHint("it has the answer")

// Claim gives the caller the right to answer, or tells why not.
func (s *Store) Claim(ctx context.Context, n NewClaim) (Claimed, error) {
	return retry(ctx, func(ctx context.Context) (Claimed, error) {
		row, err := s.q.ClaimKey(ctx, dbgen.ClaimKeyParams{
			AccountID: string(n.Account), Key: n.Key, Fingerprint: n.Fingerprint[:], Claim: string(n.Attempt),
			LeaseSeconds: n.Lease.Seconds(), KeepSeconds: n.Keep.Seconds(),
		})
		if err == nil {
			return Claimed{Claim: &Claim{Account: n.Account, Key: n.Key, Attempt: n.Attempt, Targets: row.Targets, CutOff: row.CutOff}}, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Claimed{}, fmt.Errorf("claim an idempotency key: %w", err)
		}
		return s.claimed(ctx, n)
	})
}

// claimed tells what is known of a key that is not the caller's to claim.
func (s *Store) claimed(ctx context.Context, n NewClaim) (Claimed, error) {
	row, err := s.q.ClaimedKey(ctx, dbgen.ClaimedKeyParams{AccountID: string(n.Account), Key: n.Key})
	switch {
	case errors.Is(err, pgx.ErrNoRows): // it has expired and was swept in this very moment
		return Claimed{}, nil
	case err != nil:
		return Claimed{}, fmt.Errorf("read an idempotency key: %w", err)
	case [32]byte(row.Fingerprint) != n.Fingerprint:
		return Claimed{Misuse: true}, nil
	case row.State != "done" && row.Claim == string(n.Attempt): // the answer to an earlier try of this statement was lost
		return Claimed{Claim: &Claim{Account: n.Account, Key: n.Key, Attempt: n.Attempt, Targets: row.Targets, CutOff: row.CutOff}}, nil
	case row.State != "done":
		return Claimed{}, nil
	}
	answer, err := keptAnswer(row)
	return Claimed{Answer: answer}, err
}

func keptAnswer(row dbgen.IdempotencyKey) (*Answer, error) {
	if row.Status == nil {
		return &Answer{}, nil
	}
	a := &Answer{Status: int(*row.Status), Body: row.Body}
	if err := json.Unmarshal(row.Headers, &a.Headers); err != nil {
		return nil, fmt.Errorf("decode the headers of a kept answer: %w", err)
	}
	return a, nil
}

// RenewClaim has c last for lease from now on. It does nothing when another attempt has taken over.
func (s *Store) RenewClaim(ctx context.Context, c *Claim, lease time.Duration) error {
	_, err := s.q.RenewClaim(ctx, dbgen.RenewClaimParams{
		AccountID: string(c.Account), Key: c.Key, Claim: string(c.Attempt), LeaseSeconds: lease.Seconds(),
	})
	return coded(err)
}

// KeepAnswer ends c with the answer that later requests get.
func (s *Store) KeepAnswer(ctx context.Context, c *Claim, a Answer) error {
	p := dbgen.FinishClaimParams{AccountID: string(c.Account), Key: c.Key, Claim: string(c.Attempt), State: "done"}
	if a.Status != 0 {
		status := int32(a.Status)
		headers, err := json.Marshal(a.Headers)
		if err != nil {
			return fmt.Errorf("encode the headers of an answer: %w", err)
		}
		p.Status, p.Headers, p.Body = &status, headers, a.Body
	}
	return s.finishClaim(ctx, p)
}

// ReleaseClaim ends c without an answer: the next request is a new attempt.
func (s *Store) ReleaseClaim(ctx context.Context, c *Claim) error {
	return s.finishClaim(ctx, dbgen.FinishClaimParams{AccountID: string(c.Account), Key: c.Key, Claim: string(c.Attempt), State: "released"})
}

func (s *Store) finishClaim(ctx context.Context, p dbgen.FinishClaimParams) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.q.FinishClaim(ctx, p) })
	return err
}

// SweepKeys forgets up to most answers that have expired and returns how many.
func (s *Store) SweepKeys(ctx context.Context, most int) (int, error) {
	n, err := s.q.SweepKeys(ctx, int32(most))
	return int(n), coded(err)
}

// bind writes down, in the transaction of q, what the attempt that has c inserts. Without a claim it does nothing.
func bind[ID ~string](ctx context.Context, q *dbgen.Queries, c *Claim, targets ...ID) error {
	if c == nil {
		return nil
	}
	p := dbgen.BindClaimParams{AccountID: string(c.Account), Key: c.Key, Claim: string(c.Attempt)}
	for _, target := range targets {
		p.Targets = append(p.Targets, string(target))
	}
	n, err := q.BindClaim(ctx, p)
	if err == nil && n == 0 {
		return ErrClaimLost
	}
	return err
}
