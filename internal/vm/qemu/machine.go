package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu/qmp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// drainLimit bounds how long the rest of a dead QEMU's output is read.
const drainLimit = 2 * time.Second

// machine implements vm.Running. After newMachine and attach its goroutine watch owns it, until QEMU
// ends or Release is called; whichever is first closes done or released.
type machine struct {
	saved   vm.Saved
	log     *slog.Logger
	process *vmm.Process
	sockets *sockets
	out     *outputs
	session *session
	qmp     *qmp.Client // nil before attach

	freezing sync.Mutex // held by Pause, Resume and Snapshot

	events   sync.WaitGroup
	shutdown atomic.Value // string: the reason that QEMU gave in its SHUTDOWN event
	asked    atomic.Bool

	release  sync.Once
	releases chan struct{} // closed when Release is called
	watched  chan struct{} // closed when watch has ended
	done     chan struct{} // closed when QEMU has ended and exit is known
	exit     vm.Exit
}

func (d *Driver) newMachine(saved vm.Saved, process *vmm.Process, s *sockets, out *outputs) *machine {
	return &machine{
		saved:    saved,
		log:      d.log,
		process:  process,
		sockets:  s,
		out:      out,
		session:  newSession(filepath.Join(saved.Dir, envdSocket), s.envd),
		releases: make(chan struct{}),
		watched:  make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// attach makes the QMP connection ready. It fails with qmp.ErrClosed when QEMU ends first.
func (m *machine) attach(ctx context.Context) error {
	client, err := qmp.New(ctx, m.sockets.qmp)
	if err != nil {
		return err
	}
	m.qmp = client
	m.events.Go(m.followEvents)
	return nil
}

// followEvents ends with the QMP connection.
func (m *machine) followEvents() {
	for event := range m.qmp.Events() {
		var data struct {
			Reason string `json:"reason"`
		}
		if event.Name == "SHUTDOWN" && json.Unmarshal(event.Data, &data) == nil {
			m.shutdown.Store(data.Reason)
		}
	}
}

// detach ends everything but the process. With drain it first reads what a QEMU that has ended left behind.
func (m *machine) detach(drain bool) {
	m.session.close()
	if drain {
		cut := time.AfterFunc(drainLimit, func() { m.out.cut(); m.sockets.close() })
		m.out.group.Wait()
		m.events.Wait()
		cut.Stop()
	}
	m.sockets.close()
	if m.qmp != nil {
		m.qmp.Close()
	}
	m.events.Wait()
	if err := m.out.close(); err != nil {
		m.log.Warn("output of a VM was lost", "dir", m.saved.Dir, "err", err)
	}
}

// watch waits for the end of QEMU, or for Release.
func (m *machine) watch() {
	defer close(m.watched)
	select {
	case <-m.process.Done():
	case <-m.releases:
		return
	}
	m.detach(true)
	m.exit = m.describeExit()
	m.process.Release()
	close(m.done)
}

// Whole implements vm.Running: the memory was there before the VM.
func (m *machine) Whole(context.Context) error { return nil }

// Saved implements vm.Running.
func (m *machine) Saved() vm.Saved { return m.saved }

// Done implements vm.Running.
func (m *machine) Done() <-chan struct{} { return m.done }

// Exit implements vm.Running.
func (m *machine) Exit() vm.Exit {
	select {
	case <-m.done:
		return m.exit
	default:
		return vm.Exit{}
	}
}

// Dial implements vm.Running. A port that nobody listens on is refused at once when the guest has booted.
func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial port %d of %s: %w", port, m.saved.Dir, err)
	}
	conn, err := m.session.dial(ctx, port)
	if errors.Is(err, errSessionClosed) {
		err = m.whyClosed()
	}
	if err != nil {
		return nil, fmt.Errorf("dial port %d of %s: %w", port, m.saved.Dir, err)
	}
	return conn, nil
}

// whyClosed is called when detach was: for one of two reasons.
func (m *machine) whyClosed() error {
	select {
	case <-m.done:
		return fmt.Errorf("%w: %s", vm.ErrGone, m.exit.Reason)
	case <-m.releases:
		return vm.ErrReleased
	}
}

// Stop implements vm.Running.
func (m *machine) Stop(ctx context.Context, ask func(context.Context) error) (vm.Exit, error) {
	if err := m.prepareEnd(); err != nil {
		return vm.Exit{}, err
	}
	select {
	case <-m.done:
		return m.exit, nil
	default:
		return vm.StopOrKill(ctx, ask, m.done, m.Kill)
	}
}

// Kill implements vm.Running.
func (m *machine) Kill() (vm.Exit, error) {
	if err := m.prepareEnd(); err != nil {
		return vm.Exit{}, err
	}
	if err := m.process.Kill(context.Background()); err != nil {
		return vm.Exit{}, fmt.Errorf("kill vm in %s: %w", m.saved.Dir, err)
	}
	<-m.watched
	select {
	case <-m.done:
		return m.exit, nil
	default:
		return vm.Exit{}, fmt.Errorf("kill vm in %s: %w", m.saved.Dir, vm.ErrReleased)
	}
}

// prepareEnd notes that the end is asked for, unless it has come already.
func (m *machine) prepareEnd() error {
	if m.hasEnded() {
		return nil
	}
	select {
	case <-m.releases:
		return fmt.Errorf("end vm in %s: %w", m.saved.Dir, vm.ErrReleased)
	default:
		m.asked.Store(true)
		return nil
	}
}

// Release implements vm.Running.
func (m *machine) Release() error {
	m.release.Do(func() {
		close(m.releases)
		<-m.watched
		select {
		case <-m.done:
		default:
			m.detach(false)
			m.process.Release()
		}
	})
	return nil
}
