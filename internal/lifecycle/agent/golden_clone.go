package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// bringUp makes the sandbox's VM, with a guest that is its own: from the golden snapshot where there is one, else by booting, also where that
// snapshot turns out to be of no use.
func (a *Agent) bringUp(ctx context.Context, s *sandbox, tmpl filesystem.Template, env map[string]string, clock *stopwatch) (network.Link, error) {
	g := a.goldenFor(tmpl, s.view().Size)
	if g == nil {
		return a.boot(ctx, s, tmpl, env, clock)
	}
	defer a.golden.giveBack(g)
	link, err := a.provideAgain(ctx, s, g.Snapshot)
	if err != nil {
		return link, err
	}
	clock.lap("clone_disk_and_attach_network")
	err = a.hatch(ctx, s, g, link, clock, envdclient.Init{Hostname: string(s.id), Env: env, DefaultUser: tmpl.DefaultUser})
	if err == nil {
		a.golden.proved(g)
	}
	if err == nil || ctx.Err() != nil {
		return link, err
	}
	a.giveUp(shapeOf(g.Snapshot), g, err)
	if err := a.startOver(ctx, s); err != nil {
		return link, err
	}
	clock.lap("restore_failed")
	return a.boot(ctx, s, tmpl, env, clock)
}

// hatch makes the sandbox's VM of a golden snapshot, and has its guest renew what must be its own.
func (a *Agent) hatch(ctx context.Context, s *sandbox, from *golden, link network.Link, clock *stopwatch, owner envdclient.Init) error {
	image := from.Image()
	// A second name for the memory: a driver may need the file for the VM's own snapshot, also after the golden one has been replaced.
	if err := os.Link(image.Memory, a.basePath(s)); err != nil {
		return fmt.Errorf("keep the memory of %s: %w", from.ID, err)
	}
	image.Memory = a.basePath(s)
	if err := a.thaw(ctx, s, image, link); err != nil {
		return err
	}
	clock.lap("restore_vm")
	machine, guest := s.machine()
	owner.Token = s.token()
	owner.Network = a.guestNetwork(s, link)
	owner.Network.DNS = []netip.Addr{link.Gateway} // see Names
	certificate, err := guest.Resume(ctx, envdclient.Resume{Init: owner, MachineID: newMachineID(), MAC: link.MAC})
	if err != nil {
		return deathOr(ctx, machine, err)
	}
	clock.lap("resume_guest")
	renewed := certified(certificate)
	s.update(func(r *record) {
		r.Envd, r.Kernel, r.Snapshot, r.Resumed, r.Size = from.Envd, from.Kernel, from.ID, &renewed, shapeOf(from.Snapshot).size
	})
	return nil
}

// startOver removes what a restore left, for the VM to be booted instead.
func (a *Agent) startOver(ctx context.Context, s *sandbox) error {
	left, err := a.endVM(ctx, s)
	if err != nil {
		return fmt.Errorf("end the VM that was restored: %w", err)
	}
	return errors.Join(left, os.RemoveAll(a.diskPath(s.id)), os.RemoveAll(a.basePath(s)), os.RemoveAll(a.runDir(s.id)), os.Mkdir(a.runDir(s.id), 0o700))
}

// basePath is the second name of the memory of the golden snapshot that a sandbox was made from.
func (a *Agent) basePath(s *sandbox) string { return filepath.Join(a.dir(s.id), snapshot.MemoryFile) }

func newMachineID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand aborts the program when the system has no randomness
	return hex.EncodeToString(b)
}
