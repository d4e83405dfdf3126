package firecracker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// limited starts a VM in a cgroup of its own, below one of the test's. It needs a host with cgroup v2, as the emulated one is.
func limited(t *testing.T, limits cgroup.Limits) (vm.Running, cgroup.Group) {
	t.Helper()
	binary := realFirecracker(t)
	needKVM(t)
	tree, err := cgroup.Open("wrenn-test.slice/sandboxes")
	if errors.Is(err, cgroup.ErrUnavailable) {
		missing(t, err.Error())
	}
	must(t, err)
	spec := vmtest.GuestSpec(t, realKernel(t))
	limits.Disk = spec.Dir
	group, err := tree.Make(spec.ID, limits)
	must(t, err)
	t.Cleanup(func() { must(t, group.Remove(t.Context())) })
	spec.Jail.Cgroup = group.Dir
	return start(t, newDriver(t, binary), spec), group
}

// TestLimitsFirecracker holds that a guest that burns what it has stays inside its VM's share of the host.
func TestLimitsFirecracker(t *testing.T) {
	const share = 0.5 // of a processor
	v, group := limited(t, cgroup.Limits{CPUs: share, MemoryMiB: 128 + 24, PIDs: 9})
	echo(t, v)
	vmtest.Call(t, v, "/burn", nil)
	before, begin := stat(t, group, "cpu.stat", "usage_usec"), time.Now()
	<-time.After(5 * time.Second)
	used := time.Duration(stat(t, group, "cpu.stat", "usage_usec")-before) * time.Microsecond
	if limit := time.Duration(1.1 * share * float64(time.Since(begin))); used > limit || stat(t, group, "cpu.stat", "nr_throttled") == 0 {
		t.Errorf("it used %s of %s, more than its share of %s, or was never held back", used, time.Since(begin), limit)
	}
	if n := number(t, group, "pids.current"); n < 4 || n > 9 {
		t.Errorf("%d threads", n)
	}
	if n := number(t, group, "memory.current"); n > (128+24)<<20 {
		t.Errorf("%d bytes of memory", n)
	}
	if pids := strings.Fields(read(t, group, "cgroup.procs")); len(pids) != 1 || pids[0] != strconv.Itoa(v.Saved().PID) {
		t.Errorf("in the group are %v, want %d", pids, v.Saved().PID)
	}
	measureOverhead(t, v)
	must(t, v.Release())
	v = adopt(t, newDriver(t, realFirecracker(t)), v.Saved())
	exit, err := v.Kill()
	if err != nil || exit.OOM || !exit.Asked {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestOOMFirecracker holds that a VMM that the host ends for want of memory is told from a guest that has none.
func TestOOMFirecracker(t *testing.T) {
	v, _ := limited(t, cgroup.Limits{CPUs: 1.5, MemoryMiB: 80, PIDs: 9}) // the guest believes that it has 128
	echo(t, v)
	go func() { // its answer never comes
		if conn, err := v.Dial(t.Context(), guestapp.HTTPPort); err == nil {
			defer conn.Close()
			_, _ = io.WriteString(conn, "POST /hoard?mib=90 HTTP/1.1\r\nHost: guest\r\nContent-Length: 0\r\n\r\n")
			<-v.Done()
		}
	}()
	<-v.Done()
	if exit := v.Exit(); !exit.OOM || !strings.Contains(exit.Reason, "the host's memory limit of the VM, 80 MiB") {
		t.Errorf("exit %+v", exit)
	}
}

// TestDiskLimitFirecracker holds that a guest that writes as much as it can writes to the host's disk what it may.
func TestDiskLimitFirecracker(t *testing.T) {
	if dir := os.Getenv("WRENN_TEST_DISK"); dir != "" {
		t.Setenv("TMPDIR", dir) // folders in memory have no disk
	} else {
		missing(t, "WRENN_TEST_DISK names no folder on a disk")
	}
	const mibs = 2
	v, group := limited(t, cgroup.Limits{CPUs: 1.5, MemoryMiB: 128 + 24, PIDs: 9, DiskMiBs: mibs})
	echo(t, v)
	begin := time.Now()
	for i := range 6 {
		vmtest.Call(t, v, fmt.Sprintf("/write?sync&path=/fill%d", i), bytes.NewReader(make([]byte, 1<<20)))
	}
	must(t, syncFile(filepath.Join(v.Saved().Dir, "rootfs.ext4")))
	written := stat(t, group, "io.stat", "wbytes")
	if limit := mibs << 20 * (time.Since(begin).Seconds() + 2); float64(written) > limit || written < 1<<20 {
		t.Errorf("%d bytes were written in %s, want 1 MiB to %.0f", written, time.Since(begin), limit)
	}
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// measureOverhead prints what the VMM takes beside its guest's memory, and holds that it is no more than the driver says.
func measureOverhead(t *testing.T, v vm.Running) {
	t.Helper()
	o, err := vmtest.OverheadOf(v.Saved().PID, 128)
	must(t, err)
	t.Logf("beside its guest's memory Firecracker takes %.1f MiB (Pss), %.1f of them its own", o.PssMiB, o.PrivateMiB)
	if o.PssMiB > 24 {
		t.Error("that is more than the driver says")
	}
}

func read(t *testing.T, g cgroup.Group, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.Dir, file))
	must(t, err)
	return string(bytes.TrimSpace(text))
}

func number(t *testing.T, g cgroup.Group, file string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(read(t, g, file), 10, 64)
	must(t, err)
	return n
}

// stat returns a value of a file of lines "key value", or of io.stat's "device key=value…", summed up.
func stat(t *testing.T, g cgroup.Group, file, key string) int64 {
	t.Helper()
	fields := strings.Fields(strings.ReplaceAll(read(t, g, file), "=", " "))
	var sum int64
	for i := range len(fields) - 1 {
		if fields[i] == key {
			n, err := strconv.ParseInt(fields[i+1], 10, 64)
			must(t, err)
			sum += n
		}
	}
	return sum
}
