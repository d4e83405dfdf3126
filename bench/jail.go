package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestimage"
)

// benchOwner is the user of jailed VMMs: nobody's on the machine.
const benchOwner = 1 << 30

// overheadBytes go through the guest, each way, before its overhead is measured: by then QEMU has translated most of what it will.
const overheadBytes = 64 << 20

// overheads measures what a VMM takes of the host's memory beside its guest's.
func (b *bench) overheads(ctx context.Context) error {
	var pss, private []float64
	for range 3 {
		o, err := b.overhead(ctx)
		if err != nil {
			return fmt.Errorf("measure the overhead of a VM: %w", err)
		}
		pss, private = append(pss, o.PssMiB), append(private, o.PrivateMiB)
	}
	const how = "of QEMU (1 vCPU, 256 MiB) without its guest's memory, after 64 MiB through the channel each way"
	b.add("vmm_overhead_mib_qemu", "MiB", "Pss "+how, pss)
	b.add("vmm_private_mib_qemu", "MiB", "private memory "+how, private)
	return nil
}

func (b *bench) overhead(ctx context.Context) (vmtest.Overhead, error) {
	machine, end, err := b.bareVM(ctx, guestimage.Make)
	if err != nil {
		return vmtest.Overhead{}, err
	}
	defer end()
	for _, move := range []transfer{through(machine, guestapp.DiscardPort, guestapp.Send), through(machine, guestapp.SourcePort, guestapp.Receive)} {
		if err := move(ctx, overheadBytes); err != nil {
			return vmtest.Overhead{}, err
		}
	}
	return vmtest.OverheadOf(machine.Saved().PID, benchMemoryMiB)
}

// starts measures the start of a VMM with and without a jail, by turns.
func (b *bench) starts(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "wrenn-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "rootfs.ext4")
	if err := guestimage.Make(ctx, disk); err != nil {
		return err
	}
	took := map[bool][]float64{}
	drivers := map[bool]vm.Driver{}
	for _, jailed := range []bool{true, false} {
		if drivers[jailed], err = qemu.New(ctx, qemu.Options{Unjailed: !jailed}); err != nil {
			return err
		}
	}
	for range 2 * b.rounds {
		for jailed, driver := range drivers {
			ms, err := b.start(ctx, driver, dir, disk, jailed)
			if err != nil {
				return fmt.Errorf("start a VM: %w", err)
			}
			took[jailed] = append(took[jailed], ms)
		}
	}
	b.add("vmm_start_jailed_ms", "ms", "start of QEMU until its guest executes, in a jail", took[true])
	b.add("vmm_start_unjailed_ms", "ms", "the same without, by turns", took[false])
	return nil
}

// start starts a VM, and ends it at once.
func (b *bench) start(ctx context.Context, driver vm.Driver, dir, disk string, jailed bool) (milli float64, err error) {
	var jail *vm.Jail
	if jailed {
		jail = &vm.Jail{Owner: benchOwner}
	}
	begin := time.Now()
	machine, err := b.boot(ctx, driver, dir, disk, jail)
	if err != nil {
		return 0, err
	}
	milli = milliseconds(time.Since(begin))
	_, err = machine.Kill()
	return milli, err
}
