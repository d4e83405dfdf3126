package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// envdPort is where envd listens in the guest.
const envdPort = 49983

// execsAgainstEnvd runs `true` by turns through the REST API and directly on the envd of a second, equal
// VM, so that both see the same machine. The difference of the pairs is what the platform adds.
func (b *bench) execsAgainstEnvd(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: 256})
	if err != nil {
		return err
	}
	alone, end, err := b.bareVM(ctx)
	if err != nil {
		return err
	}
	defer end()
	var rest, direct, added []float64
	for i := range b.execs + 10 {
		through, err := b.execThrough(ctx, sb.ID)
		if err != nil {
			return err
		}
		bare, err := execOn(ctx, alone)
		if err != nil {
			return err
		}
		if i >= 10 { // the first ones warm the guests
			rest, direct, added = append(rest, through), append(direct, bare), append(added, through-bare)
		}
	}
	b.add("exec_true_rest_ms", "ms", "POST …/exec of true in a warm VM", rest)
	b.add("exec_true_envd_ms", "ms", "the same on the envd of an equal VM, without the platform", direct)
	b.add("exec_true_platform_ms", "ms", "difference of the two, pair by pair", added)
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

func (b *bench) execThrough(ctx context.Context, id string) (float64, error) {
	begin := time.Now()
	_, err := b.client.Exec(ctx, id, wrenn.ExecRequest{Cmd: "true"})
	return milliseconds(time.Since(begin)), err
}

func execOn(ctx context.Context, guest *envdclient.Client) (float64, error) {
	begin := time.Now()
	run, err := guest.Exec(ctx, envdclient.Command{Cmd: "true"})
	if err != nil {
		return 0, err
	}
	defer run.Close()
	for {
		if _, err := run.Next(); errors.Is(err, io.EOF) {
			return milliseconds(time.Since(begin)), nil
		} else if err != nil {
			return 0, err
		}
	}
}

// bareVM boots a VM of the same kind without agent or control plane. end removes all of it.
func (b *bench) bareVM(ctx context.Context) (guest *envdclient.Client, end func(), err error) {
	dir, err := os.MkdirTemp("", "wrenn-bench")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) } // a folder in the temporary folder
	machine, err := b.boot(ctx, dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	guest = envdclient.New(func(ctx context.Context) (net.Conn, error) { return machine.Dial(ctx, envdPort) }, "bench")
	end = func() {
		guest.Close()
		if _, err := machine.Kill(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the bare VM could not be killed:", err)
		}
		remove()
	}
	if _, err = guest.Health(ctx); err == nil {
		err = guest.Init(ctx, envdclient.Init{Now: time.Now(), DefaultUser: "user"})
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("boot a bare VM: %w", err)
	}
	return guest, end, nil
}

func (b *bench) boot(ctx context.Context, dir string) (vm.Running, error) {
	disk := filepath.Join(dir, "rootfs.ext4")
	image := filepath.Join(b.guest, "images", "minimal", "rootfs.ext4")
	if out, err := exec.CommandContext(ctx, "cp", "-L", "--sparse=auto", "--reflink=auto", image, disk).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the image: %w: %s", err, out)
	}
	kernel, err := filepath.Abs(filepath.Join(b.guest, "vmlinux"))
	if err != nil {
		return nil, err
	}
	driver, err := qemu.New(ctx, qemu.Options{})
	if err != nil {
		return nil, err
	}
	configured, err := driver.Configure(ctx, vm.Spec{ID: "bench", Dir: dir, Kernel: kernel, Rootfs: disk, VCPUs: 1, MemoryMiB: 256})
	if err != nil {
		return nil, err
	}
	return configured.Start(ctx)
}
