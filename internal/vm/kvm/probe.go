// Package kvm finds out whether /dev/kvm is worth using.
//
// That the device opens proves little: where virtual machines are emulated by the host's own hypervisor, kernel code of
// a guest may run a thousand times slower than the processor does, and a kernel never finishes booting. Probe
// therefore runs a counted loop in ring 0 and measures its speed.
package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Device is the device file that a Firecracker or QEMU process opens.
const Device = "/dev/kvm"

// MinMIPS is the least speed, in millions of instructions a second, that counts as usable. Hardware runs the loop at
// 1000 and more even on old machines, QEMU without KVM at 200 to 400: what is slower than that is of no use.
const MinMIPS = 100

// timeLimit bounds the whole probe. A usable KVM needs about 20 ms of it.
const timeLimit = 150 * time.Millisecond

// Verdict is what Probe found out.
type Verdict struct {
	Usable bool
	Reason string  // why not, or how fast; for people
	MIPS   float64 // millions of ring-0 instructions a second; 0 if not measured
}

// Probe tries device, which is Device except in tests. It answers within about 200 ms, whatever the kernel does, or
// as soon as ctx ends.
func Probe(ctx context.Context, device string) Verdict {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	machine, err := newMachine(device)
	if err != nil {
		return Verdict{Reason: refusal(device, err)}
	}
	mips, err := machine.measure(ctx)
	switch {
	case err != nil:
		return Verdict{Reason: fmt.Sprintf("%s does not run a guest: %v", device, err)}
	case mips < MinMIPS:
		return Verdict{MIPS: mips, Reason: fmt.Sprintf(
			"%s runs a guest's kernel at %.1f million instructions a second, less than emulation would", device, mips)}
	}
	return Verdict{Usable: true, MIPS: mips, Reason: fmt.Sprintf("%.0f million instructions a second", mips)}
}

func refusal(device string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return device + " does not exist"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s may not be opened by user %d", device, os.Getuid())
	case errors.Is(err, unix.ENOTTY):
		return device + " is no KVM device"
	}
	return fmt.Sprintf("%s is not usable: %v", device, err)
}
