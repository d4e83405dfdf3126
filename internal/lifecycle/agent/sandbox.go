package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/journal"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// State is what a host observes of a sandbox.
type State string

// The states, as in the HostAgent protocol.
const (
	Starting State = "starting"
	Running  State = "running"
	Pausing  State = "pausing"
	Paused   State = "paused" // no VM, but a snapshot; the disk lies in it
	Resuming State = "resuming"
	Stopping State = "stopping"
	Failed   State = "failed" // the VM ended without having been asked to
	Gone     State = "gone"   // only in changes: nothing of it is left

	Storing  State = "storing"  // paused, and on its way into the object store
	Fetching State = "fetching" // on its way out of it
)

// lives tells whether a sandbox in this state stays, and has its network: it runs, or will again.
func (s State) lives() bool { return s == Running || s == Paused }

// Sandbox is a sandbox as its host sees it, at one moment.
type Sandbox struct {
	ID          id.Sandbox
	State       State
	Reason      string
	Template    string
	Size        models.Size
	CreatedAt   time.Time
	Steps       []models.Step
	Guest       string // address
	EnvdVersion string
	Network     models.NetworkPolicy // in force
	Resumed     *models.Certificate  // of the last resume, or of its making from a golden snapshot; nil before. It never changes
	Archive     *models.Archive      // where the snapshot that it sleeps in is stored; nil where it is not. It never changes
	Verified    time.Time            // when the snapshot that it sleeps in was last read as a whole and found to be as it was written; zero before
	Damage      string               // of that snapshot, which is not resumed then; empty where nothing is known
}

// sandbox is the live side of a record.
type sandbox struct {
	id     id.Sandbox
	hidden bool // a VM of the agent's own, of which nobody is told

	// turn is held by whoever changes the sandbox: a create, a pause, a resume or a destroy.
	turn chan struct{}
	// ctx ends when the sandbox is to be destroyed or the agent ends; what is under way stops then.
	ctx    context.Context
	cancel context.CancelFunc

	// network is held for writing while the network policy changes, and for reading by what must not go on under another one.
	network sync.RWMutex
	pins    pins
	journal *journal.Journal

	mu    sync.Mutex // guards what follows
	rec   record
	slot  *network.Slot      // nil until held
	vm    vm.Running         // nil until started
	guest *envdclient.Client // nil until it answered

	wakers  int                // resumes that wait, or are under way
	storing context.CancelFunc // ends the storing under way; nil while there is none
}

func newSandbox(rec record) *sandbox {
	ctx, cancel := context.WithCancel(context.Background())
	return &sandbox{id: rec.Sandbox, rec: rec, turn: make(chan struct{}, 1), ctx: ctx, cancel: cancel, journal: journal.New()}
}

// acquire waits for the turn to change the sandbox; release gives it back.
func (s *sandbox) acquire(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return models.AsError(ctx.Err())
	}
}

func (s *sandbox) release() { <-s.turn }

func (s *sandbox) view() Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Sandbox{
		ID: s.id, State: s.rec.State, Reason: s.rec.Reason, Template: s.rec.Template, Size: s.rec.Size,
		CreatedAt: s.rec.CreatedAt, Steps: slices.Clone(s.rec.Steps), Guest: s.rec.Guest, EnvdVersion: s.rec.Envd,
		Network: s.rec.policy(), Resumed: s.rec.Resumed, Archive: s.rec.archived(),
		Verified: s.rec.Verified, Damage: s.rec.Damage,
	}
}

// update changes the record in memory and returns a copy to be written.
func (s *sandbox) update(change func(*record)) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.rec)
	r := s.rec
	r.Steps = slices.Clone(r.Steps)
	return r
}

// machine returns the VM and the guest's client, either of which may be nil.
func (s *sandbox) machine() (vm.Running, *envdclient.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vm, s.guest
}

// lose forgets the VM, which has ended, and returns the guest's client to be closed, if there is one.
func (s *sandbox) lose() *envdclient.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	guest := s.guest
	s.vm, s.guest, s.rec.VM = nil, nil, nil
	return guest
}

// holds returns the network slot that the sandbox holds, or false.
func (s *sandbox) holds() (network.Slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slot == nil {
		return network.Slot{}, false
	}
	return *s.slot, true
}

// hold records in memory that the sandbox holds slot, and returns the record to be written.
func (s *sandbox) hold(slot network.Slot) record {
	rec := s.update(func(r *record) { r.Slot = slot.Index })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot = &slot
	return rec
}

// abandon stops what is under way, waits for its end and lets go of the VM.
func (s *sandbox) abandon() {
	s.cancel()
	s.turn <- struct{}{}
	defer s.release()
	machine, guest := s.machine()
	if guest != nil {
		guest.Close()
	}
	if machine != nil {
		_ = machine.Release() // the process is about to end: nothing is left to be done about it
	}
}
