package agent

import (
	"context"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// revive makes the VM of a sandbox, which has its network, from a snapshot of another one, and has its guest renew what must be its own. Nothing of the snapshot is needed
// afterwards. env replaces the environment that the guest has; nil keeps it.
func (a *Agent) revive(ctx context.Context, s *sandbox, from snapshot.Snapshot, link network.Link, env map[string]string, clock *stopwatch) error {
	if _, err := clone.File(ctx, from.Rootfs(), a.diskPath(s.id), true); err != nil {
		return fmt.Errorf("clone the disk of %s: %w", from.ID, err)
	}
	s.update(func(r *record) { r.Token = from.Token })
	clock.lap("clone_disk")
	owner := envdclient.Init{Token: newToken(), Hostname: string(s.id), Env: env}
	if err := a.hatch(ctx, s, source{Snapshot: from}, link, clock, owner); err != nil {
		return err
	}
	s.update(func(r *record) { r.Digest, r.Guest = from.Template.Digest, link.Guest.Addr().String() })
	return nil
}
