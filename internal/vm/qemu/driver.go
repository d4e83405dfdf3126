// Package qemu runs VMs with QEMU's microvm machine: with KVM where a probe shows it usable, else by emulation (TCG).
//
// It is the driver for every machine without Firecracker, and boots the same kernel and the same rootfs. The guest's envd is
// reached through a virtio-serial port, on which package channel of the proto module runs.
//
// QEMU gets three listening sockets from the agent, each already with one connection waiting in it: QMP, serial console
// and envd's port. So nothing that the guest says at its start is lost, and nothing has to be polled for.
// A restarted agent connects to them again by their paths.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
)

// Name is what Info and Saved call this driver.
const Name = "qemu"

// The accelerators.
const (
	KVM = "kvm"
	TCG = "tcg"
)

const defaultBinary = "qemu-system-x86_64"

// What a QEMU takes beside its guest's memory, in MiB: vmm_overhead_mib_qemu of bench measures it under emulation, where 64 MiB of it are
// the cache of translated code; with KVM there is none.
const (
	overheadTCG = 128
	overheadKVM = overheadTCG - 64
)

// processes is how many threads a QEMU has beside those of the processors: up to 64 that work on its disk, and a few more.
const processes = 80

// Options are a driver's settings. The zero value finds everything out.
type Options struct {
	Binary string       // path or name; "" for qemu-system-x86_64 on the PATH
	KVM    *kvm.Verdict // what is known of /dev/kvm; nil to probe it
	// Unjailed allows VMs without a Spec.Jail, and no others: QEMU runs as this program's user. Jails need root.
	Unjailed bool
	Log      *slog.Logger // nil for none
}

// Driver runs VMs with one QEMU.
type Driver struct {
	binary string
	info   vm.Info
	tscKHz int64      // 0 unless TCG
	view   *jail.View // nil if Unjailed
	log    *slog.Logger
}

// New looks for QEMU, and finds out what is best on this host. It takes about 200 ms.
func New(ctx context.Context, options Options) (*Driver, error) {
	binary, err := find(orDefault(options.Binary))
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	version, err := askVersion(ctx, binary)
	if err != nil {
		return nil, err
	}
	d := &Driver{binary: binary, log: options.Log, info: vm.Info{Driver: Name, Version: version, Accelerator: KVM, OverheadMiB: overheadKVM, Processes: processes, SlowStart: true}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if !usableKVM(ctx, options.KVM) {
		d.info.Accelerator, d.info.OverheadMiB = TCG, overheadTCG
		if d.tscKHz, err = measureTSC(ctx); err != nil {
			return nil, fmt.Errorf("measure the processor's clock: %w", err)
		}
	}
	if !options.Unjailed {
		if d.view, err = d.openView(ctx); err != nil {
			return nil, fmt.Errorf("prepare QEMU's jail: %w", err)
		}
		d.info.Copies = true
	}
	return d, nil
}

// find returns the path of the program itself: QEMU looks for its firmware beside where it lies, not beside a link to it.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func orDefault(binary string) string {
	if binary == "" {
		return defaultBinary
	}
	return binary
}

func usableKVM(ctx context.Context, known *kvm.Verdict) bool {
	if known != nil {
		return known.Usable
	}
	return kvm.Probe(ctx, kvm.Device).Usable
}

// versionLine is the first line of `qemu-system-x86_64 --version`.
var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+\.\d+[^\n]*)`)

func askVersion(ctx context.Context, binary string) (string, error) {
	output, err := ask(ctx, binary, nil, "--version")
	if err != nil {
		return "", err
	}
	match := versionLine.FindSubmatch(output)
	if match == nil {
		return "", fmt.Errorf("%s is no QEMU: it says %q when asked for its version", binary, vm.LastWords(output, 1))
	}
	return vm.Printable(string(match[1])), nil
}

// Info implements vm.Driver.
func (d *Driver) Info() vm.Info { return d.info }

// Configure implements vm.Driver.
func (d *Driver) Configure(ctx context.Context, spec vm.Spec) (vm.Configured, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("configure vm %s: %w", spec.ID, err)
	}
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if err := d.checkJail(spec); err != nil {
		return nil, fmt.Errorf("configure vm %s: %w", spec.ID, err)
	}
	return &configured{driver: d, spec: spec}, nil
}

func (d *Driver) checkJail(spec vm.Spec) error {
	if (spec.Jail == nil) != (d.view == nil) {
		return errJail
	}
	return nil
}

// errJail is the error of Configure and Prepare for a VM with a jail where the driver has none to offer, or without where it must have one.
var errJail = errors.New("it has a jail and the driver was opened without, or the reverse")

// errOtherDriver is the error of Adopt for what another driver saved.
var errOtherDriver = errors.New("it was not started by the qemu driver")
