package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu/qmp"
)

// prepared implements vm.Prepared. Its machine is watched by nobody until it is restored.
type prepared struct {
	machine *machine
	state   string
	once    sync.Once
}

// Prepare implements vm.Driver.
func (d *Driver) Prepare(ctx context.Context, spec vm.Spec, from vm.Image) (vm.Prepared, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := spec.CheckRestore(from, d.Machine(spec)); err != nil {
		return nil, err
	}
	if err := d.checkJail(spec); err != nil {
		return nil, fmt.Errorf("prepare vm %s: %w", spec.ID, err)
	}
	if from.Lazy != nil {
		return nil, fmt.Errorf("prepare vm %s: QEMU cannot restore a VM whose memory comes later", spec.ID)
	}
	c := &configured{driver: d, spec: spec, memory: from.Memory}
	if spec.Jail != nil { // any other maps the file itself
		c.shared = from.Shared
	}
	m, err := c.spawn(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare vm %s: %w", spec.ID, err)
	}
	return &prepared{machine: m, state: from.State}, nil
}

// restoreArguments: without the configuration section, which xen-save-devices-state does not write. QEMU takes a restored VM for one that came from
// another host, and interrupts the guest five times in half a second to have it tell its network so. That stays: it costs next to nothing (200 of 30,400 blocks that are translated
// until a first program has run), and once, without it (migration.announce-rounds=0), guests that had been frozen while a timer of theirs was about to fire slept for ever (7.2,
// internal/snapshot: TestClonesShareNothing); 100 restores without it did not show that again. A private mapping is never written to the
// file; that QEMU opens it for writing all the same is the reason why nothing in it may be given back, see hardware, and why a jail shows a copy of it, or one that is sealed.
func (d *Driver) restoreArguments(s vm.Spec, memory string) []string {
	return append(d.hardware(s),
		"-incoming", "defer", "-S", "-global", "migration.send-configuration=off",
		"-object", "memory-backend-file,id=ram,share=off,size="+strconv.Itoa(s.MemoryMiB)+"M,mem-path="+escape(memory),
		"-machine", "memory-backend=ram",
	)
}

// Restore implements vm.Prepared.
func (p *prepared) Restore(ctx context.Context) (vm.Running, error) {
	var running vm.Running
	err := errors.New("it was restored or discarded before")
	p.once.Do(func() {
		if err = p.load(ctx); err != nil {
			err = p.machine.discard(context.WithoutCancel(ctx), err)
			return
		}
		go p.machine.watch()
		running = p.machine
	})
	if err != nil {
		return nil, fmt.Errorf("restore vm in %s: %w", p.machine.saved.Dir, err)
	}
	return running, nil
}

// Discard implements vm.Prepared.
func (p *prepared) Discard() (err error) {
	p.once.Do(func() {
		m := p.machine
		err = m.process.Kill(context.Background())
		m.detach(true)
		m.process.Release()
	})
	return err
}

// load returns when the state is loaded. A QEMU that cannot load it ends, and says why.
func (p *prepared) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	f, err := os.Open(p.state)
	if err != nil {
		return err
	}
	defer f.Close()
	p.machine.session.start() //nolint:contextcheck // it outlives the call
	q := p.machine.qmp
	if err := q.ExecuteWithFile(ctx, "getfd", map[string]any{"fdname": "state"}, f, nil); err != nil {
		return err
	}
	if err := q.Execute(ctx, "migrate-incoming", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	return p.awaitLoaded(ctx)
}

// loadPoll is how often QEMU is asked whether it has loaded the state, which takes some 5 ms.
const loadPoll = time.Millisecond

func (p *prepared) awaitLoaded(ctx context.Context) error {
	for {
		s, err := p.machine.status(ctx)
		switch {
		case err != nil:
			return err
		case s.Status == "paused":
			return nil
		case s.Status != "inmigrate":
			return fmt.Errorf("the state was not loaded, the guest's is %q", vm.Printable(s.Status))
		}
		select {
		case <-time.After(loadPoll):
		case <-p.machine.process.Done():
			return qmp.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
