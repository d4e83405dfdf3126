package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// private is what Saved keeps of a VM whose memory comes later.
type private struct {
	Pager vmm.Identity `json:"pager"`
}

// loading is the memory of a VM on its way, and the process that brings it.
type loading struct {
	pager   *vmm.Process // nil where it had ended before the VM was adopted
	leisure *os.File     // nil where another agent started it
	hurry   sync.Once    // closes leisure

	watched chan struct{} // closed when nothing is held any more; then
	whole   bool          // whether all has come, and
	lost    string        // why the VM was ended for it
}

// page starts a pager for a Firecracker that waits for its snapshot.
func (c *configured) page(ctx context.Context, v *VM) error {
	l, err := c.listenForMemory()
	if err != nil {
		return err
	}
	defer l.Close()
	reader, log, err := vmm.OpenOutput(c.files.log) // another end, for the pager
	if err != nil {
		return err
	}
	defer reader.Close()
	defer log.Close()
	size := int64(c.spec.MemoryMiB) << 20
	started, err := pager.Start(ctx, c.driver.pager, pager.Order{
		VMM: v.process.Identity(), Memory: c.from.Memory, Size: size, Source: c.lazy.Source, First: c.lazy.First, Record: c.lazy.Record, End: c.files.end,
	}, l, log)
	if err != nil {
		return err
	}
	v.saved.Private, err = json.Marshal(private{started.Process.Identity()})
	v.load(&loading{pager: started.Process, leisure: started.Leisure, watched: make(chan struct{})})
	return err
}

// listenForMemory makes the socket that Firecracker sends its memory to. Nothing of a guest has run in that Firecracker yet, so that what is in its
// jail is what was put there.
func (c *configured) listenForMemory() (*net.UnixListener, error) {
	path := filepath.Join(c.files.root, pagerSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("wait for the memory: %w", err)
	}
	l.SetUnlinkOnClose(false) // by its name Firecracker reaches the pager
	err = os.Chmod(path, 0o600)
	if c.spec.Jail != nil && err == nil {
		err = os.Lchown(path, int(c.spec.Jail.Owner), int(c.spec.Jail.Owner))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the memory: %w", err), l.Close())
	}
	return l, nil
}

// adoptPager takes over the process that brings the VM's memory, if there is one.
func (v *VM) adoptPager() error {
	if v.saved.Private == nil {
		return nil
	}
	var its private
	if err := json.Unmarshal(v.saved.Private, &its); err != nil {
		return err
	}
	process, err := vmm.Adopt(its.Pager)
	if err != nil && !errors.Is(err, vm.ErrGone) {
		return err
	}
	v.load(&loading{pager: process, watched: make(chan struct{})})
	return nil
}

// load watches l.
func (v *VM) load(l *loading) {
	v.loading.Store(l)
	go v.watchLoading(l)
}

// watchLoading ends the VM when who brings its memory has ended before all was there: its guest would wait for ever.
func (v *VM) watchLoading(l *loading) {
	defer close(l.watched)
	defer l.letGo()
	if l.pager != nil {
		select {
		case <-l.pager.Done():
		case <-v.released:
			return
		}
	}
	end, err := pager.ReadEnd(v.files.end)
	l.whole = err == nil && end.Whole
	if l.whole {
		return
	}
	l.lost = end.Reason
	select {
	case <-v.process.Done():
		return
	default:
	}
	if l.lost == "" {
		l.lost = "the VM was ended, since the process that brought its memory has ended"
		_ = durable.WriteJSON(v.files.end, pager.End{Reason: l.lost}, 0o600) // for another agent, if this one dies now
	}
	_ = v.process.Kill(context.Background()) // it has a limit of its own; what is left shows when the VM is ended
}

// lostBefore returns why a VM that is gone was ended for its memory; nil where it was not.
func lostBefore(saved vm.Saved) error {
	if saved.Private == nil {
		return nil
	}
	if end, err := pager.ReadEnd(filesOf(saved.Dir).end); err == nil && end.Reason != "" {
		return &vm.MemoryLost{Reason: end.Reason}
	}
	return nil
}

// letGo frees what is held of the pager.
func (l *loading) letGo() {
	l.speedUp()
	if l.pager != nil {
		l.pager.Release()
	}
}

func (l *loading) speedUp() {
	l.hurry.Do(func() {
		if l.leisure != nil {
			l.leisure.Close()
		}
	})
}

// endLoading ends the pager of a VM that has ended, and lets go of that of one that was released.
func (v *VM) endLoading() {
	l := v.loading.Load()
	if l == nil {
		return
	}
	select {
	case <-v.process.Done():
		if l.pager != nil {
			_ = l.pager.Kill(context.Background()) // without its VMM it ends by itself, too
		}
	default:
	}
	<-l.watched
}

// lostMemory says why a VM was ended for its memory; "" where it was not. The VM has ended.
func (v *VM) lostMemory() string {
	if l := v.loading.Load(); l != nil {
		return l.lost
	}
	return ""
}

// Whole returns when all of the memory is there.
func (v *VM) Whole(ctx context.Context) error {
	l := v.loading.Load()
	if l == nil {
		return nil
	}
	l.speedUp()
	select {
	case <-l.watched:
	case <-ctx.Done():
		return fmt.Errorf("wait for the memory of the VM in %s: %w", v.files.dir, ctx.Err())
	}
	switch {
	case v.isReleased():
		return vm.ErrReleased
	case l.whole:
		return nil
	}
	select {
	case <-v.done:
		return v.exitError()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *VM) isReleased() bool {
	select {
	case <-v.released:
		return true
	default:
		return false
	}
}
