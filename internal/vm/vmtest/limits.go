package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// guestMiB is the memory of a small VM.
const guestMiB = 128

// limited is a VM in a cgroup of its own, below one of the test's, on a host with cgroup v2.
type limited struct {
	*world
	vm.Running
	group cgroup.Group
	spec  vm.Spec
}

// newLimited boots a VM whose group has limits. What they leave out is as the agent would have it.
func newLimited(t *testing.T, s Subject, limits cgroup.Limits) *limited {
	t.Helper()
	w := newWorld(t, s, buildGuest(t))
	tree, err := cgroup.Open("wrenn-test.slice/sandboxes")
	w.must(err)
	spec, info := w.spec(), s.Driver.Info()
	if limits.CPUs == 0 {
		limits.CPUs = 1.5
	}
	if limits.MemoryMiB == 0 {
		limits.MemoryMiB = int64(guestMiB + info.OverheadMiB)
	}
	limits.PIDs = 1 + info.Processes
	disk := limits.DiskMiBs
	limits.DiskMiBs = 0
	group, err := tree.Make(spec.ID, limits)
	w.must(err)
	t.Cleanup(func() { w.must(group.Remove(context.Background())) })
	v := &limited{world: w, group: group, spec: spec}
	if disk > 0 {
		v.ownDisk()
		limits.DiskMiBs, limits.Disk = disk, spec.Dir
		_, err = tree.Make(spec.ID, limits)
		w.must(err)
	}
	spec.Jail.Cgroup = group.Dir
	v.Running = w.boot(spec)
	return v
}

// ownDisk makes the disk anew in the VM's group. The kernel counts what is written back to whoever first had the page, or the file, in its cache, and
// only in the course of time to who writes to it now: Documentation/admin-guide/cgroup-v2.rst of Linux, "Writeback".
func (v *limited) ownDisk() {
	v.Helper()
	v.must(os.Remove(v.spec.Rootfs))
	v.inGroup(fmt.Sprintf("cp '%s' '%s' && sync", v.image, v.spec.Rootfs), v.must)
}

// inGroup runs a script in the VM's group.
func (v *limited) inGroup(script string, check func(error)) {
	v.Helper()
	group, err := os.Open(v.group.Dir)
	v.must(err)
	defer group.Close()
	cmd := exec.CommandContext(v.ctx(), "/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	check(cmd.Run())
}

// Limits holds that a guest that burns what it has stays inside its VM's share of the host, and so does what its VMM might start.
func Limits(t *testing.T, s Subject) {
	const share = 0.5 // of a processor
	v := newLimited(t, s, cgroup.Limits{CPUs: share})
	if pids := v.programs(); !slices.Equal(pids, []string{strconv.Itoa(v.Saved().PID)}) {
		t.Errorf("in the group are %v, want %d", pids, v.Saved().PID)
	}
	Call(t, v, "/burn", nil)
	before, begin := v.stat("cpu.stat", "usage_usec"), time.Now()
	<-time.After(5 * time.Second)
	used := time.Duration(v.stat("cpu.stat", "usage_usec")-before) * time.Microsecond
	t.Logf("it used %s of %s", used, time.Since(begin))
	if limit := time.Duration(1.1 * share * float64(time.Since(begin))); used > limit || v.stat("cpu.stat", "nr_throttled") == 0 {
		t.Errorf("that is more than its share of %s, or it was never held back", limit)
	}
	v.checkMemory()
	v.checkForks()
	exit, err := v.Kill()
	if err != nil || exit.OOM || !exit.Asked {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// checkMemory holds that the VM takes no more than its limit, and its VMM no more than its driver says.
func (v *limited) checkMemory() {
	v.Helper()
	overhead := v.subject.Driver.Info().OverheadMiB
	if n := v.number("memory.current"); n > int64(guestMiB+overhead)<<20 {
		v.Errorf("%d bytes of memory", n)
	}
	o, err := OverheadOf(v.Saved().PID, guestMiB)
	v.must(err)
	v.Logf("beside its guest's memory it takes %.1f MiB (Pss), %.1f of them its own", o.PssMiB, o.PrivateMiB)
	if o.PssMiB > float64(overhead) {
		v.Errorf("that is more than the %d that the driver says", overhead)
	}
}

// checkForks lets a program in the VM's group, as a VMM that was taken over could be, start as many others as it can.
func (v *limited) checkForks() {
	v.Helper()
	most := int64(1 + v.subject.Driver.Info().Processes)
	v.inGroup(fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 600 & i=$((i+1)); done", 2*most), func(error) {}) // it fails where it may start no more
	if n, refused := v.number("pids.current"), v.stat("pids.events", "max"); n > most || refused == 0 {
		v.Errorf("%d processes of %d; refused %d times", n, most, refused)
	}
	for _, pid := range v.programs() {
		if pid != strconv.Itoa(v.Saved().PID) {
			id, err := strconv.Atoi(pid)
			v.must(err)
			if err := unix.Kill(id, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				v.Error(err)
			}
		}
	}
}

// OOM holds that a VMM that the host ends for want of memory is told from a guest that has none.
func OOM(t *testing.T, s Subject) {
	limit := int64(56 + s.Driver.Info().OverheadMiB) // the guest believes that it has 128
	v := newLimited(t, s, cgroup.Limits{MemoryMiB: limit})
	go func() { // its answer never comes
		if conn, err := v.Dial(t.Context(), guestapp.HTTPPort); err == nil {
			defer conn.Close()
			_, _ = io.WriteString(conn, "POST /hoard?mib=90 HTTP/1.1\r\nHost: guest\r\nContent-Length: 0\r\n\r\n")
			<-v.Done()
		}
	}()
	exit := v.waitDone(v)
	if want := fmt.Sprintf("the host's memory limit of the VM, %d MiB", limit); !exit.OOM || !strings.Contains(exit.Reason, want) {
		t.Errorf("exit %+v", exit)
	}
}

// diskEnv names a folder on a disk, where temporary files may lie in memory. scripts/test-firecracker.sh sets it.
const diskEnv = "WRENN_TEST_DISK"

// DiskLimit holds that a guest that writes as much as it can writes to the host's disk what it may.
func DiskLimit(t *testing.T, s Subject) {
	dir := os.Getenv(diskEnv)
	if dir == "" {
		testlane.Missing(t, diskEnv+" names no folder on a disk")
	}
	t.Setenv("TMPDIR", dir)
	const mibs = 1
	v := newLimited(t, s, cgroup.Limits{DiskMiBs: mibs})
	before, begin := v.stat("io.stat", "wbytes"), time.Now()
	for i := range 6 {
		Call(t, v, fmt.Sprintf("/write?sync&path=/fill%d", i), bytes.NewReader(make([]byte, 1<<20)))
	}
	v.must(syncFile(v.spec.Rootfs))
	written, took := v.stat("io.stat", "wbytes")-before, time.Since(begin).Seconds()
	t.Logf("%d bytes were written in %.1f s", written, took)
	// The kernel metes out in slices, and lets what was idle begin at once.
	if limit := mibs << 20 * (1.25*took + 1); float64(written) > limit || written < 1<<20 {
		t.Errorf("want 1 MiB to %.0f", limit)
	}
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// programs lists the processes in the group but for the threads that KVM starts in the kernel, and counts to the group, for a VM that it makes.
func (v *limited) programs() []string {
	v.Helper()
	return slices.DeleteFunc(strings.Fields(v.read("cgroup.procs")), func(pid string) bool {
		name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if errors.Is(err, fs.ErrNotExist) { // it has ended
			return true
		}
		v.must(err)
		_, err = os.Readlink(filepath.Join("/proc", pid, "exe"))
		return errors.Is(err, fs.ErrNotExist) && bytes.HasPrefix(name, []byte("kvm-"))
	})
}

func (v *limited) read(file string) string {
	v.Helper()
	text, err := os.ReadFile(filepath.Join(v.group.Dir, file))
	v.must(err)
	return string(bytes.TrimSpace(text))
}

func (v *limited) number(file string) int64 {
	v.Helper()
	n, err := strconv.ParseInt(v.read(file), 10, 64)
	v.must(err)
	return n
}

// stat returns a value of a file of lines "key value", or of io.stat's "device key=value…", summed up.
func (v *limited) stat(file, key string) int64 {
	v.Helper()
	fields := strings.Fields(strings.ReplaceAll(v.read(file), "=", " "))
	var sum int64
	for i := range len(fields) - 1 {
		if fields[i] == key {
			n, err := strconv.ParseInt(fields[i+1], 10, 64)
			v.must(err)
			sum += n
		}
	}
	return sum
}
