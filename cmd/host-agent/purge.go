package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/config"
)

// purge takes over the data folder like a starting agent, then destroys all that is in it and
// removes what an agent leaves in place when it ends: devices, rules and the volume's mount. The
// volume's file stays: it holds the images. It fails while an agent runs.
func purge(ctx context.Context, cfg config.Agent) error {
	log := logger(cfg)
	p, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range p.agent.Sandboxes() {
		if _, err := p.agent.Destroy(ctx, sb.ID, 0); err != nil {
			errs = append(errs, fmt.Errorf("destroy %s: %w", sb.ID, err))
		}
	}
	errs = append(errs, p.agent.Close(), p.net.Close(ctx, true), p.volume.Unmount(ctx))
	return errors.Join(errs...)
}
