package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"

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
	image := from.Image()
	// A second name for the memory: a driver may need the file for the VM's own snapshot, also after this one has gone.
	if err := os.Link(image.Memory, a.basePath(s)); err != nil {
		return fmt.Errorf("keep the memory of %s: %w", from.ID, err)
	}
	image.Memory = a.basePath(s)
	s.update(func(r *record) { r.Token = from.Token })
	clock.lap("clone_disk")
	if err := a.thaw(ctx, s, image, link); err != nil {
		return err
	}
	clock.lap("restore_vm")
	if err := a.rebirth(ctx, s, link, env); err != nil {
		return err
	}
	clock.lap("resume_guest")
	s.update(func(r *record) {
		r.Envd, r.Kernel, r.Digest, r.Snapshot, r.Guest = from.Envd, from.Kernel, from.Template.Digest, from.ID, link.Guest.Addr().String()
	})
	return nil
}

// rebirth has a guest that was another's renew what must be its own.
func (a *Agent) rebirth(ctx context.Context, s *sandbox, link network.Link, env map[string]string) error {
	machine, guest := s.machine()
	token := newToken()
	certificate, err := guest.Resume(ctx, envdclient.Resume{
		Init: envdclient.Init{
			Token: token, Hostname: string(s.id), Env: env,
			Network: &envdclient.Network{Address: link.Guest, Gateway: link.Gateway, DNS: []netip.Addr{link.Gateway}}, // see Names
		},
		MachineID: newMachineID(), MAC: link.MAC,
	})
	if err != nil {
		return deathOr(ctx, machine, err)
	}
	renewed := certified(certificate)
	s.update(func(r *record) { r.Token, r.Resumed = token, &renewed })
	return nil
}
