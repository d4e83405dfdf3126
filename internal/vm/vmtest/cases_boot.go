package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

func boots(w *world) {
	info := w.subject.Driver.Info()
	if info.Driver == "" || info.Version == "" || info.Accelerator == "" {
		w.Errorf("Info is incomplete: %+v", info)
	}
	for _, vcpus := range []int{1, 2} {
		spec := w.spec("guest.mark=here")
		spec.VCPUs = vcpus
		running := w.boot(spec)
		if got := w.call(running, http.MethodGet, "/cpus", nil); got != map[int]string{1: "1", 2: "2"}[vcpus] {
			w.Errorf("the guest has %s CPUs, not %d", got, vcpus)
		}
		if got := w.call(running, http.MethodGet, "/cmdline", nil); !strings.Contains(got, "guest.mark=here") {
			w.Errorf("the kernel arguments %q lack those of the spec", got)
		}
		w.call(running, http.MethodPost, "/write?path=/written", strings.NewReader("x"))
		w.checkSaved(running, spec)
		exit, err := running.Kill()
		w.must(err)
		if !exit.Asked || exit.At.IsZero() || exit.Reason != "" {
			w.Errorf("exit after Kill: %+v", exit)
		}
	}
}

// checkSaved holds that a Saved says where the VM is, and survives JSON.
func (w *world) checkSaved(running vm.Running, spec vm.Spec) {
	w.Helper()
	saved := running.Saved()
	if saved.Driver != w.subject.Driver.Info().Driver || saved.Dir != spec.Dir || saved.PID <= 0 ||
		saved.StartTime == 0 || saved.BootID == "" {
		w.Errorf("Saved is incomplete: %+v", saved)
	}
	text, err := json.Marshal(saved)
	w.must(err)
	var back vm.Saved
	w.must(json.Unmarshal(text, &back))
	if diff := cmp.Diff(running.Saved(), back); diff != "" {
		w.Errorf("Saved changed in JSON:\n%s", diff)
	}
}

func twoAtOnce(w *world) {
	specs := []vm.Spec{w.spec("guest.mark=first"), w.spec("guest.mark=second")}
	running := make([]vm.Running, len(specs))
	errs := make([]error, len(specs))
	var group sync.WaitGroup
	for i, spec := range specs {
		group.Go(func() {
			running[i], errs[i] = w.tryStart(w.ctx(), spec)
		})
	}
	group.Wait()
	for i := range specs {
		w.must(errs[i])
		if got := w.call(running[i], http.MethodGet, "/cmdline", nil); !strings.Contains(got, specs[i].Args[0]) {
			w.Errorf("VM %d has the kernel arguments %q", i, got)
		}
	}
	_, err := running[0].Kill()
	w.must(err)
	w.checkHealth(running[1])
}

// largeData sends 8 MiB through the guest and back, on a port other than envd's.
func largeData(w *world) {
	running := w.boot(w.spec())
	conn := w.dial(running, guestapp.EchoPort)
	defer conn.Close()
	sent := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent) // never fails
	sending := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		sending <- err
	}()
	received := make([]byte, len(sent))
	_, err := io.ReadFull(conn, received)
	w.must(err)
	w.must(<-sending)
	if !bytes.Equal(sent, received) {
		w.Error("what came back is not what was sent")
	}
}

// bulkData moves bytes one way at a time, twice over each connection, as a measurement of the channel does.
func bulkData(w *world) {
	running := w.boot(w.spec())
	for port, transfer := range map[uint32]func(net.Conn, int64) error{
		guestapp.DiscardPort: guestapp.Send,
		guestapp.SourcePort:  guestapp.Receive,
	} {
		conn := w.dial(running, port)
		for range 2 {
			w.must(transfer(conn, 3<<20+1))
		}
		w.must(conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
		var late net.Error
		if n, err := conn.Read(make([]byte, 1)); !errors.As(err, &late) || !late.Timeout() {
			w.Errorf("port %d: %d bytes more, %v", port, n, err)
		}
		w.must(conn.Close())
	}
}

// network talks to the guest through its network device alone.
func network(w *world) {
	if !w.subject.NIC {
		w.Skip("the driver under test has no network device")
	}
	spec := w.spec("wrenn.ip=10.0.0.2/30", "wrenn.gw=10.0.0.1")
	spec.NIC = nic(makeTAP(w, "tap-test"))
	running := w.boot(spec)
	conn := w.dialNetwork()
	defer conn.Close()
	_, err := io.WriteString(conn, "through the tap")
	w.must(err)
	w.checkAnswer(conn, "through the tap")
	other := w.spec()
	other.NIC, other.Jail = spec.NIC, spec.Jail
	if _, err := w.tryStart(w.ctx(), other); err == nil || !strings.Contains(err.Error(), "busy") {
		w.Errorf("a second VM on the same TAP: %v, want an error that says busy", err)
	}
	w.checkHealth(running)
}

func refusedSpec(w *world) {
	text := filepath.Join(w.root, "vm-text")
	w.must(os.WriteFile(text, bytes.Repeat([]byte("no kernel "), 4096), 0o600))
	cut := filepath.Join(w.root, "vm-cut")
	kernel, err := os.ReadFile(w.subject.Kernel)
	w.must(err)
	w.must(os.WriteFile(cut, kernel[:len(kernel)/2], 0o600))
	empty := filepath.Join(w.root, "vm-empty")
	w.must(os.WriteFile(empty, nil, 0o600))

	for name, spoil := range map[string]func(*vm.Spec) string{ // returns what the error must name
		"missing kernel":  func(s *vm.Spec) string { s.Kernel = "/nowhere/vmlinux"; return s.Kernel },
		"text as kernel":  func(s *vm.Spec) string { s.Kernel = text; return text },
		"cut-off kernel":  func(s *vm.Spec) string { s.Kernel = cut; return cut },
		"empty kernel":    func(s *vm.Spec) string { s.Kernel = empty; return empty },
		"missing rootfs":  func(s *vm.Spec) string { s.Rootfs = "/nowhere/rootfs"; return s.Rootfs },
		"empty rootfs":    func(s *vm.Spec) string { s.Rootfs = empty; return empty },
		"folder as disk":  func(s *vm.Spec) string { s.Rootfs = s.Dir; return s.Dir },
		"missing folder":  func(s *vm.Spec) string { s.Dir += "-not"; return s.Dir },
		"long folder":     func(s *vm.Spec) string { s.Dir += strings.Repeat("x", 80); return "longer" },
		"no vcpus":        func(s *vm.Spec) string { s.VCPUs = 0; return "vcpus" },
		"no memory":       func(s *vm.Spec) string { s.MemoryMiB = 0; return "memory" },
		"blank in arg":    func(s *vm.Spec) string { s.Args = []string{"a=b init=/bin/sh"}; return "init=/bin/sh" },
		"missing tap":     func(s *vm.Spec) string { s.NIC = nic("no-such-tap"); return "no-such-tap" },
		"jail of root":    func(s *vm.Spec) string { s.Jail = &vm.Jail{}; return "root" },
		"option in a tap": func(s *vm.Spec) string { s.NIC = nic("a,script=x"); return "a,script=x" },
	} {
		spec := w.spec()
		want := spoil(&spec)
		if _, err := w.tryStart(w.ctx(), spec); err == nil || !strings.Contains(err.Error(), want) {
			w.Errorf("%s: error %v, want one that names %q", name, err, want)
		}
	}
}

func nic(tap string) *vm.NIC { return &vm.NIC{TAP: tap, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}} }

// unbootable holds that a guest that cannot boot ends by itself and says why.
func unbootable(w *world) {
	for name, c := range map[string]struct {
		spoil func(vm.Spec)
		want  string
	}{
		"no file system": {func(s vm.Spec) { w.must(os.WriteFile(s.Rootfs, make([]byte, 1<<20), 0o600)) }, "root fs"},
		"no init":        {func(s vm.Spec) { w.must(copyFile(s.Rootfs, emptyFilesystem(w))) }, "init"},
	} {
		spec := w.spec()
		c.spoil(spec)
		running := w.start(spec)
		exit := w.waitDone(running)
		if exit.Asked || !strings.Contains(exit.Reason, "Kernel panic") || !strings.Contains(exit.Reason, c.want) {
			w.Errorf("%s: exit %+v, want the kernel's panic about %q", name, exit, c.want)
		}
		if text := w.console(spec.Dir); !strings.Contains(text, "Kernel panic") {
			w.Errorf("%s: the console has no panic: %q", name, text)
		}
		if _, err := running.Dial(w.ctx(), guestapp.HTTPPort); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
			w.Errorf("%s: Dial: %v, want the kernel's panic", name, err)
		}
	}
}

// startCancelled cancels Start before and at several moments while it works. It may win or lose; either way nothing is left.
func startCancelled(w *world) {
	ctx, cancel := context.WithCancel(w.ctx())
	cancel()
	if _, err := w.tryStart(ctx, w.spec()); !errors.Is(err, context.Canceled) {
		w.Errorf("start with a cancelled context: %v", err)
	}
	for _, delay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(w.ctx(), delay)
		running, err := w.tryStart(ctx, w.spec())
		cancel()
		if err == nil {
			w.checkHealth(running) // what was started does not depend on Start's context
		}
	}
}
