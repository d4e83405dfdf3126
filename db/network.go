package db

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// NetworkFunc returns the policy that a sandbox is to have. Nothing else changes the sandbox meanwhile. It must not block.
type NetworkFunc func(now models.Sandbox) (models.NetworkPolicy, error)

// ChangeNetwork gives a sandbox of account the policy that change returns, with its audit row in the same transaction, and
// returns the sandbox. When change fails nothing is changed and its error is returned. A policy equal to the one that is
// there changes nothing, so that this can be repeated.
func (s *Store) ChangeNetwork(ctx context.Context, account id.Account, sb id.Sandbox, by By, change NetworkFunc) (models.Sandbox, error) {
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		var changed models.Sandbox
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			changed, err = changeNetwork(ctx, s.q.WithTx(tx), account, sb, by, change)
			return err
		})
		return changed, err
	})
}

func changeNetwork(ctx context.Context, q *dbgen.Queries, account id.Account, sb id.Sandbox, by By, change NetworkFunc) (models.Sandbox, error) {
	row, err := q.LockSandboxOfAccount(ctx, dbgen.LockSandboxOfAccountParams{ID: string(sb), AccountID: string(account)})
	if err != nil {
		return models.Sandbox{}, notFound(err, missing(sb))
	}
	now, err := sandbox(row)
	if err != nil {
		return models.Sandbox{}, err
	}
	policy, err := change(now)
	if err != nil || policy.Equal(now.Network) {
		return now, err
	}
	b, err := encodeNetwork(policy)
	if err != nil {
		return models.Sandbox{}, err
	}
	changed, err := q.SetNetwork(ctx, dbgen.SetNetworkParams{ID: string(sb), Network: b, Actor: by.Actor, RequestID: by.Operation})
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("change the network policy of %s: %w", sb, err)
	}
	return sandbox(dbgen.Sandbox(changed))
}

// NoteNetwork adds an audit row about the network policy of a sandbox: outcome is "ok" once it is in force, else the code of
// the error. When the connection breaks the row may be there twice.
func (s *Store) NoteNetwork(ctx context.Context, sb models.Sandbox, by By, outcome string) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.q.InsertAudit(ctx, dbgen.InsertAuditParams{
			AccountID: string(sb.Account), Actor: by.Actor, Action: "sandbox.network", Target: string(sb.ID), Outcome: outcome, RequestID: by.Operation,
		})
	})
	return err
}

// network is the form of a models.NetworkPolicy in the column network.
type network struct {
	Internet bool                 `json:"internet"`
	IPv6     bool                 `json:"ipv6,omitempty"`
	Allow    []models.Destination `json:"allow,omitempty"`
	Deny     []models.Destination `json:"deny,omitempty"`
	Limits   networkLimits        `json:"limits,omitzero"`
}

type networkLimits struct {
	UploadMbit           int `json:"upload_mbit,omitempty"`
	DownloadMbit         int `json:"download_mbit,omitempty"`
	PacketsPerSecond     int `json:"packets_per_second,omitempty"`
	Connections          int `json:"connections,omitempty"`
	ConnectionsPerSecond int `json:"connections_per_second,omitempty"`
}

func encodeNetwork(p models.NetworkPolicy) ([]byte, error) {
	b, err := json.Marshal(network{Internet: p.Internet, IPv6: p.IPv6, Allow: p.Allow, Deny: p.Deny, Limits: networkLimits(p.Limits)})
	if err != nil {
		return nil, fmt.Errorf("encode the network policy: %w", err)
	}
	return b, nil
}

func decodeNetwork(b []byte) (models.NetworkPolicy, error) {
	var n network
	if err := json.Unmarshal(b, &n); err != nil {
		return models.NetworkPolicy{}, err
	}
	return models.NetworkPolicy{Internet: n.Internet, IPv6: n.IPv6, Allow: n.Allow, Deny: n.Deny, Limits: models.NetworkLimits(n.Limits)}, nil
}
