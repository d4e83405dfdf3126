package vmtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// bootJailed boots a VM with a jail, or skips the case.
func (w *world) bootJailed() (vm.Running, vm.Spec) {
	w.Helper()
	if !w.subject.Jailed {
		w.Skip("the driver under test runs VMs without a jail")
	}
	spec := w.spec()
	return w.boot(spec), spec
}

// jailPrivileges holds that every thread of a VMM is its user's, without capabilities and without a way to any.
func jailPrivileges(w *world) {
	running, spec := w.bootJailed()
	pid := running.Saved().PID
	owner := fmt.Sprint(spec.Jail.Owner)
	const none = "0000000000000000"
	want := map[string]string{
		"Uid": strings.Join([]string{owner, owner, owner, owner}, " "), "Gid": strings.Join([]string{owner, owner, owner, owner}, " "),
		"Groups": "", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
	}
	if w.subject.Simulated {
		delete(want, "Seccomp")
	}
	threads := names(fmt.Sprintf("/proc/%d/task", pid))
	for _, thread := range threads {
		got := w.status(fmt.Sprintf("/proc/%d/task/%s", pid, thread))
		for key, value := range want {
			if got[key] != value {
				w.Errorf("thread %s of %d: %s is %q, want %q", thread, len(threads), key, got[key], value)
			}
		}
	}
	if pids := strings.Fields(w.status(fmt.Sprintf("/proc/%d", pid))["NSpid"]); len(pids) < 2 || pids[len(pids)-1] != "1" {
		w.Errorf("its pids are %v: it is not the first process of a namespace", pids)
	}
	for _, kind := range []string{"pid", "ipc", "mnt", "uts"} {
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		w.must(err)
		if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil || its == ours {
			w.Errorf("it shares the namespace %s with the agent (%v)", its, err)
		}
	}
	w.checkLimits(pid)
	if !w.subject.Simulated {
		w.checkFilters(threads)
	}
}

// checkLimits holds that a VMM dumps no core, which would hold its guest's memory, and opens few files. Some containers' root may not limit others.
func (w *world) checkLimits(pid int) {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	w.must(err)
	limits := strings.Join(strings.Fields(string(text)), " ")
	for _, want := range []string{"Max core file size 0 0", fmt.Sprintf("Max open files %d %d", jail.MaxFiles, jail.MaxFiles)} {
		if may(unix.CAP_SYS_RESOURCE) && !strings.Contains(limits, want) {
			w.Errorf("its limits lack %q:\n%s", want, text)
		}
	}
}

// checkFilters holds that no thread of a VMM may execute programs. Seccomp: 2 in its status says no more than that it has a filter.
func (w *world) checkFilters(threads []string) {
	w.Helper()
	for _, thread := range threads {
		id, err := strconv.Atoi(thread)
		w.must(err)
		refused, err := seccomp.Refuses(id, unix.SYS_EXECVE)
		if errors.Is(err, seccomp.ErrUnknown) {
			testlane.Missing(w, err.Error())
		}
		w.must(err)
		if want := !w.subject.Unfiltered; refused != want {
			w.Errorf("that thread %s may not execute programs is %t, want %t", thread, refused, want)
		}
	}
}

// status reads /proc/pid/status or that of a thread, with blanks in values made single.
func (w *world) status(dir string) map[string]string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	w.must(err)
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			all[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return all
}

// may reports whether this process has a capability.
func may(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// jailView holds that a VMM sees nothing of the host but what it needs, and can write to nothing but what is its VM's.
func jailView(w *world) {
	running, spec := w.bootJailed()
	w.checkView(running, spec, spec.Kernel)
}

// checkView: shared are files of which there is one for many VMs.
func (w *world) checkView(running vm.Running, spec vm.Spec, shared ...string) {
	w.Helper()
	root := fmt.Sprintf("/proc/%d/root", running.Saved().PID)
	hidden := "/proc/self"
	if w.subject.Driver.Info().Copies { // a VMM finds there what is shared with it
		hidden = "/proc/sys"
		w.checkOwnProc(running.Saved().PID)
	}
	for _, path := range []string{hidden, "/sys/kernel", "/etc/passwd", "/bin/sh", "/usr/bin/env", "/dev/mem", "/dev/vda", "/var", "/root", spec.Dir} {
		if _, err := os.Lstat(root + path); !errors.Is(err, fs.ErrNotExist) {
			w.Errorf("it sees %s (%v)", path, err)
		}
	}
	for _, path := range filesBelow(root + "/") {
		if !strings.HasPrefix(path, root+"/proc/") && !w.mayHave(path, spec, shared) {
			w.Errorf("it can write to %s", strings.TrimPrefix(path, root))
		}
	}
}

// checkOwnProc holds that the proc(5) of a VMM shows processes alone, and of those only the ones that it may trace. Which these are: package jail.
func (w *world) checkOwnProc(pid int) {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	w.must(err)
	own := regexp.MustCompile(`(?m)^\S+ \S+ \S+ / /proc ro,nosuid,nodev,noexec\S* .*- proc \S+ \S*hidepid=ptraceable,subset=pid$`)
	if n := strings.Count(string(text), " /proc "); n != 1 || !own.Match(text) {
		w.Errorf("it sees more than itself in /proc:\n%s", text)
	}
}

// mayHave reports whether a file that a VMM sees is its user's alone, or cannot be written there: because of its mount, or because it is
// closed to others than its owner, which is not enough for what is shared. A device leads to no file.
func (w *world) mayHave(path string, spec vm.Spec, shared []string) bool {
	var stat unix.Stat_t
	var mount unix.Statfs_t
	w.must(errors.Join(unix.Lstat(path, &stat), unix.Statfs(path, &mount)))
	if stat.Mode&unix.S_IFMT == unix.S_IFCHR || mount.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	for _, name := range shared {
		var one unix.Stat_t
		w.must(unix.Stat(name, &one))
		if stat.Dev == one.Dev && stat.Ino == one.Ino {
			return false
		}
	}
	return stat.Uid == spec.Jail.Owner && stat.Nlink <= 2 || stat.Uid != spec.Jail.Owner && stat.Mode&0o022 == 0
}

// jailNeighbours holds that one VM's user reaches nothing of another VM, even where the folders that lead there are open.
func jailNeighbours(w *world) {
	first, spec := w.bootJailed()
	second, other := w.bootJailed()
	w.must(errors.Join(os.Chmod(w.root, 0o711), os.Chmod(other.Dir, 0o755)))
	targets := append(filesBelow(other.Dir), fmt.Sprintf("/proc/%d/mem", second.Saved().PID))
	err := jail.OnOwnThread(func() error {
		if err := become(spec.Jail.Owner); err != nil {
			return err
		}
		if f, err := os.Open(spec.Rootfs); err == nil { // its own folder is closed to it: it has it in its jail
			f.Close()
			w.Error("the agent's folder of a VM is open to its VMM")
		}
		for _, path := range targets {
			if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
				f.Close()
				w.Errorf("it can read %s of another VM", path)
			}
			if conn, err := net.Dial("unix", path); err == nil {
				conn.Close()
				w.Errorf("it can connect to %s of another VM", path)
			}
		}
		if err := unix.Kill(second.Saved().PID, 0); !errors.Is(err, unix.EPERM) {
			w.Errorf("it may send signals to another VM (%v)", err)
		}
		return nil
	})
	w.must(err)
	w.checkHealth(first)
	w.checkHealth(second)
}

// filesBelow lists what is below dir, but for folders.
func filesBelow(dir string) []string {
	var files []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	return files
}

// become makes this thread alone another user's: the raw calls, unlike those of package syscall, leave the other threads as they are.
func become(owner uint32) error {
	id := uintptr(owner)
	for _, call := range []func() unix.Errno{
		func() unix.Errno { _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); return e },
		func() unix.Errno { _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); return e },
		func() unix.Errno { _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); return e },
	} {
		if e := call(); e != 0 {
			return e
		}
	}
	return nil
}

// jailFoundUnrecorded holds that a VMM whose agent died before it was recorded is found, in its jail, and ended.
func jailFoundUnrecorded(w *world) {
	running, spec := w.bootJailed()
	found, err := vmm.Find(w.mark(spec.Dir))
	w.must(err)
	if !slices.Equal(found, []int{running.Saved().PID}) {
		w.Errorf("found %v, want %d", found, running.Saved().PID)
	}
	w.must(vmm.KillStale(w.ctx(), w.mark(spec.Dir)))
	if exit := w.waitDone(running); exit.Signal != int(unix.SIGKILL) {
		w.Errorf("exit %+v", exit)
	}
}
