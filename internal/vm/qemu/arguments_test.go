package qemu

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
)

func testDriver(accelerator string) *Driver {
	d := &Driver{binary: "/usr/bin/qemu", info: vm.Info{Driver: Name, Accelerator: accelerator}}
	if accelerator == TCG {
		d.tscKHz = 2596134
	}
	return d
}

func testSpec() vm.Spec {
	return vm.Spec{
		ID: "sb-00000001", Dir: "/d", Kernel: "/k", Rootfs: "/r", VCPUs: 1, MemoryMiB: 256, Args: []string{"wrenn.hostname=sb-00000001"},
	}
}

// valuesOf returns the values of every occurrence of an option.
func valuesOf(args []string, option string) []string {
	var values []string
	for i, arg := range args {
		if arg == option {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArguments(t *testing.T) {
	args := testDriver(TCG).arguments(testSpec())
	for option, want := range map[string][]string{
		"-M":       {"microvm,acpi=off"},
		"-accel":   {"tcg,thread=multi,tb-size=64"},
		"-smp":     {"1"},
		"-m":       {"256M"},
		"-kernel":  {"/k"},
		"-drive":   {"id=root,if=none,format=raw,cache=unsafe,aio=threads,file=/r"},
		"-netdev":  nil,
		"-sandbox": {"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"},
		"-append": {"console=ttyS0 quiet root=/dev/vda rw init=/usr/local/bin/envd reboot=t panic=-1 acpi=off pci=off " +
			"wrenn.transport=virtio-serial tsc_early_khz=2596134 tsc=reliable lpj=25961340 no_timer_check clearcpuid=112 norandmaps GODEBUG=asyncpreemptoff=1 mitigations=off " +
			"noreplace-smp nolapic_timer wrenn.hostname=sb-00000001"},
	} {
		if got := valuesOf(args, option); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
	if !slices.Contains(args, "-no-reboot") || !slices.Contains(args, "-no-user-config") {
		t.Errorf("arguments %q", args)
	}
}

func TestArgumentsForTwoCPUs(t *testing.T) {
	s := testSpec()
	s.VCPUs = 2
	args := testDriver(TCG).arguments(s)
	if got := valuesOf(args, "-append")[0]; strings.Contains(got, "nolapic_timer") || !strings.Contains(got, "tsc_early_khz") {
		t.Errorf("kernel arguments %q", got)
	}
	if got := valuesOf(args, "-smp"); got[0] != "2" {
		t.Errorf("-smp %q", got)
	}
}

func TestArgumentsForKVM(t *testing.T) {
	args := testDriver(KVM).arguments(testSpec())
	if got := valuesOf(args, "-accel"); !slices.Equal(got, []string{"kvm"}) {
		t.Errorf("-accel %q", got)
	}
	got := valuesOf(args, "-append")[0]
	for _, tuning := range []string{"tsc", "lpj", "nolapic_timer", "mitigations"} {
		if strings.Contains(got, tuning) {
			t.Errorf("kernel arguments %q have %s, which is for emulation", got, tuning)
		}
	}
}

// TestArgumentsAreEscaped holds that no value can add an option.
func TestArgumentsAreEscaped(t *testing.T) {
	s := testSpec()
	s.ID, s.Rootfs = "sb-1,debug-threads=on", "/r,readonly=on"
	s.NIC = &vm.NIC{TAP: "tap,script=/x", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	args := testDriver(TCG).arguments(s)
	for option, want := range map[string]string{
		"-name":   "guest=sb-1,,debug-threads=on",
		"-drive":  "file=/r,,readonly=on",
		"-netdev": "tap,id=net0,fd=6", // opened by its name before
	} {
		if got := valuesOf(args, option)[0]; !strings.HasSuffix(got, want) {
			t.Errorf("%s %q, want it to end in %q", option, got, want)
		}
	}
	if devices := valuesOf(args, "-device"); !slices.Contains(devices, "virtio-net-device,netdev=net0,mac=02:00:00:00:00:01") {
		t.Errorf("devices %q", devices)
	}
}

func TestNewWithoutQEMU(t *testing.T) {
	impostor := filepath.Join(t.TempDir(), "impostor")
	if err := os.WriteFile(impostor, []byte("#!/bin/sh\necho 'cannot load libfoo' >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for binary, want := range map[string]string{
		"/nowhere/qemu": "no such file",
		"/bin/echo":     "is no QEMU",
		impostor:        "cannot load libfoo",
	} {
		if _, err := New(t.Context(), Options{Binary: binary}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", binary, err, want)
		}
	}
}

func TestNewHeedsTheProbe(t *testing.T) {
	for _, usable := range []bool{true, false} {
		driver := newDriverWith(t, Options{KVM: &kvm.Verdict{Usable: usable}})
		if want := map[bool]string{true: KVM, false: TCG}[usable]; driver.Info().Accelerator != want {
			t.Errorf("with usable=%t: %+v", usable, driver.Info())
		}
		if usable != (driver.tscKHz == 0) {
			t.Errorf("with usable=%t the clock is %d kHz", usable, driver.tscKHz)
		}
	}
}

func TestTSC(t *testing.T) {
	first, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := measureTSC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first < 500_000 || first > 10_000_000 {
		t.Errorf("%d kHz are no processor's clock", first)
	}
	if difference := max(first-second, second-first); difference > first/1000 {
		t.Errorf("two measurements differ: %d and %d kHz", first, second)
	}
}

// A restored VM has the hardware of one that was booted, its memory privately from the snapshot's file, and nothing that could
// give pages of that file back.
func TestRestoreArguments(t *testing.T) {
	d, spec := testDriver(TCG), testSpec()
	args := d.restoreArguments(spec, "/snap/me,mory")
	if hardware := d.hardware(spec); !slices.Equal(args[:len(hardware)], hardware) {
		t.Errorf("hardware %q, want %q", args[:len(hardware)], hardware)
	}
	for option, want := range map[string][]string{
		"-incoming": {"defer"}, "-kernel": nil, "-machine": {"memory-backend=ram"},
		"-object": {"rng-builtin,id=rng0", "memory-backend-file,id=ram,share=off,size=256M,mem-path=/snap/me,,mory"},
	} {
		if got := valuesOf(args, option); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
	for _, arg := range append(args, d.arguments(spec)...) {
		if strings.Contains(arg, "balloon") {
			t.Errorf("there is a balloon: %s", arg)
		}
	}
}

// What a snapshot is bound to is the hardware, not names and places.
func TestMachine(t *testing.T) {
	d := testDriver(TCG)
	want := d.Machine(testSpec())
	other := testSpec()
	other.ID, other.Dir, other.Rootfs, other.Kernel, other.Args = "x", "/x", "/x", "/x", nil
	if got := d.Machine(other); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	other.NIC = &vm.NIC{TAP: "tap0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	if got := d.Machine(other); got.Hardware == want.Hardware {
		t.Error("a network device makes no difference")
	}
}
