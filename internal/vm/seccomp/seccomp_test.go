package seccomp

import (
	"errors"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// TestRefuses asks for filters that the kernel took from this test.
func TestRefuses(t *testing.T) {
	testlane.NeedRoot(t)
	const allow, refuse = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for name, c := range map[string]struct {
		filters []uint32 // what each makes of unlinkat(2)
		want    bool
	}{
		"no filter": {}, "a filter for show": {[]uint32{allow}, false}, "one that refuses": {[]uint32{refuse}, true},
		"one of two": {[]uint32{refuse, allow}, true}, "one that kills": {[]uint32{unix.SECCOMP_RET_KILL_PROCESS}, true},
	} {
		pid := sleeper(t, c.filters)
		if _, err := Refuses(pid, unix.SYS_UNLINKAT); errors.Is(err, ErrUnknown) {
			testlane.Missing(t, err.Error())
		}
		if got, err := Refuses(pid, unix.SYS_UNLINKAT); err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
		if got, err := Refuses(pid, unix.SYS_LINKAT); err != nil || got {
			t.Errorf("%s: another call: %v, %v", name, got, err)
		}
	}
	if _, err := Refuses(1<<30, unix.SYS_UNLINKAT); err == nil {
		t.Error("there is no such thread, and no error")
	}
}

// sleeper starts a program with filters on a thread that ends afterwards.
func sleeper(t *testing.T, actions []uint32) int {
	t.Helper()
	cmd, err := exec.Command("/bin/sleep", "600"), error(nil)
	started := make(chan struct{})
	go func() {
		defer close(started)
		runtime.LockOSThread() // and never unlocked
		for _, action := range actions {
			if err = install(action); err != nil {
				return
			}
		}
		err = cmd.Start()
	}()
	if <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd.Process.Pid
}

// install puts a filter on this thread that does action with unlinkat(2), and lets all else pass.
func install(action uint32) error {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 4}, {Code: equal, K: unix.AUDIT_ARCH_X86_64, Jf: 2}, {Code: load, K: 0}, {Code: equal, K: unix.SYS_UNLINKAT, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW}, {Code: ret, K: action},
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0)
}
