package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// late is a VM whose memory comes later.
type late struct {
	vm.Running
	gate   string // the file that lets all of it come
	memory string
	record string
}

// later returns an image of f for the VM of spec, whose memory comes from source.
func (w *world) later(f frozen, spec vm.Spec, source lateSource) vm.Image {
	w.Helper()
	source.File = f.Memory
	memory, err := os.Open(f.Memory)
	w.must(err)
	defer memory.Close()
	source.Held = unused(memory, int64(f.Machine.MemoryMiB)<<20/pager.BlockSize)
	text, err := json.Marshal(source)
	w.must(err)
	image := f.Image
	image.Memory = filepath.Join(spec.Dir, "memory")
	w.must(os.WriteFile(image.Memory, nil, 0o600))
	w.must(os.Truncate(image.Memory, int64(f.Machine.MemoryMiB)<<20))
	image.Lazy = &vm.Lazy{Source: text, Record: filepath.Join(spec.Dir, "workingset")}
	return image
}

// restoreLater restores f by an agent that dies meanwhile, or by this one. All of its memory but one block may come, that one with the gate.
func (w *world) restoreLater(f frozen, agentDies bool) late {
	w.Helper()
	spec := w.clone(f)
	l := late{gate: filepath.Join(spec.Dir, "gate")}
	return w.restoreAsLate(spec, w.later(f, spec, lateSource{Gate: l.gate}), l, agentDies)
}

func (w *world) restoreAsLate(spec vm.Spec, image vm.Image, l late, agentDies bool) late {
	w.Helper()
	l.memory, l.record = image.Memory, image.Lazy.Record
	if agentDies {
		l.Running = w.adopt(w.runChild(order{Act: actRestore, Spec: spec, From: image}))
		return l
	}
	running, err := vm.Restore(w.ctx(), w.subject.Driver, spec, image)
	w.must(err)
	l.Running = w.keep(running)
	w.must(running.Resume(w.ctx()))
	return l
}

// remembered is what a guest was told before it was frozen.
type remembered struct {
	digest string
	ticks  int
}

// freezeFilled returns a snapshot of a VM that remembers something.
func (w *world) freezeFilled() (frozen, remembered) {
	w.Helper()
	running := w.boot(w.spec())
	r := remembered{w.fill(running, "bytes=8000000&seed=first"), w.ticks(running)}
	w.call(running, "POST", "/write?path=/kept", strings.NewReader("on the disk"))
	f := w.snapshot(running, "snapshot")
	_, err := running.Kill()
	w.must(err)
	return f, r
}

// lazyRestore: a guest answers before its memory is whole, then it is, and can be frozen again.
func lazyRestore(w *world) {
	if !w.subject.Driver.Info().Lazy {
		w.checkNotLazy()
		return
	}
	f, r := w.freezeFilled()
	start := time.Now()
	l := w.restoreLater(f, false)
	w.checkHealth(l)
	answered := time.Since(start)
	w.checkRemembers(l, r.digest, "on the disk", r.ticks)
	w.checkComing(l)
	w.checkWhole(l, f)
	w.Logf("the guest answered after %v, and its memory was whole after %v, of which a part was held up", answered, time.Since(start))
	first, err := pager.ReadWorkingSet(l.record)
	if err != nil || len(first) == 0 {
		w.Errorf("the working set is %v (%v)", first, err)
	}
	w.checkRemembers(l, r.digest, "on the disk", r.ticks)
	w.fill(l, "bytes=1000&seed=other")
	second := w.fill(l, "bytes=8000000&seed=second")
	again := w.snapshot(l, "again")
	_, err = l.Kill()
	w.must(err)
	start = time.Now()
	whole := w.restore(again)
	w.checkHealth(whole)
	w.Logf("with its memory there it answered after %v", time.Since(start))
	w.checkRemembers(whole, second, "on the disk", r.ticks)
	_, err = whole.Kill()
	w.must(err)
	w.checkWorkingSetFirst(again, first, second)
}

// checkWorkingSetFirst restores f with what its guest came to the last time.
func (w *world) checkWorkingSetFirst(f frozen, first []int64, digest string) {
	w.Helper()
	spec := w.clone(f)
	image := w.later(f, spec, lateSource{})
	image.Lazy.First = first
	start := time.Now()
	l := w.restoreAsLate(spec, image, late{}, false)
	w.checkHealth(l)
	answered := time.Since(start)
	w.must(l.Whole(w.ctx()))
	w.Logf("with a working set of %d blocks it answered after %v, and its memory was whole after %v", len(first), answered, time.Since(start))
	w.checkRemembers(l, digest, "on the disk", 0)
}

// checkComing holds that not all of the memory is there.
func (w *world) checkComing(l late) {
	w.Helper()
	ended, cancel := context.WithCancel(w.ctx())
	cancel()
	if err := l.Whole(ended); !errors.Is(err, context.Canceled) {
		w.Errorf("Whole, while memory is held up: %v", err)
	}
	err := l.Snapshot(ended, vm.Files{State: filepath.Join(w.root, "none"), Memory: filepath.Join(w.root, "none")})
	if !errors.Is(err, context.Canceled) {
		w.Errorf("Snapshot, while memory is held up: %v", err)
	}
}

// checkWhole lets all of the memory come.
func (w *world) checkWhole(l late, f frozen) {
	w.Helper()
	w.must(os.WriteFile(l.gate, nil, 0o600))
	w.must(l.Whole(w.ctx()))
	if w.checksum(l.memory) != w.checksum(f.Memory) {
		w.Error("the memory that came is not the snapshot's")
	}
}

// checkNotLazy: who cannot says so, rather than give a guest a memory without anything in it.
func (w *world) checkNotLazy() {
	w.Helper()
	f, _ := w.freezeFilled()
	spec := w.clone(f)
	if _, err := vm.Restore(w.ctx(), w.subject.Driver, spec, w.later(f, spec, lateSource{})); err == nil || !strings.Contains(err.Error(), "comes later") {
		w.Errorf("restore of a VM whose memory comes later: %v", err)
	}
}

// lazyAgentDeath: memory goes on coming when the agent has been killed, and another one takes the VM over.
func lazyAgentDeath(w *world) {
	w.needLazy()
	f, r := w.freezeFilled()
	l := w.restoreLater(f, true)
	w.checkRemembers(l, r.digest, "on the disk", r.ticks)
	w.checkComing(l)
	saved := l.Saved()
	w.must(l.Release())
	if err := l.Whole(w.ctx()); !errors.Is(err, vm.ErrReleased) {
		w.Errorf("Whole after Release: %v", err)
	}
	w.must(os.WriteFile(l.gate, nil, 0o600))
	l.Running = w.adopt(saved)
	w.checkWhole(l, f)
	w.must(l.Release())
	l.Running = w.adopt(saved) // of which nothing is to come any more
	w.must(l.Whole(w.ctx()))
	w.checkRemembers(l, r.digest, "on the disk", r.ticks)
}

func (w *world) needLazy() {
	w.Helper()
	if !w.subject.Driver.Info().Lazy {
		w.Skip("the driver under test restores no VM whose memory comes later")
	}
}

// lazyDamage: a guest whose memory cannot come does not wait for ever, and its end has a reason.
func lazyDamage(w *world) {
	w.needLazy()
	f, _ := w.freezeFilled()
	spec := w.clone(f)
	prepared, err := w.subject.Driver.Prepare(w.ctx(), spec, w.later(f, spec, lateSource{}))
	w.must(err)
	w.must(prepared.Discard()) // and nothing is left that would bring it a memory
	spec = w.clone(f)
	running, err := vm.Restore(w.ctx(), w.subject.Driver, spec, w.later(f, spec, lateSource{Damaged: true}))
	if err == nil {
		w.keep(running)
		_ = running.Resume(w.ctx()) // it may have ended
		if exit := w.waitDone(running); !exit.MemoryLost || !strings.Contains(exit.Reason, "is damaged") {
			w.Errorf("it ended with %+v", exit)
		}
		err = running.Whole(w.ctx())
	}
	w.checkLost(err, "is damaged")
}

// checkLost holds that an error says that memory could not be brought, and why.
func (w *world) checkLost(err error, why string) {
	w.Helper()
	var lost *vm.MemoryLost
	if !errors.As(err, &lost) || !strings.Contains(lost.Reason, why) {
		w.Errorf("its memory could not be brought, and the error is %v", err)
	}
}

// lazyPagerDeath: neither does one for whose memory nobody cares any more, whether its agent sees that or the next one.
func lazyPagerDeath(w *world) {
	w.needLazy()
	f, _ := w.freezeFilled()
	for _, unattended := range []bool{false, true} {
		l := w.restoreLater(f, unattended)
		saved := l.Saved()
		if unattended {
			w.must(l.Release())
		}
		w.killPager(saved)
		if unattended {
			l.Running = w.adopt(saved)
		}
		if exit := w.waitDone(l); !strings.Contains(exit.Reason, "brought its memory") || exit.Asked || !exit.MemoryLost {
			w.Errorf("unattended %t: %+v", unattended, exit)
		}
		_, err := w.subject.Driver.Adopt(w.ctx(), saved) // as by an agent that comes when all is over
		if !errors.Is(err, vm.ErrGone) {
			w.Errorf("unattended %t: adopt: %v", unattended, err)
		}
		w.checkLost(err, "brought its memory")
	}
}

// killPager kills the process that brings the memory of a VM: the one that is this program's user's and is not the VMM.
func (w *world) killPager(saved vm.Saved) {
	w.Helper()
	found, err := vmm.Find(vmm.Mark{Dir: saved.Dir})
	w.must(err)
	found = slices.DeleteFunc(found, func(pid int) bool { return pid == saved.PID })
	if len(found) != 1 {
		w.Fatalf("the VM has the pagers %v", found)
	}
	w.must(syscall.Kill(found[0], syscall.SIGKILL))
	w.eventually("the pager is gone", func() bool {
		left, err := vmm.Find(vmm.Mark{Dir: saved.Dir})
		return err == nil && !slices.Contains(left, found[0])
	})
}
