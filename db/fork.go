package db

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// CreateForks is CreateSandbox of several at once, all in the place that place returns, for which it makes sure that there is room for all: either all of
// them are inserted or none. They have one operation and no id in common. An id that is taken gives Conflict: draw all of them anew.
func (s *Store) CreateForks(ctx context.Context, all []NewSandbox, place PlaceFunc) ([]models.Sandbox, error) {
	defer s.tell()
	return retry(ctx, func(ctx context.Context) ([]models.Sandbox, error) {
		var made []models.Sandbox
		for i := range all {
			all[i].carrier = s.carrier()
		}
		err := s.placing(ctx, func(q *dbgen.Queries, p *placing) (err error) {
			made, err = insertAll(ctx, q, all, p.placeFunc(place))
			return err
		})
		if isUnique(err) {
			return s.allMadeBefore(ctx, all)
		}
		return made, err
	})
}

func insertAll(ctx context.Context, q *dbgen.Queries, all []NewSandbox, place reserveFunc) ([]models.Sandbox, error) {
	where, err := place(ctx, q)
	if err != nil {
		return nil, err
	}
	ids := make([]id.Sandbox, len(all))
	for i, n := range all {
		ids[i] = n.ID
	}
	if err := bind(ctx, q, all[0].By.Claim, ids...); err != nil {
		return nil, err
	}
	made, err := convert(all, func(n NewSandbox) (models.Sandbox, error) { return insertAt(ctx, q, n, where) })
	if err != nil {
		return nil, err
	}
	return made, takePool(ctx, q, made[0].Account, where.Size.Whole(len(made)))
}

func (s *Store) allMadeBefore(ctx context.Context, all []NewSandbox) ([]models.Sandbox, error) {
	return convert(all, func(n NewSandbox) (models.Sandbox, error) { return s.madeBefore(ctx, n) })
}
