package db

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// archive is the form of a models.Archive in the column archive.
type archive struct {
	Key            string `json:"key"`
	TemplateDigest string `json:"template_digest"`
	Driver         string `json:"driver"`
	DriverVersion  string `json:"driver_version"`
	Accelerator    string `json:"accelerator"`
	SentBytes      int64  `json:"sent_bytes"`
}

// encodeArchive returns nil for none.
func encodeArchive(a *models.Archive) ([]byte, error) {
	if a == nil {
		return nil, nil
	}
	b, err := json.Marshal(archive(*a))
	if err != nil {
		return nil, fmt.Errorf("encode the archive: %w", err)
	}
	return b, nil
}

func decodeArchive(b []byte) (*models.Archive, error) {
	if b == nil {
		return nil, nil
	}
	var in archive
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	a := models.Archive(in)
	return &a, nil
}

// HostFunc chooses among hosts, as a PlaceFunc does. It must not block.
type HostFunc func(hosts []*HostUse) (id.Host, error)

// TransitionPlaced is Transition of a sandbox that takes room on a host again, the one that place chooses: when place fails nothing is changed and its error is
// returned.
func (s *Store) TransitionPlaced(ctx context.Context, c Change, place HostFunc) (models.Sandbox, error) {
	defer s.tell()
	return retry(ctx, func(ctx context.Context) (models.Sandbox, error) {
		var changed models.Sandbox
		err := s.placing(ctx, func(q *dbgen.Queries, p *placing) (err error) {
			c.carrier = s.carrier()
			if c.Host, err = p.choose(ctx, q, place); err == nil {
				changed, err = transition(ctx, q, c)
			}
			if err == nil {
				err = takePool(ctx, q, changed.Account, changed.Size.Awake(1))
			}
			return err
		})
		return s.movedOr(ctx, c, changed, err)
	})
}

// Archived is what is known of a sandbox of which something is stored.
type Archived struct {
	ID    id.Sandbox
	State models.State
	Key   string // of its archive; empty where it has none
}

// Archived returns those of the sandboxes that there are.
func (s *Store) Archived(ctx context.Context, sandboxes []id.Sandbox) ([]Archived, error) {
	ids := make([]string, len(sandboxes))
	for i, sb := range sandboxes {
		ids[i] = string(sb)
	}
	return retry(ctx, func(ctx context.Context) ([]Archived, error) {
		rows, err := s.q.ArchivedRows(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("list sandboxes of stored snapshots: %w", err)
		}
		return convert(rows, func(r dbgen.ArchivedRowsRow) (Archived, error) {
			return Archived{ID: id.Sandbox(r.ID), State: r.State, Key: r.ArchiveKey}, nil
		})
	})
}
