package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/memfd"
)

// share loads the memory of f for VMs to share, until the function is called that it returns.
func (w *world) share(f *frozen) (unload func()) {
	w.Helper()
	memory, err := memfd.Load(w.ctx(), f.Memory)
	w.must(err)
	f.Shared = memory
	return func() { memory.Close() }
}

// checkShares holds that a VM maps what was loaded of f, has no file of its own, and knows the file that its snapshots begin as a clone of.
func (w *world) checkShares(running vm.Running, f frozen) {
	w.Helper()
	saved := running.Saved()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", saved.PID))
	w.must(err)
	if !strings.Contains(string(maps), "/memfd:snapshot") {
		w.Errorf("the VM does not map the memory that is shared:\n%s", maps)
	}
	if _, err := os.Lstat(filepath.Join(saved.Dir, "memory")); !errors.Is(err, fs.ErrNotExist) {
		w.Errorf("it has a memory file of its own (%v)", err)
	}
	if saved.Memory != f.Memory {
		w.Errorf("its memory is said to be that of %q, not %q", saved.Memory, f.Memory)
	}
}

// sharedMemory: VMs that map the same memory keep what they change to themselves, and snapshots of them are whole without it, also under the next agent.
func sharedMemory(w *world) {
	if !w.subject.Driver.Info().Copies {
		w.Skip("under this driver a VM maps the snapshot's own file")
	}
	running := w.boot(w.spec())
	digest := w.fill(running, "bytes=4000000&seed=first")
	w.call(running, http.MethodPost, "/write?path=/kept", strings.NewReader("first"))
	f := w.snapshot(running, "first")
	_, err := running.Kill()
	w.must(err)
	before := w.checksum(f.Memory)
	unload := w.share(&f)

	clones, digests := w.restoreMany(f, 2)
	for i, clone := range clones {
		w.checkShares(clone, f)
		w.checkRemembers(clone, digests[i], "first", 0)
	}
	spec := w.clone(f)
	last := w.restoreAs(spec, f)
	w.checkRemembers(last, digest, "first", 0) // whatever the others have changed
	w.checkView(last, spec, f.State, f.Memory)
	f.Shared = nil
	unload()

	w.checkBase(last, f)
	adopted := w.nextAgents(clones[1])
	w.checkShares(adopted, f)
	snapshots := []frozen{w.snapshot(clones[0], "second"), w.snapshot(adopted, "third")}
	for _, running := range append(clones, last) {
		if _, err := running.Kill(); !errors.Is(err, vm.ErrReleased) {
			w.must(err)
		}
	}
	for i, s := range snapshots {
		w.checkRemembers(w.restore(s), digests[i], "first", 0)
	}
	w.checkRemembers(w.restore(f), digest, "first", 0)
	if w.checksum(f.Memory) != before {
		w.Error("VMs that share a memory file's content changed the file")
	}
}

// checkBase holds that a snapshot is a clone of the file, and not of what is mapped: without the file there is none.
func (w *world) checkBase(running vm.Running, f frozen) {
	w.Helper()
	away := f.Memory + "-away"
	w.must(os.Rename(f.Memory, away))
	to := vm.Files{State: filepath.Join(w.root, "tmp", "vmstate"), Memory: filepath.Join(w.root, "tmp", "memory")}
	if err := running.Snapshot(w.ctx(), to); !errors.Is(err, fs.ErrNotExist) {
		w.Errorf("a snapshot without the file that it begins as a clone of: %v", err)
	}
	w.must(os.Rename(away, f.Memory))
}

// nextAgents is running as the next agent finds it, by its record.
func (w *world) nextAgents(running vm.Running) vm.Running {
	w.Helper()
	text, err := json.Marshal(running.Saved())
	w.must(err)
	w.must(running.Release())
	var saved vm.Saved
	w.must(json.Unmarshal(text, &saved))
	return w.adopt(saved)
}
