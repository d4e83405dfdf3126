package db

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// SetMetadata gives a sandbox of account other metadata, with its audit row in the same statement, and returns the sandbox.
func (s *Store) SetMetadata(ctx context.Context, account id.Account, sb id.Sandbox, by By, metadata map[string]string) (models.Sandbox, error) {
	b, err := json.Marshal(nonNil(metadata))
	if err != nil {
		return models.Sandbox{}, fmt.Errorf("encode metadata: %w", err)
	}
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		row, err := s.q.SetMetadata(ctx, dbgen.SetMetadataParams{
			ID: string(sb), AccountID: string(account), Metadata: b, Actor: by.Actor, RequestID: by.Operation,
		})
		if err != nil {
			return models.Sandbox{}, notFound(err, missing(sb))
		}
		return sandbox(dbgen.Sandbox(row))
	})
}
