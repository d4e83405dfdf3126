package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Resume restores a paused sandbox: its processes and its connections go on where they were. It returns once the guest has renewed its clock, its
// randomness and its token, and has run its hooks; Sandbox.Resumed is its word for it. Resuming what runs succeeds. After an error the sandbox
// is paused as it was, and what its guest did meanwhile is forgotten. It ends a Store under way. A caller that goes away does not end it, a destroy does.
func (a *Agent) Resume(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	if s, err := a.find(sb); err == nil {
		defer s.hurry()()
	}
	return a.change(ctx, sb, transition{from: Paused, to: Running, do: a.wake})
}

// wake is the story of a resume. Nothing of the snapshot changes; until the only record, the last step, the sandbox is what lies there, and its disk,
// the first, tells an agent that comes in between that there is something to undo.
func (a *Agent) wake(ctx context.Context, s *sandbox) error {
	s.update(func(r *record) { r.State, r.Reason = Resuming, "" })
	a.changes.publish(s.view())
	token := newToken()
	certificate, err := a.restore(ctx, s, token)
	if err == nil {
		err = s.ctx.Err() // a destroy has come
	}
	var rec record
	if err == nil {
		rec = s.update(func(r *record) {
			r.State, r.Token, r.Resumed, r.Verified, r.Damage = Running, token, &certificate, time.Time{}, ""
		})
		err = rec.write(a.dir(s.id))
	}
	if err != nil {
		return a.layDown(ctx, s, err)
	}
	machine, _ := s.machine()
	a.keepMemory(s, machine)
	a.changes.publish(s.view())
	a.log.Info("sandbox resumed", "sandbox_id", s.id, "snapshot", rec.Snapshot)
	return nil
}

// restore makes the VM anew and has its guest renew what it must.
func (a *Agent) restore(ctx context.Context, s *sandbox, token string) (models.Certificate, error) {
	store, err := a.snapshots(s)
	if err != nil {
		return models.Certificate{}, err
	}
	rec := s.update(func(*record) {})
	if rec.Damage != "" {
		return models.Certificate{}, models.Errorf(models.Precondition, "%s", rec.Damage)
	}
	from, err := store.Snapshot(rec.Snapshot)
	if err != nil {
		return models.Certificate{}, err
	}
	link, err := a.provideAgain(ctx, s, from)
	if err != nil {
		return models.Certificate{}, err
	}
	image, err := a.image(ctx, s, from)
	if err != nil {
		return models.Certificate{}, err
	}
	if err := a.thaw(ctx, s, image, link); err != nil {
		return models.Certificate{}, err
	}
	machine, guest := s.machine()
	certificate, err := guest.Resume(ctx, envdclient.Resume{
		Init: envdclient.Init{Token: token, Network: a.networkAgain(s, link)}, MAC: link.MAC,
	})
	if err != nil {
		return models.Certificate{}, deathOr(ctx, machine, err)
	}
	s.update(func(r *record) { r.Guest = link.Guest.Addr().String() })
	return certified(certificate), nil
}

// networkAgain is what a guest is told of its network. Its name server is its gateway (see Names): another one where its address was another.
func (a *Agent) networkAgain(s *sandbox, link network.Link) *envdclient.Network {
	n := a.guestNetwork(s, link)
	if s.view().Guest != link.Guest.Addr().String() {
		n.DNS = []netip.Addr{link.Gateway}
	}
	return n
}

// provideAgain makes the disk and, where the host was started anew, the network device.
func (a *Agent) provideAgain(ctx context.Context, s *sandbox, from snapshot.Snapshot) (network.Link, error) {
	var link network.Link
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := os.RemoveAll(a.diskPath(s.id)); err != nil { // of a pause that could not remove it
			return err
		}
		_, err := clone.File(ctx, from.Rootfs(), a.diskPath(s.id), true)
		return err
	})
	group.Go(func() (err error) {
		link, err = a.attach(ctx, s)
		return err
	})
	return link, group.Wait()
}

// thaw restores the VM and lets the guest go on.
func (a *Agent) thaw(ctx context.Context, s *sandbox, from vm.Image, link network.Link) error {
	a.makeRoom(ctx, s)
	spec := a.spec(s, link)
	var err error
	if spec.Jail, err = a.jail(s); err != nil {
		return err
	}
	machine, err := vm.Restore(ctx, a.cfg.Driver, spec, from)
	if err != nil {
		return fmt.Errorf("restore the VM: %w", err)
	}
	return a.letGo(ctx, s, machine)
}

// letGo makes a VM that was restored the sandbox's and lets its guest go on. See start for who finds it before a record leads to it.
func (a *Agent) letGo(ctx context.Context, s *sandbox, machine vm.Running) error {
	saved := machine.Saved()
	s.update(func(r *record) { r.VM = &saved })
	a.run(s, machine)
	return machine.Resume(ctx)
}

// certified is the certificate as it is recorded.
func certified(c envdclient.Certificate) models.Certificate {
	out := models.Certificate{At: time.Now().UTC()}
	for _, step := range c.Steps {
		out.Steps = append(out.Steps, models.CertificateStep{Name: step.Name, Kept: step.Kept, Output: step.Output, Duration: step.Duration})
	}
	return out
}

// layDown undoes a resume, and returns why it failed. The snapshot is as it was.
func (a *Agent) layDown(ctx context.Context, s *sandbox, cause error) error {
	undo, done := undoContext(ctx)
	defer done()
	told := a.explainChange(s, cause, "resumed", "it is paused, as it was")
	if err := a.putBack(undo, s, models.AsError(told).Message); err != nil {
		a.log.Error("resume not wholly undone", "sandbox_id", s.id, "error", err)
		return errors.Join(told, err)
	}
	a.log.Warn("sandbox could not be resumed; it is paused as it was", "sandbox_id", s.id, "error", cause)
	return told
}

// putBack ends what a resume made.
func (a *Agent) putBack(ctx context.Context, s *sandbox, why string) error {
	left, err := a.endVM(ctx, s)
	if err != nil {
		return errors.Join(err, a.fail(s, "it could not be resumed, and its VM could not be ended"))
	}
	rec := s.update(func(r *record) { r.State, r.Reason = Paused, why })
	a.changes.publish(s.view())
	return errors.Join(left, os.RemoveAll(a.diskPath(s.id)), rec.write(a.dir(s.id)))
}
