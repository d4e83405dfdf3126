package vmtest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// frozenFor is how long a guest is watched that must not run.
const frozenFor = 300 * time.Millisecond

func pauseAndResume(w *world) {
	running := w.boot(w.spec())
	conn := w.dial(running, guestapp.EchoPort)
	defer conn.Close()
	w.must(running.Pause(w.ctx()))
	w.must(running.Pause(w.ctx()))
	before := w.disk(running)
	w.checkFrozen(conn)
	if w.disk(running) != before {
		w.Error("the disk of a paused VM has changed")
	}
	w.must(running.Resume(w.ctx()))
	w.must(running.Resume(w.ctx()))
	w.must(conn.SetDeadline(time.Now().Add(w.subject.limit())))
	w.checkAnswer(conn, "sent while it was paused")
	w.checkHealth(running)

	w.must(running.Pause(w.ctx())) // and the next agent finds it paused
	saved := running.Saved()
	w.must(running.Release())
	for what, err := range map[string]error{"Pause": running.Pause(w.ctx()), "Resume": running.Resume(w.ctx())} {
		if !errors.Is(err, vm.ErrReleased) {
			w.Errorf("%s after Release: %v, want ErrReleased", what, err)
		}
	}
	again := w.adopt(saved)
	w.must(again.Resume(w.ctx()))
	w.checkHealth(again)
	_, err := again.Kill()
	w.must(err)
	if err := again.Pause(w.ctx()); !errors.Is(err, vm.ErrGone) {
		w.Errorf("Pause of a VM that has ended: %v, want ErrGone", err)
	}
}

// checkFrozen sends bytes that must not be answered yet.
func (w *world) checkFrozen(conn net.Conn) {
	w.Helper()
	_, err := io.WriteString(conn, "sent while it was paused")
	w.must(err)
	w.must(conn.SetReadDeadline(time.Now().Add(frozenFor)))
	var late net.Error
	if n, err := conn.Read(make([]byte, 1)); !errors.As(err, &late) || !late.Timeout() {
		w.Errorf("a paused guest answered: %d bytes, %v", n, err)
	}
}

func (w *world) checkAnswer(conn net.Conn, want string) {
	w.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(conn, got)
	w.must(err)
	if string(got) != want {
		w.Errorf("the guest answered %q, want %q", got, want)
	}
}

// checkAnswerOrEnd is checkAnswer for a connection that may have ended, but must not hang or lose bytes in its middle.
func (w *world) checkAnswerOrEnd(conn net.Conn, want string) {
	w.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(conn, got)
	var late net.Error
	if !strings.HasPrefix(want, string(got[:n])) || errors.As(err, &late) && late.Timeout() {
		w.Errorf("the guest answered %q (%v), want %q", got[:n], err, want)
	}
}

// disk returns a checksum of a VM's disk.
func (w *world) disk(running vm.Running) [32]byte {
	w.Helper()
	return w.checksum(filepath.Join(running.Saved().Dir, "rootfs.ext4"))
}

func (w *world) checksum(path string) [32]byte {
	w.Helper()
	text, err := os.ReadFile(path)
	w.must(err)
	return sha256.Sum256(text)
}

// frozen is a snapshot with its disk.
type frozen struct {
	vm.Image
	disk string
}

// snapshot freezes running, and leaves it paused.
func (w *world) snapshot(running vm.Running, name string) frozen {
	w.Helper()
	dir := filepath.Join(w.root, "vm-"+name)
	w.must(os.Mkdir(dir, 0o700))
	f := frozen{disk: filepath.Join(dir, "rootfs")}
	f.Files = vm.Files{State: filepath.Join(dir, "vmstate"), Memory: filepath.Join(dir, "memory")}
	w.must(running.Snapshot(w.ctx(), f.Files))
	w.must(copyFile(f.disk, filepath.Join(running.Saved().Dir, "rootfs.ext4")))
	f.Machine = running.Saved().Machine
	return f
}

// clone returns the spec of a VM to be restored from f.
func (w *world) clone(f frozen) vm.Spec {
	w.Helper()
	spec := w.spec()
	spec.Kernel, spec.Args = "", nil
	w.must(copyFile(spec.Rootfs, f.disk))
	return spec
}

// restore returns a VM that runs.
func (w *world) restore(f frozen) vm.Running {
	w.Helper()
	return w.restoreAs(w.clone(f), f)
}

func (w *world) restoreAs(spec vm.Spec, f frozen) vm.Running {
	w.Helper()
	running, err := vm.Restore(w.ctx(), w.subject.Driver, spec, f.Image)
	w.must(err)
	w.keep(running)
	w.must(running.Resume(w.ctx()))
	return running
}

func (w *world) ticks(running vm.Running) int {
	w.Helper()
	n, err := strconv.Atoi(w.call(running, http.MethodGet, "/ticks", nil))
	w.must(err)
	return n
}

// fill gives the guest bytes to remember, and returns their digest.
func (w *world) fill(running vm.Running, query string) string {
	w.Helper()
	w.call(running, http.MethodPost, "/memory?"+query, nil)
	return w.call(running, http.MethodGet, "/memory", nil)
}

// snapshotAndRestore: memory, what runs, and disk go on, in the VM itself and in one that is restored later.
func snapshotAndRestore(w *world) {
	running := w.boot(w.spec())
	digest := w.fill(running, "bytes=8000000&seed=first")
	w.call(running, http.MethodPost, "/write?path=/kept", strings.NewReader("on the disk"))
	conn := w.dial(running, guestapp.EchoPort)
	defer conn.Close()
	ticks := w.ticks(running)
	f := w.snapshot(running, "snapshot")
	w.checkFrozen(conn)
	w.must(running.Resume(w.ctx()))
	w.must(conn.SetDeadline(time.Now().Add(w.subject.limit())))
	w.checkAnswerOrEnd(conn, "sent while it was paused")
	w.call(running, http.MethodPost, "/write?path=/kept", strings.NewReader("later"))
	w.checkRemembers(running, digest, "later", ticks)
	w.checkSparse(f)
	_, err := running.Kill()
	w.must(err)

	clone := w.clone(f)
	restored := w.restoreAs(clone, f)
	w.checkRemembers(restored, digest, "on the disk", ticks)
	if w.subject.Jailed {
		w.checkView(restored, clone, f.State, f.Memory)
	}
	saved := restored.Saved()
	if diff := cmp.Diff(f.Machine, saved.Machine); diff != "" {
		w.Errorf("the machine changed by the restore:\n%s", diff)
	}
	w.must(restored.Release())
	restored = w.adopt(saved)
	w.checkRemembers(restored, digest, "on the disk", ticks)
	exit, err := restored.Stop(w.ctx(), w.askToShutDown(restored))
	w.must(err)
	w.checkEnded(restored, exit)
}

func (w *world) checkRemembers(running vm.Running, digest, kept string, ticks int) {
	w.Helper()
	if got := w.call(running, http.MethodGet, "/memory", nil); got != digest {
		w.Errorf("the guest's memory has the digest %s, want %s", got, digest)
	}
	if got := w.call(running, http.MethodGet, "/read?path=/kept", nil); got != kept {
		w.Errorf("the file on the guest's disk says %q, want %q", got, kept)
	}
	if now := w.ticks(running); now < ticks {
		w.Errorf("the guest has counted to %d, after it was at %d", now, ticks)
	}
	now := w.ticks(running)
	w.eventually("the guest goes on counting", func() bool { return w.ticks(running) > now })
}

// checkSparse holds that the memory file has the size of the memory, and not its cost.
func (w *world) checkSparse(f frozen) {
	w.Helper()
	info, err := os.Stat(f.Memory)
	w.must(err)
	if info.Size() != int64(f.Machine.MemoryMiB)<<20 {
		w.Errorf("the memory file has %d bytes, not %d MiB", info.Size(), f.Machine.MemoryMiB)
	}
	const blockSize = 512 // of st_blocks
	if used := info.Sys().(*syscall.Stat_t).Blocks * blockSize; used > info.Size()*9/10 {
		w.Errorf("%d of %d bytes of the memory file are stored", used, info.Size())
	}
}

// snapshotOfClones: VMs restored from one snapshot at once go apart, and can be snapshotted themselves, again and again.
func snapshotOfClones(w *world) {
	running := w.boot(w.spec())
	w.fill(running, "bytes=4000000&seed=first")
	w.call(running, http.MethodPost, "/write?path=/kept", strings.NewReader("first"))
	f := w.snapshot(running, "first")
	_, err := running.Kill()
	w.must(err)
	before := w.checksum(f.Memory)

	clones, digests := w.restoreMany(f, 2)
	for i, clone := range clones {
		w.checkRemembers(clone, digests[i], "first", 0)
	}
	w.snapshot(clones[0], "second") // with a part of its memory set to zero since, and a part changed
	w.must(clones[0].Resume(w.ctx()))
	third := w.fill(clones[0], "bytes=4000000&seed=third")
	again := w.snapshot(clones[0], "third")
	for _, clone := range clones {
		_, err := clone.Kill()
		w.must(err)
	}
	w.checkRemembers(w.restore(again), third, "first", 0)
	if w.checksum(f.Memory) != before {
		w.Error("VMs that were restored from a memory file changed it")
	}
}

// restoreMany restores n clones at once and gives each a memory of its own: that of the first is zero.
func (w *world) restoreMany(f frozen, n int) (clones []vm.Running, digests []string) {
	w.Helper()
	specs, errs := make([]vm.Spec, n), make([]error, n)
	clones = make([]vm.Running, n)
	for i := range specs {
		specs[i] = w.clone(f)
	}
	var group sync.WaitGroup
	for i, spec := range specs {
		group.Go(func() {
			if clones[i], errs[i] = vm.Restore(w.ctx(), w.subject.Driver, spec, f.Image); errs[i] == nil {
				errs[i] = clones[i].Resume(w.ctx())
			}
		})
	}
	group.Wait()
	for i := range clones {
		w.must(errs[i])
		w.keep(clones[i])
		digests = append(digests, w.fill(clones[i], "bytes=4000000&seed="+strings.Repeat("x", i)))
	}
	return clones, digests
}

// snapshotUnderTraffic: a snapshot is whole, whatever host and guest are sending each other while it is made.
func snapshotUnderTraffic(w *world) {
	running := w.boot(w.spec())
	for i := range 3 {
		end := w.traffic(running)
		f := w.snapshot(running, "snapshot"+strconv.Itoa(i))
		w.must(running.Resume(w.ctx()))
		w.checkHealth(running)
		end()
		restored := w.restore(f)
		w.checkHealth(restored)
		_, err := restored.Kill()
		w.must(err)
	}
}

// traffic keeps bytes moving both ways until the function is called that it returns: a stream from the guest, and one byte after the
// other, as somebody types, to the guest and back. A snapshot may end the connections, but must lose nothing in their middle.
func (w *world) traffic(running vm.Running) (end func()) {
	w.Helper()
	source, echo := w.dial(running, guestapp.SourcePort), w.dial(running, guestapp.EchoPort)
	var group sync.WaitGroup
	group.Go(func() {
		for guestapp.Receive(source, 1<<20) == nil {
		}
	})
	group.Go(func() { typeAway(echo) })
	group.Go(func() {
		if got, want := checkTyped(echo); got != want {
			w.Errorf("the guest answered %d, want %d", got, want)
		}
	})
	return func() {
		source.Close()
		echo.Close()
		group.Wait()
	}
}

// betweenKeys is short against the time that a snapshot takes, and long enough for a guest that is frozen meanwhile not to run out of buffers.
const betweenKeys = time.Millisecond

func typeAway(conn net.Conn) {
	ticker := time.NewTicker(betweenKeys)
	defer ticker.Stop()
	for key := byte(0); ; key++ {
		<-ticker.C
		if _, err := conn.Write([]byte{key}); err != nil {
			return
		}
	}
}

// checkTyped returns the first byte that is not what was typed, and what was; the same twice if there is none.
func checkTyped(conn net.Conn) (got, want byte) {
	typed := bufio.NewReader(conn)
	for ; ; want++ {
		var err error
		if got, err = typed.ReadByte(); err != nil {
			return want, want
		}
		if got != want {
			return got, want
		}
	}
}

// snapshotNetwork restores a VM onto another TAP device, which is what its guest's packets then go through.
func snapshotNetwork(w *world) {
	if !w.subject.NIC {
		w.Skip("the driver under test has no network device")
	}
	spec := w.spec("wrenn.ip=10.0.0.2/30", "wrenn.gw=10.0.0.1")
	spec.NIC = nic(makeTAP(w, "tap-before"))
	running := w.boot(spec)
	conn := w.dialNetwork()
	defer conn.Close()
	f := w.snapshot(running, "snapshot")
	_, err := running.Kill()
	w.must(err)
	removeTAP(w, "tap-before")

	clone := w.clone(f)
	if _, err := vm.Restore(w.ctx(), w.subject.Driver, clone, f.Image); err == nil || !strings.Contains(err.Error(), "hardware") {
		w.Errorf("restore without a NIC: %v, want an error about the hardware", err)
	}
	clone.NIC = nic(makeTAP(w, "tap-after"))
	restored := w.restoreAs(clone, f)
	_, err = io.WriteString(conn, "to who was frozen") // on a connection that was open
	w.must(err)
	w.checkAnswer(conn, "to who was frozen")
	w.dialNetwork().Close()
	if !w.subject.Driver.Info().Copies {
		return
	}
	_, err = restored.Kill()
	w.must(err)
	defer w.share(&f)()
	sharing := w.clone(f)
	sharing.NIC = clone.NIC
	w.checkShares(w.restoreAs(sharing, f), f)
	w.dialNetwork().Close()
}

// snapshotFails: what cannot be written leaves no file, and the VM as it was.
func snapshotFails(w *world) {
	running := w.boot(w.spec())
	dir := filepath.Join(w.root, "vm-files")
	w.must(os.Mkdir(dir, 0o700))
	in := func(name string) string { return filepath.Join(dir, name) }
	w.must(os.WriteFile(in("there"), []byte("before"), 0o600))
	ended, cancel := context.WithCancel(w.ctx())
	cancel()
	for name, c := range map[string]struct {
		ctx context.Context
		to  vm.Files
	}{
		"no such folder":      {w.ctx(), vm.Files{State: in("no/state"), Memory: in("memory")}},
		"no folder of memory": {w.ctx(), vm.Files{State: in("state"), Memory: in("no/memory")}},
		"state exists":        {w.ctx(), vm.Files{State: in("there"), Memory: in("memory")}},
		"memory exists":       {w.ctx(), vm.Files{State: in("state"), Memory: in("there")}},
		"cancelled":           {ended, vm.Files{State: in("state"), Memory: in("memory")}},
	} {
		if err := running.Snapshot(c.ctx, c.to); err == nil {
			w.Errorf("%s: no error", name)
		}
		if diff := cmp.Diff([]string{"there"}, names(dir)); diff != "" {
			w.Errorf("%s: files:\n%s", name, diff)
		}
		w.checkHealth(running)
	}
	if text, err := os.ReadFile(in("there")); err != nil || string(text) != "before" {
		w.Errorf("a file that was there says %q, %v", text, err)
	}
	w.must(running.Pause(w.ctx()))
	if err := running.Snapshot(w.ctx(), vm.Files{State: in("no/state"), Memory: in("memory")}); err == nil {
		w.Error("a snapshot of a paused VM into no folder: no error")
	}
	conn := w.dialPaused(running)
	if conn != nil {
		w.Error("a VM that was paused runs after its snapshot failed")
	}
}

// dialPaused returns nil where the guest does not answer for a while.
func (w *world) dialPaused(running vm.Running) net.Conn {
	ctx, cancel := context.WithTimeout(w.ctx(), frozenFor)
	defer cancel()
	if health(ctx, running) != nil {
		return nil
	}
	return w.dial(running, guestapp.EchoPort)
}

// restoreFails: what does not fit, is damaged or is given up becomes no VM.
func restoreFails(w *world) {
	running := w.boot(w.spec())
	f := w.snapshot(running, "snapshot")
	_, err := running.Kill()
	w.must(err)
	w.checkRefused(f)
	w.checkCancelled(f)
}

func (w *world) checkRefused(f frozen) {
	w.Helper()
	for name, spoil := range map[string]func(*vm.Spec, *frozen) string{ // returns what the error must name
		"more memory":      func(s *vm.Spec, _ *frozen) string { s.MemoryMiB = 192; return "memory_mib" },
		"more vcpus":       func(s *vm.Spec, _ *frozen) string { s.VCPUs = 2; return "vcpus" },
		"other version":    func(_ *vm.Spec, f *frozen) string { f.Machine.Version += " x"; return "version" },
		"other driver":     func(_ *vm.Spec, f *frozen) string { f.Machine.Driver = "other"; return "driver" },
		"other processor":  func(_ *vm.Spec, f *frozen) string { f.Machine.CPU = "other"; return "cpu" },
		"missing state":    func(_ *vm.Spec, f *frozen) string { f.State += "-not"; return "vmstate-not" },
		"missing memory":   func(_ *vm.Spec, f *frozen) string { f.Memory += "-not"; return "memory-not" },
		"missing disk":     func(s *vm.Spec, _ *frozen) string { s.Rootfs += "-not"; return "rootfs.ext4-not" },
		"empty state":      func(_ *vm.Spec, f *frozen) string { f.State = w.part(f.State, 0); return "damaged" },
		"cut-off state":    func(_ *vm.Spec, f *frozen) string { f.State = w.part(f.State, 2); return "" },
		"foreign state":    func(_ *vm.Spec, f *frozen) string { f.State = w.subject.Kernel; return "" },
		"cut-off memory":   func(_ *vm.Spec, f *frozen) string { f.Memory = w.part(f.Memory, 2); return "damaged" },
		"state for memory": func(_ *vm.Spec, f *frozen) string { f.Memory = f.State; return "damaged" },
	} {
		spec, spoilt := w.clone(f), f
		want := spoil(&spec, &spoilt)
		restored, err := vm.Restore(w.ctx(), w.subject.Driver, spec, spoilt.Image)
		if err == nil {
			w.keep(restored)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			w.Errorf("%s: error %v, want one that names %q", name, err, want)
		}
		var mismatch *vm.Mismatch
		if errors.As(err, &mismatch) && mismatch.Requested != strings.HasPrefix(name, "more") {
			w.Errorf("%s: %+v", name, mismatch)
		}
		w.Logf("%s: %v", name, err)
	}
}

// part copies the first n-th part of a file; 0 for nothing of it.
func (w *world) part(path string, n int64) string {
	w.Helper()
	text, err := os.ReadFile(path)
	w.must(err)
	cut := filepath.Join(w.root, "vm-part-"+filepath.Base(path)+strconv.FormatInt(n, 10))
	size := 0
	if n > 0 {
		size = len(text) / int(n)
	}
	w.must(os.WriteFile(cut, text[:size], 0o600))
	return cut
}

// checkCancelled ends what waits for a snapshot, in every way.
func (w *world) checkCancelled(f frozen) {
	w.Helper()
	ended, cancel := context.WithCancel(w.ctx())
	cancel()
	if _, err := w.subject.Driver.Prepare(ended, w.clone(f), f.Image); !errors.Is(err, context.Canceled) {
		w.Errorf("Prepare with a cancelled context: %v", err)
	}
	prepared, err := w.subject.Driver.Prepare(w.ctx(), w.clone(f), f.Image)
	w.must(err)
	w.must(prepared.Discard())
	w.must(prepared.Discard())
	if _, err := prepared.Restore(w.ctx()); err == nil {
		w.Error("Restore after Discard: no error")
	}
	prepared, err = w.subject.Driver.Prepare(w.ctx(), w.clone(f), f.Image)
	w.must(err)
	if _, err := prepared.Restore(ended); !errors.Is(err, context.Canceled) {
		w.Errorf("Restore with a cancelled context: %v", err)
	}
	prepared, err = w.subject.Driver.Prepare(w.ctx(), w.clone(f), f.Image)
	w.must(err)
	restored, err := prepared.Restore(w.ctx())
	w.must(err)
	w.keep(restored)
	w.must(prepared.Discard()) // does nothing any more
	w.must(restored.Resume(w.ctx()))
	w.checkHealth(restored)
}
