package chunk

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// condemn puts the list of what will be deleted. Whoever begins an upload later knows it; so the order is: this, then a look at the leases.
func (c *collection) condemn(ctx context.Context, dead map[Name]int64) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(dead)) {
		text.WriteString(string(name) + "\n")
	}
	frame, err := compress([]byte(text.String()))
	if err != nil {
		return err
	}
	return c.pool.Objects.Put(ctx, condemnedPrefix+c.id, frame)
}

// condemned returns the names in all lists.
func (p *Pool) condemned(ctx context.Context) (map[Name]bool, error) {
	names := map[Name]bool{}
	for info, err := range p.Objects.List(ctx, condemnedPrefix) {
		if err != nil {
			return nil, err
		}
		text, err := p.root(ctx, info.Key)
		if err != nil && models.CodeOf(err) == models.NotFound { // its time was over meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			names[Name(strings.TrimSuffix(line, "\n"))] = true
		}
	}
	return names, nil
}
