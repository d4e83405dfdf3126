package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func needDevice(t *testing.T) {
	t.Helper()
	if err := unix.Access(Device, unix.R_OK|unix.W_OK); err != nil {
		testlane.Missing(t, Device+" cannot be opened")
	}
}

func TestProbeOfTheDevice(t *testing.T) {
	needDevice(t)
	before := openFiles(t)
	for range 3 {
		start := time.Now()
		v := Probe(t.Context(), Device)
		t.Logf("%+v in %v", v, time.Since(start))
		if v.Reason == "" || v.Usable && v.MIPS < MinMIPS {
			t.Errorf("the verdict contradicts itself: %+v", v)
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

func TestProbeOfWhatIsNoKVM(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]string{
		"/dev/null":    "is no KVM device",
		text:           "is no KVM device",
		"/nowhere/kvm": "does not exist",
	} {
		v := Probe(t.Context(), device)
		if v.Usable || v.MIPS != 0 || !strings.Contains(v.Reason, want) {
			t.Errorf("%s: %+v, want %q", device, v, want)
		}
	}
}

// TestEndlessGuest holds that a guest which never halts is stopped from outside.
func TestEndlessGuest(t *testing.T) {
	needDevice(t)
	m, err := newMachine(Device)
	if err != nil {
		testlane.Missing(t, err.Error())
	}
	copy(m.memory, []byte{0xeb, 0xfe}) // jmp to itself
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if mips, err := m.measure(ctx); err == nil || !strings.Contains(err.Error(), "did not end in time") {
		t.Errorf("an endless guest was measured: %f, %v", mips, err)
	}
	if m.run != nil {
		t.Error("the machine was not closed")
	}
}

func TestGuestThatDoesNotHalt(t *testing.T) {
	needDevice(t)
	m, err := newMachine(Device)
	if err != nil {
		testlane.Missing(t, err.Error())
	}
	copy(m.memory, []byte{0xe6, 0x10, 0xf4}) // out 0x10, al
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := m.measure(ctx); err == nil || !strings.Contains(err.Error(), "exit reason 2") { // KVM_EXIT_IO
		t.Errorf("error %v, want the exit reason", err)
	}
}

func TestEndedContext(t *testing.T) {
	needDevice(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v := Probe(ctx, Device); v.Usable {
		t.Errorf("a verdict of a probe that had no time: %+v", v)
	}
}

func TestRefusal(t *testing.T) {
	if got := refusal("/dev/kvm", &os.PathError{Op: "open", Path: "/dev/kvm", Err: unix.EACCES}); !strings.Contains(got, "may not be opened") {
		t.Error(got)
	}
	if got := refusal("/dev/kvm", errors.New("create a VM: device or resource busy")); !strings.Contains(got, "busy") {
		t.Error(got)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
