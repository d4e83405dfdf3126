package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// source is a snapshot that sandboxes are made from.
type source struct {
	snapshot.Snapshot
	shared *os.File // its memory, if that is loaded for all: vm.Image.Shared
}

// hatch makes the sandbox's VM of a snapshot that is not its own, once it has its disk and its network, and gives its guest to its owner. Nothing of the
// snapshot is needed afterwards.
func (a *Agent) hatch(ctx context.Context, s *sandbox, from source, link network.Link, clock *stopwatch, owner envdclient.Init) error {
	image, err := a.imageFor(s, from)
	if err != nil {
		return err
	}
	if err := a.thaw(ctx, s, image, link); err != nil {
		return err
	}
	clock.lap("restore_vm")
	if err := a.renew(ctx, s, link, clock, owner); err != nil {
		return err
	}
	s.update(func(r *record) { r.Envd, r.Kernel, r.Snapshot = from.Envd, from.Kernel, from.ID })
	return nil
}

// imageFor is what the sandbox's VM is restored from.
func (a *Agent) imageFor(s *sandbox, from source) (vm.Image, error) {
	image := from.Image()
	// A second name for the memory: a driver may need the file for the VM's own snapshot, also after this one has gone.
	if err := os.Link(image.Memory, a.basePath(s)); err != nil {
		return image, fmt.Errorf("keep the memory of %s: %w", from.ID, err)
	}
	image.Memory, image.Shared = a.basePath(s), from.shared
	return image, nil
}

// renew has a guest that was nobody's, or another's, renew what must be its own, and notes its certificate. The network that it is told of is link, whatever owner says.
func (a *Agent) renew(ctx context.Context, s *sandbox, link network.Link, clock *stopwatch, owner envdclient.Init) error {
	machine, guest := s.machine()
	owner.Network = a.newNetwork(s, link)
	certificate, err := guest.Resume(ctx, envdclient.Resume{Init: owner, MachineID: newMachineID(), MAC: link.MAC})
	if err != nil {
		return deathOr(ctx, machine, err)
	}
	clock.lap("resume_guest")
	renewed := certified(certificate)
	s.update(func(r *record) { r.Token, r.Resumed = owner.Token, &renewed })
	return nil
}

// basePath is the second name of the memory of the snapshot that a sandbox was made from.
func (a *Agent) basePath(s *sandbox) string { return filepath.Join(a.dir(s.id), snapshot.MemoryFile) }

func newMachineID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand aborts the program when the system has no randomness
	return hex.EncodeToString(b)
}
