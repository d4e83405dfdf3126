package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/smaps"
	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// goldenPatience is how long a golden snapshot may take to be made; goldenTries how often it is looked whether it is there.
const goldenPatience, goldenTries = time.Second, 60

// goldenCreates measures creates from a golden snapshot, and what an idle clone takes of the host's memory.
func (b *bench) goldenCreates(ctx context.Context) error {
	if err := b.awaitGolden(ctx); err != nil {
		return err
	}
	var whole, share, own []float64
	for i := range b.rounds + 1 {
		total, platform, guest, err := b.create(ctx)
		if err != nil {
			return fmt.Errorf("create from a golden snapshot, round %d: %w", i, err)
		}
		if i > 0 { // the first warms the caches of the host
			whole, share, own = append(whole, total), append(share, platform), append(own, guest)
		}
	}
	b.add("golden_create_first_exec_ms", "ms", "POST /v1/sandboxes (minimal, 1 vCPU, 256 MiB) until the answer to the first exec of true, from a golden snapshot", whole)
	b.add("golden_platform_share_ms", "ms", "POST /v1/sandboxes as its client sees it, less the steps restore_vm and resume_guest", share)
	b.add("golden_restore_and_resume_ms", "ms", "the steps restore_vm and resume_guest of the same creates", own)
	return b.idleClones(ctx)
}

// awaitGolden creates sandboxes until one is not booted.
func (b *bench) awaitGolden(ctx context.Context) error {
	for range goldenTries {
		sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
		if err != nil {
			return err
		}
		if _, err := b.client.DestroySandbox(ctx, sb.ID); err != nil {
			return err
		}
		if slices.ContainsFunc(sb.Timings, func(t wrenn.Timing) bool { return t.Step == "resume_guest" }) {
			return nil
		}
		if err := pause(ctx, goldenPatience); err != nil {
			return err
		}
	}
	return errors.New("no golden snapshot is made: sandboxes boot")
}

// idleClones is how many sandboxes are looked at, and idleFor when.
const idleClones, idleFor = 5, 5 * time.Second

func (b *bench) idleClones(ctx context.Context) error {
	var ids []string
	for range idleClones {
		sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
		if err != nil {
			return err
		}
		ids = append(ids, sb.ID)
	}
	if err := pause(ctx, idleFor); err != nil {
		return err
	}
	unique, err := privateMiBs(len(ids))
	if err != nil {
		return fmt.Errorf("measure the memory of clones: %w", err)
	}
	for _, id := range ids {
		if _, err := b.client.DestroySandbox(ctx, id); err != nil {
			return err
		}
	}
	b.add("idle_clone_unique_mib", "MiB", "private memory of the VMM of a sandbox from a golden snapshot (256 MiB), 5 s after its create, beside 4 others", unique)
	return nil
}

// privateMiBs is what each of the QEMUs that run the guests of so many sandboxes shares with nobody. They are those that have used their processor most: one that was started
// ahead has not had a guest to wake.
func privateMiBs(sandboxes int) (all []float64, err error) {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	ticks := map[int]int{} // by process id
	for _, path := range commands {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "guest=sb-") {
			continue // it has ended, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		if used, err := processorTicks(filepath.Join(filepath.Dir(path), "stat")); err == nil { // it has not ended
			ticks[pid] = used
		}
	}
	if len(ticks) < sandboxes {
		return nil, fmt.Errorf("%d QEMUs run, for %d sandboxes", len(ticks), sandboxes)
	}
	busiest := slices.SortedFunc(maps.Keys(ticks), func(a, b int) int { return ticks[b] - ticks[a] })
	for _, pid := range busiest[:sandboxes] {
		sums, err := smaps.Sums(pid)
		if err != nil {
			return nil, err
		}
		all = append(all, sums["Private_Clean"]+sums["Private_Dirty"])
	}
	return all, nil
}

// processorTicks is what a process has used: utime and stime of proc_pid_stat(5).
func processorTicks(path string) (sum int, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after) // from state, the third, on
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s holds %q", path, text)
	}
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// bareRestores measures what the VMM alone takes, without agent, control plane or jail.
func (b *bench) bareRestores(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "wrenn-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	from, disk, err := b.freezeBare(ctx, dir)
	if err != nil {
		return fmt.Errorf("freeze a bare VM: %w", err)
	}
	driver, err := qemu.New(ctx, qemu.Options{Unjailed: true})
	if err != nil {
		return err
	}
	var took []float64
	for i := range b.rounds + 1 {
		spec := vm.Spec{ID: "bench", Dir: dir, Rootfs: filepath.Join(dir, fmt.Sprintf("%d.ext4", i)), VCPUs: 1, MemoryMiB: benchMemoryMiB}
		if _, err := clone.File(ctx, disk, spec.Rootfs, true); err != nil {
			return err
		}
		ms, err := restoreBare(ctx, driver, spec, from)
		if err = errors.Join(err, os.Remove(spec.Rootfs)); err != nil {
			return fmt.Errorf("restore a bare VM: %w", err)
		}
		if i > 0 {
			took = append(took, ms)
		}
	}
	b.add("bare_vmm_restore_ms", "ms", "restore of an equal VM with QEMU alone until its envd answers: no agent, no control plane, no jail, no network", took)
	return nil
}

// freezeBare leaves a snapshot and its disk in dir.
func (b *bench) freezeBare(ctx context.Context, dir string) (from vm.Image, disk string, err error) {
	machine, end, err := b.bareVM(ctx, b.copyMinimal)
	if err != nil {
		return vm.Image{}, "", err
	}
	defer end()
	guest := guestOf(machine)
	defer guest.Close()
	if _, err := guest.Health(ctx); err != nil {
		return vm.Image{}, "", err
	}
	if err := guest.Scrub(ctx); err != nil {
		return vm.Image{}, "", err
	}
	from = vm.Image{Files: vm.Files{State: filepath.Join(dir, "state"), Memory: filepath.Join(dir, "frozen")}, Machine: machine.Saved().Machine}
	if err := machine.Snapshot(ctx, from.Files); err != nil {
		return vm.Image{}, "", err
	}
	disk = filepath.Join(dir, "rootfs.ext4")
	return from, disk, os.Rename(filepath.Join(machine.Saved().Dir, "rootfs.ext4"), disk)
}

func restoreBare(ctx context.Context, driver vm.Driver, spec vm.Spec, from vm.Image) (float64, error) {
	begin := time.Now()
	machine, err := vm.Restore(ctx, driver, spec, from)
	if err != nil {
		return 0, err
	}
	guest := guestOf(machine)
	defer guest.Close()
	if err = machine.Resume(ctx); err == nil {
		_, err = guest.Health(ctx)
	}
	took := milliseconds(time.Since(begin))
	_, killErr := machine.Kill()
	return took, errors.Join(err, killErr)
}

func guestOf(machine vm.Running) *envdclient.Client {
	return envdclient.New(func(ctx context.Context) (net.Conn, error) { return machine.Dial(ctx, envdPort) }, "bench")
}
