package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// PortName is the name of the virtio-serial port that envd answers on.
const PortName = "wrenn.envd"

// kernelHZ is CONFIG_HZ of the guest kernel.
const kernelHZ = 100

// Descriptors that QEMU inherits, in the order of sockets.files, and the TAP.
const (
	qmpFD = 3 + iota
	consoleFD
	envdFD
	tapFD // only with a network device
)

// arguments returns QEMU's command line. Each choice that is not obvious was measured; the comments say what it gains.
func (d *Driver) arguments(s vm.Spec) []string {
	return append(d.hardware(s), "-kernel", s.Kernel, "-append", d.kernelArguments(s))
}

// hardware is the part of the command line that makes a snapshot of one VM fit another.
func (d *Driver) hardware(s vm.Spec) []string {
	args := []string{
		"-name", "guest=" + escape(s.ID),
		// With ACPI, QEMU boots through SeaBIOS, with which QEMU 10.0 failed 10 boots in 25. The RTC stays: without it
		// the kernel waits 1.4 s for one.
		"-M", "microvm,acpi=off",
		"-m", strconv.Itoa(s.MemoryMiB) + "M",
		"-smp", strconv.Itoa(s.VCPUs),
		"-nodefaults", "-no-user-config", "-nographic",
		"-no-reboot", // a guest that restarts or panics ends QEMU
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	args = append(args, d.accelerator()...)
	args = append(args, disk(s.Rootfs)...)
	args = append(args, characterDevices()...)
	args = append(args,
		"-object", "rng-builtin,id=rng0", // getrandom(2): a jail has no /dev/urandom
		"-device", "virtio-rng-device,rng=rng0",
		// No balloon: what a guest gives back, whether it was asked to or not, QEMU punches out of the file that its memory is
		// mapped from, also where the mapping is private (7.2 and 10.0), and so out of all other VMs of the same snapshot.
	)
	return append(args, network(s.NIC)...)
}

func (d *Driver) accelerator() []string {
	if d.info.Accelerator == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=64", "-cpu", emulatedCPU}
}

// emulatedCPU: TCG runs the string instructions that erms and fsrm call fast byte by byte. Without them Linux copies whole words,
// and moving bytes over the channel takes the guest about a third less of its processor.
const emulatedCPU = "max,-erms,-fsrm"

// disk gives up the host's caching guarantees: the clone of a rootfs is worth nothing after a crash of the host.
func disk(path string) []string {
	return []string{
		"-drive", "id=root,if=none,format=raw,cache=unsafe,aio=threads,file=" + escape(path),
		"-device", "virtio-blk-device,drive=root",
	}
}

// characterDevices: while nobody is connected to a socket, QEMU drops what the guest writes to it. wait=on costs nothing,
// as the console's connection waits already, and loses none of it.
func characterDevices() []string {
	return []string{
		"-chardev", socket("qmp", qmpFD, "wait=off"), "-mon", "chardev=qmp,mode=control",
		"-chardev", socket("console", consoleFD, "wait=on"), "-serial", "chardev:console",
		"-chardev", socket("envd", envdFD, "wait=off"),
		"-device", "virtio-serial-device,max_ports=2", // port 0 is kept for a console
		"-device", "virtserialport,chardev=envd,nr=1,name=" + PortName,
	}
}

func socket(id string, fd int, wait string) string {
	return fmt.Sprintf("socket,id=%s,fd=%d,server=on,%s", id, fd, wait)
}

func network(nic *vm.NIC) []string {
	if nic == nil {
		return nil
	}
	return []string{
		"-netdev", fmt.Sprintf("tap,id=net0,fd=%d", tapFD),
		"-device", "virtio-net-device,netdev=net0,mac=" + nic.MAC.String(),
	}
}

func (d *Driver) kernelArguments(s vm.Spec) string {
	args := []string{
		// A virtio console would boot no faster than the serial port, and knows nothing of what went wrong before its driver
		// was there.
		"console=ttyS0", "quiet", "root=/dev/vda", "rw", "init=/usr/local/bin/envd",
		"reboot=t", "panic=-1", // at once, by a triple fault, which QEMU takes for a restart
		"acpi=off", "pci=off", // the machine has neither; looking for them takes 40 ms under TCG
		"wrenn.transport=virtio-serial",
	}
	if d.info.Accelerator == TCG {
		args = append(args, d.emulationArguments(s.VCPUs)...)
	}
	return strings.Join(append(args, s.Args...), " ")
}

// emulationArguments spare the kernel what it cannot measure or does not need under TCG, about 400 ms.
func (d *Driver) emulationArguments(vcpus int) []string {
	args := []string{
		// The guest's counter is the host's. Measured against emulated timers it is wrong at times, and then the kernel's clock
		// has a resolution of 10 ms.
		fmt.Sprintf("tsc_early_khz=%d", d.tscKHz), "tsc=reliable",
		fmt.Sprintf("lpj=%d", d.tscKHz*1000/kernelHZ),
		"no_timer_check",
		// rep_good (arch/x86/include/asm/cpufeatures.h: 3*32+16) has Linux copy and clear memory by string instructions, which TCG runs
		// word by word in a loop of its own. The plain loops take a transfer's guest about a seventh less of its processor.
		"clearcpuid=112",
		// TCG knows code by its address: where that differs from run to run it translates every program anew each time, which is
		// half of what a short one takes. Programs in guests do without random addresses here, as the kernel does without mitigations.
		"norandmaps",
		// The Go runtime of envd interrupts by a signal what runs for longer than 10 ms, as everything does whose code is being translated.
		// An argument that the kernel does not know is in the environment of init.
		"GODEBUG=asyncpreemptoff=1",
		"mitigations=off", "noreplace-smp", // each patches the kernel's code, which makes TCG translate it again
	}
	if vcpus == 1 {
		args = append(args, "nolapic_timer") // spares its calibration, 200 ms; with two CPUs it would cost the high-resolution timers
	}
	return args
}

// escape doubles commas, as QEMU's option syntax wants it in a value.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
