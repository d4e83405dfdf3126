package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
)

// bareVM boots a VM of the size that is measured, without agent or control plane, from the disk that makeDisk
// makes. end removes all of it.
func (b *bench) bareVM(ctx context.Context, makeDisk func(ctx context.Context, path string) error) (machine vm.Running, end func(), err error) {
	dir, err := os.MkdirTemp("", "wrenn-bench")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) } // a folder in the temporary folder
	disk := filepath.Join(dir, "rootfs.ext4")
	if err = makeDisk(ctx, disk); err == nil {
		machine, err = b.bootJailed(ctx, dir, disk)
	}
	if err != nil {
		remove()
		return nil, nil, fmt.Errorf("boot a bare VM: %w", err)
	}
	return machine, func() {
		if _, err := machine.Kill(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the bare VM could not be killed:", err)
		}
		remove()
	}, nil
}

// copyMinimal makes a disk of the template that is measured.
func (b *bench) copyMinimal(ctx context.Context, disk string) error {
	image := filepath.Join(b.guest, "images", "minimal", "rootfs.ext4")
	if out, err := exec.CommandContext(ctx, "cp", "-L", "--sparse=auto", "--reflink=auto", image, disk).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the image: %w: %s", err, out)
	}
	return nil
}

// bootJailed boots a VM that is confined as those of the agent are, so that the two can be compared.
func (b *bench) bootJailed(ctx context.Context, dir, disk string) (vm.Running, error) {
	driver, err := qemu.New(ctx, qemu.Options{})
	if err != nil {
		return nil, err
	}
	return b.boot(ctx, driver, dir, disk, &vm.Jail{Owner: benchOwner})
}

// benchMemoryMiB is what the guests of bare VMs have.
const benchMemoryMiB = 256

func (b *bench) boot(ctx context.Context, driver vm.Driver, dir, disk string, jail *vm.Jail) (vm.Running, error) {
	kernel, err := filepath.Abs(filepath.Join(b.guest, "vmlinux"))
	if err != nil {
		return nil, err
	}
	configured, err := driver.Configure(ctx, vm.Spec{
		ID: "bench", Dir: dir, Kernel: kernel, Rootfs: disk, VCPUs: 1, MemoryMiB: benchMemoryMiB, Jail: jail,
	})
	if err != nil {
		return nil, err
	}
	return configured.Start(ctx)
}
