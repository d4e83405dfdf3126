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
	"regexp"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
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

// Options are a driver's settings. The zero value finds everything out.
type Options struct {
	Binary string       // path or name; "" for qemu-system-x86_64 on the PATH
	KVM    *kvm.Verdict // what is known of /dev/kvm; nil to probe it
	Log    *slog.Logger // nil for none
}

// Driver runs VMs with one QEMU.
type Driver struct {
	binary string
	info   vm.Info
	tscKHz int64 // 0 unless TCG
	log    *slog.Logger
}

// New looks for QEMU, and finds out what is best on this host. It takes about 200 ms.
func New(ctx context.Context, options Options) (*Driver, error) {
	binary, err := exec.LookPath(orDefault(options.Binary))
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	version, err := askVersion(ctx, binary)
	if err != nil {
		return nil, err
	}
	d := &Driver{binary: binary, log: options.Log, info: vm.Info{Driver: Name, Version: version, Accelerator: KVM}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if !usableKVM(ctx, options.KVM) {
		d.info.Accelerator = TCG
		if d.tscKHz, err = measureTSC(ctx); err != nil {
			return nil, fmt.Errorf("measure the processor's clock: %w", err)
		}
	}
	return d, nil
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
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, binary, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: %s", binary, err, vm.LastWords(output, 2))
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
	return &configured{driver: d, spec: spec}, nil
}

// errOtherDriver is the error of Adopt for what another driver saved.
var errOtherDriver = errors.New("it was not started by the qemu driver")
