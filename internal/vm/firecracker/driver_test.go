package firecracker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/fctest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

// script makes an executable that answers --version with version, and otherwise does what body says.
func script(t *testing.T, version, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	text := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '%s'; exit; fi\n%s\n", version, body)
	must(t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

func TestNew(t *testing.T) {
	for version, want := range map[string]string{
		"Firecracker v1.6.0":      "",
		"Firecracker v1.10.1-dev": "",
		"Firecracker v2.0.0":      "",
		"Firecracker v1.5.3":      "Firecracker v1.5.3 is older than v1.6",
		"Firecracker v0.25.2":     "older than v1.6",
		"QEMU emulator":           `it says "QEMU emulator" when asked for its version`,
		"":                        `it says "" when asked`,
	} {
		d, err := firecracker.New(t.Context(), firecracker.Options{Binary: script(t, version, ""), Unjailed: true})
		switch {
		case want == "" && (err != nil || d.Info().Driver != "firecracker" || d.Info().Version != version || d.Info().Accelerator != "kvm"):
			t.Errorf("%q: %+v, %v", version, d, err)
		case want == "" && (d.Info().NoRestore == "") != (version == "Firecracker v2.0.0"):
			t.Errorf("%q: it cannot restore because %q", version, d.Info().NoRestore)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", version, err, want)
		}
	}
	if _, err := firecracker.New(t.Context(), firecracker.Options{Binary: "no-such-program"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without an executable: %v, want exec.ErrNotFound", err)
	}
	if _, err := firecracker.New(t.Context(), firecracker.Options{Binary: "false"}); err == nil {
		t.Error("an executable that fails was taken")
	}
}

// TestNewNeedsTheJailer holds that there is no jail without the jailer of the same release, and no Firecracker without a jail unless it is asked for.
func TestNewNeedsTheJailer(t *testing.T) {
	binary := script(t, "Firecracker v1.10.1", "")
	for jailer, want := range map[string]string{
		script(t, "Jailer v1.10.1", ""):      "",
		script(t, "Jailer v1.9.0", ""):       "not of the same release",
		script(t, "Firecracker v1.10.1", ""): "when asked for its version",
		"no-such-program":                    "find firecracker's jailer",
	} {
		_, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Jailer: jailer})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	strict, kernel := fake(t)
	spec := vmtest.GuestSpec(t, kernel)
	spec.Jail = &vm.Jail{Owner: 1 << 20}
	if _, err := newUnjailed(t, strict).Configure(t.Context(), spec); err == nil {
		t.Error("a VM with a jail was taken by a driver without a jailer")
	}
	d, err := firecracker.New(t.Context(), firecracker.Options{Binary: strict, Jailer: filepath.Join(filepath.Dir(strict), "jailer")})
	must(t, err)
	spec.Jail = nil
	if _, err := d.Configure(t.Context(), spec); err == nil {
		t.Error("a VM without a jail was taken, which nobody had allowed")
	}
}

func TestConfigureRefuses(t *testing.T) {
	binary, kernel := fake(t)
	d := newDriver(t, binary)
	for want, spoil := range map[string]func(*vm.Spec){
		`no id like "a_b"`: func(s *vm.Spec) { s.ID = "a_b" },
		"no id like":       func(s *vm.Spec) { s.ID = strings.Repeat("x", 65) },
		"33 vcpus":         func(s *vm.Spec) { s.VCPUs = 33 },
	} {
		spec := vmtest.GuestSpec(t, kernel)
		spoil(&spec)
		if _, err := d.Configure(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestStartFails holds that a failed start says why in the VMM's own words, and leaves no process.
func TestStartFails(t *testing.T) {
	strict, kernel := fake(t)
	for want, c := range map[string]struct {
		binary string
		spoil  func(vm.Spec)
	}{
		"exited with status 7: it cannot work":         {script(t, "Firecracker v1.6.0", "echo it cannot work >&2; exit 7"), nil},
		"said before; the last words":                  {script(t, "Firecracker v1.6.0", "yes said before | head -n 4000 >&2; echo the last words >&2; exit 8"), nil},
		"signal 9":                                     {script(t, "Firecracker v1.6.0", "kill -9 $$"), nil},
		"exited with status 0":                         {script(t, "Firecracker v1.6.0", "exit 0"), nil},
		"deadline exceeded":                            {script(t, "Firecracker v1.6.0", "exec sleep 600"), nil},
		"PUT /drives/rootfs with 400: cannot open the": {strict, func(s vm.Spec) { must(t, os.Remove(s.Rootfs)) }},
		"PUT /boot-source with 400: cannot open":       {strict, func(s vm.Spec) { must(t, os.Remove(s.Kernel)) }},
		"PUT /actions with 400: cannot load":           {strict, func(s vm.Spec) { must(t, os.WriteFile(s.Kernel, []byte("text"), 0o600)) }},
	} {
		spec := vmtest.GuestSpec(t, kernel)
		spec.Jail, spec.Kernel = nil, filepath.Join(spec.Dir, "vmlinux")
		must(t, os.WriteFile(spec.Kernel, fctest.Kernel(), 0o600))
		configured, err := newUnjailed(t, c.binary).Configure(t.Context(), spec)
		must(t, err)
		if c.spoil != nil {
			c.spoil(spec)
		}
		ctx, cancel := context.WithTimeout(t.Context(), map[bool]time.Duration{true: time.Second, false: time.Minute}[want == "deadline exceeded"])
		if _, err := configured.Start(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		} else if killed := want == "signal 9"; errors.Is(err, vm.ErrGone) != killed {
			t.Errorf("%s: that it was killed is %v, in %v", want, !killed, err)
		}
		cancel()
		if left, err := vmm.Find(vmm.Mark{Dir: spec.Dir}); err != nil || len(left) > 0 {
			t.Errorf("%s: processes %v are left (%v)", want, left, err)
		}
	}
}

// TestStartFailsInJail holds that what the jailer says reaches the caller, and that nothing is left of what failed there.
func TestStartFailsInJail(t *testing.T) {
	testlane.NeedRoot(t)
	strict, kernel := fake(t)
	jailer := script(t, "Jailer v"+fctest.Version, "echo it cannot jail >&2; exit 1")
	d, err := firecracker.New(t.Context(), firecracker.Options{Binary: strict, Jailer: jailer})
	must(t, err)
	spec := vmtest.GuestSpec(t, kernel)
	configured, err := d.Configure(t.Context(), spec)
	must(t, err)
	if _, err := configured.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "it cannot jail") {
		t.Errorf("error %v", err)
	}
	configured, err = newDriver(t, strict).Configure(t.Context(), spec)
	must(t, err)
	must(t, os.Remove(spec.Rootfs))
	must(t, os.Symlink("/etc/hostname", spec.Rootfs)) // it must not be given to the VM's user
	if _, err := configured.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "give a file away") {
		t.Errorf("error %v", err)
	}
	if left, err := vmm.Find(vmm.Mark{Dir: spec.Dir, Disk: spec.Rootfs, Owner: spec.Jail.Owner}); err != nil || len(left) > 0 {
		t.Errorf("processes %v are left (%v)", left, err)
	}
}

// TestSecondRun holds that a VM starts in the folder of one that was killed.
func TestSecondRun(t *testing.T) {
	binary, kernel := fake(t)
	d, spec := newDriver(t, binary), vmtest.GuestSpec(t, kernel)
	for range 2 {
		v := start(t, d, spec)
		echo(t, v)
		_, err := v.Kill()
		must(t, err)
	}
}

func TestAdoptRefusesOtherDrivers(t *testing.T) {
	binary, kernel := fake(t)
	d := newDriver(t, binary)
	saved := start(t, d, vmtest.GuestSpec(t, kernel)).Saved()
	saved.Driver = "qemu"
	if _, err := d.Adopt(t.Context(), saved); err == nil || errors.Is(err, vm.ErrGone) {
		t.Errorf("a QEMU VM was adopted: %v", err)
	}
}

// TestTAP holds that the strict server opens the TAP for real: a second VM finds it busy.
func TestTAP(t *testing.T) {
	testlane.NeedRoot(t)
	binary, kernel := fake(t)
	d, spec := newDriver(t, binary), vmtest.GuestSpec(t, kernel)
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tap-fake"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_ONE_QUEUE,
	}
	must(t, netlink.LinkAdd(tap))
	t.Cleanup(func() { must(t, netlink.LinkDel(tap)) })
	nic, owner := &vm.NIC{TAP: tap.Name, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}, spec.Jail
	spec.NIC = nic
	start(t, d, spec)
	spec = vmtest.GuestSpec(t, kernel)
	spec.NIC, spec.Jail = nic, owner
	configured, err := d.Configure(t.Context(), spec)
	must(t, err)
	if _, err := configured.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a second VM on the same TAP: %v", err)
	}
}

func TestMetricsStrictServer(t *testing.T) {
	binary, kernel := fake(t)
	checkMetrics(t, newDriver(t, binary), kernel)
}

func TestMetricsFirecracker(t *testing.T) {
	binary := realFirecracker(t)
	needKVM(t)
	checkMetrics(t, newDriver(t, binary), realKernel(t))
}

// checkMetrics asks twice, the second time after a restart of the agent.
func checkMetrics(t *testing.T, d vm.Driver, kernel string) {
	t.Helper()
	v := start(t, d, vmtest.GuestSpec(t, kernel))
	echo(t, v)
	checkMetricsOf(t, v)
	must(t, v.Release())
	v = adopt(t, d, v.Saved())
	checkMetricsOf(t, v)
	_, err := v.Kill()
	must(t, err)
	if _, err := v.(*firecracker.VM).Metrics(t.Context()); err == nil {
		t.Error("a VM that has ended has metrics")
	}
}

func checkMetricsOf(t *testing.T, v vm.Running) {
	t.Helper()
	text, err := v.(*firecracker.VM).Metrics(t.Context())
	must(t, err)
	var document map[string]json.RawMessage
	must(t, json.Unmarshal(text, &document))
	for _, key := range []string{"utc_timestamp_ms", "vsock"} {
		if document[key] == nil {
			t.Errorf("the metrics %.200s lack %s", text, key)
		}
	}
}

// start boots a VM, which is killed after the test.
func start(t *testing.T, d vm.Driver, spec vm.Spec) vm.Running {
	t.Helper()
	configured, err := d.Configure(t.Context(), spec)
	must(t, err)
	v, err := configured.Start(t.Context())
	must(t, err)
	return killAfter(t, v)
}

func adopt(t *testing.T, d vm.Driver, saved vm.Saved) vm.Running {
	t.Helper()
	v, err := d.Adopt(t.Context(), saved)
	must(t, err)
	return killAfter(t, v)
}

func killAfter(t *testing.T, v vm.Running) vm.Running {
	t.Helper()
	t.Cleanup(func() {
		_, err := v.Kill()
		if errors.Is(err, vm.ErrReleased) { // by a test that may have failed before another agent took it over
			err = killSaved(v.Saved())
		}
		if err != nil {
			t.Error(err)
		}
	})
	return v
}

// killSaved ends a VMM that nobody holds. That it is gone already is no error.
func killSaved(saved vm.Saved) error {
	process, err := vmm.Adopt(vmm.Identity{PID: saved.PID, StartTime: saved.StartTime, BootID: saved.BootID})
	if errors.Is(err, vm.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer process.Release()
	return process.Kill(context.Background())
}

// echo holds that the guest answers.
func echo(t *testing.T, v vm.Running) {
	t.Helper()
	conn, err := v.Dial(t.Context(), echoPort)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(callLimit)))
	_, err = conn.Write([]byte("hello"))
	must(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(conn, answer)
	must(t, err)
	if string(answer) != "hello" {
		t.Errorf("the guest answered %q", answer)
	}
}

// TestLazyNeedsAPager: without the program that brings memory later, none comes later.
func TestLazyNeedsAPager(t *testing.T) {
	testlane.NeedRoot(t)
	binary, _ := fake(t)
	for want, pager := range map[bool][]string{true: pagerCommand(t), false: nil} {
		d, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, Pager: pager})
		must(t, err)
		if d.Info().Lazy != want {
			t.Errorf("with the pager %q: %+v", pager, d.Info())
		}
	}
}
