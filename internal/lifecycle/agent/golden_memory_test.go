package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// newSharingRig is a rig that makes golden snapshots of VMs in jails, whose memory is there for all, with one sandbox, which was booted.
func newSharingRig(t *testing.T, change func(*rig)) (r *rig, first GoldenSnapshot) {
	t.Helper()
	r = newRig(t)
	r.close()
	r.jails, r.owners, r.golden = &Jails{}, testOwners, 1<<10
	r.driver.copies, r.driver.memory = true, "what its guest was frozen with"
	if change != nil {
		change(r)
	}
	r.open()
	r.made(false)
	return r, r.minted("")
}

// loaded returns the memory of the one golden snapshot that there is, or nil.
func (r *rig) loaded() *os.File {
	g := r.agent.golden
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range g.have {
		return one.memory
	}
	return nil
}

func (r *rig) awaitLoaded() *os.File {
	r.t.Helper()
	r.eventually("the memory is loaded", func() bool { return r.loaded() != nil })
	return r.loaded()
}

// shared is what the driver was given to map for a sandbox's VM.
func (r *rig) shared(s Sandbox) *os.File {
	r.driver.mu.Lock()
	defer r.driver.mu.Unlock()
	return r.driver.all[r.agent.runDir(s.ID)].from.Shared
}

// TestGoldenMemoryIsShared: all VMs made from one golden snapshot map the same memory. A sandbox that sleeps wakes from its own.
func TestGoldenMemoryIsShared(t *testing.T) {
	r, golden := newSharingRig(t, nil)
	memory := r.awaitLoaded()
	one, other := r.made(true), r.made(true)
	if r.shared(one) != memory || r.shared(other) != memory {
		t.Errorf("they map %v and %v, not %v", r.shared(one), r.shared(other), memory)
	}
	want, err := os.ReadFile(filepath.Join(r.dir, "golden", golden.ID, "memory"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(memory, 0, 1<<30)); err != nil || !bytes.Equal(got, want) || !bytes.HasPrefix(got, []byte(r.driver.memory)) {
		t.Errorf("they share %d bytes, %v, and not the %d of the snapshot", len(got), err, len(want))
	}
	for _, s := range r.agent.Sandboxes() {
		if s.ID == one.ID {
			continue
		}
		if _, err := r.agent.Destroy(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.pause(one.ID)
	r.resume(one.ID)
	if got := r.shared(one); got != nil {
		t.Errorf("one that slept maps %v", got)
	}
}

// TestGoldenMemoryIsNotShared where each VM maps the snapshot's file itself, as it does without a jail and where the driver says so.
func TestGoldenMemoryIsNotShared(t *testing.T) {
	for name, change := range map[string]func(*rig){
		"no jails": func(r *rig) { r.jails, r.owners = nil, 0 },
		"driver":   func(r *rig) { r.driver.copies = false },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := newSharingRig(t, change)
			r.agent.keepMemories(t.Context()) // in case that the worker would only be late
			if memory, got := r.loaded(), r.shared(r.made(true)); memory != nil || got != nil {
				t.Errorf("%v is loaded, and the VM maps %v", memory, got)
			}
		})
	}
}

// TestGoldenMemoryIsGivenBack when it was not asked for for a while and nobody reads it, and with its snapshot.
func TestGoldenMemoryIsGivenBack(t *testing.T) {
	r, _ := newSharingRig(t, nil)
	memory, g := r.awaitLoaded(), r.agent.golden
	g.mu.Lock()
	var of shape
	var one *golden
	for of, one = range g.have {
		one.users, one.asked = one.users+1, time.Now().Add(-demandLasts)
	}
	g.mu.Unlock()
	if found, err := g.unshared(time.Now()); found != nil || err != nil || r.loaded() != memory {
		t.Errorf("while it is used: %v is to be loaded, %v is, %v", found, r.loaded(), err)
	}
	g.giveBack(one) // which wakes the worker
	r.eventually("it is given back", func() bool { return r.loaded() == nil })
	if _, err := memory.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("it is still open: %v", err)
	}
	r.made(true)
	again := r.awaitLoaded()
	if got := r.shared(r.made(true)); got != again {
		t.Errorf("the next VM maps %v, not %v", got, again)
	}
	g.doom(of, one)
	r.eventually("it goes with its snapshot", func() bool {
		_, err := again.Stat()
		return errors.Is(err, os.ErrClosed)
	})
}

// TestNoRoomForGoldenMemory: creates work as without it, which is said once. It is tried again when one asks, and not all the time.
func TestNoRoomForGoldenMemory(t *testing.T) {
	var available, asked atomic.Int64
	available.Store(300) // enough for the VM of the snapshot
	r, _ := newSharingRig(t, func(r *rig) {
		r.driver.memory, r.driver.memoryMiB = "", 100
		r.memory = func() (int64, int64, error) { asked.Add(1); return 1 << 20, available.Load(), nil }
	})
	for range 3 {
		if got := r.shared(r.made(true)); got != nil {
			t.Errorf("it maps %v", got)
		}
		r.eventually("the worker has come to rest", func() bool {
			before := asked.Load()
			time.Sleep(100 * time.Millisecond)
			return asked.Load() == before
		})
	}
	if n := r.heard.count("do not share its memory"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	available.Store(1 << 20)
	r.made(true)
	memory := r.awaitLoaded()
	if got := r.shared(r.made(true)); got != memory {
		t.Errorf("with room it maps %v, not %v", got, memory)
	}
}
