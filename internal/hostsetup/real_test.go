package hostsetup

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// inNamespaces runs f on a thread of its own, in network and mount namespaces of its own.
func inNamespaces(t *testing.T, f func()) {
	t.Helper()
	testlane.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the namespaces
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			t.Errorf("make namespaces: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("keep mounts to ourselves: %v", err)
			return
		}
		f()
	}()
	<-done
}

// TestRealKernel: knobs and mounts of a real kernel are read, set and set back.
func TestRealKernel(t *testing.T) {
	dir := t.TempDir()
	m := thisMachine(Options{})
	inNamespaces(t, func() {
		if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=1024k"); err != nil {
			t.Errorf("mount: %v", err)
			return
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil { // a new namespace may inherit it
			t.Error(err)
		}
		for _, c := range []struct {
			change change
			holds  string // what the state says once the change is made
		}{
			{change{kind: "knob", target: "/proc/sys/net/ipv4/ip_forward", want: state{Present: true, Text: "1"}}, "1"},
			{change{kind: "mount", target: dir, want: state{Present: true, Text: "size=2048k"}}, "size=2048k"},
		} {
			before, err := c.change.read(t.Context(), m)
			if err != nil || !before.Present || strings.Contains(before.Text, c.holds) {
				t.Errorf("%s is %+v, %v", c.change.name(), before, err)
			}
			if err := c.change.write(t.Context(), m, c.change.want); err != nil {
				t.Errorf("set %s: %v", c.change.name(), err)
			}
			if after, err := c.change.read(t.Context(), m); err != nil || !strings.Contains(after.Text, c.holds) {
				t.Errorf("%s became %+v, %v", c.change.name(), after, err)
			}
			if err := c.change.write(t.Context(), m, before); err != nil {
				t.Errorf("set %s back: %v", c.change.name(), err)
			}
			if after, err := c.change.read(t.Context(), m); err != nil || after != before {
				t.Errorf("%s is %+v after it was set back, not %+v; %v", c.change.name(), after, before, err)
			}
		}
		flags, _, _, err := m.mounted(dir)
		if err != nil || flags&(unix.MS_NOSUID|unix.MS_NOEXEC) != unix.MS_NOSUID|unix.MS_NOEXEC {
			t.Errorf("remounting has lost flags: %#x, %v", flags, err)
		}
	})
}

// TestFavordynmods mounts the kernel's one cgroup2 hierarchy once more, and sets its option for a moment.
func TestFavordynmods(t *testing.T) {
	dir := t.TempDir()
	m := thisMachine(Options{})
	if !m.kernelSince(6, 0) {
		testlane.Missing(t, "the kernel is older than Linux 6.0")
	}
	inNamespaces(t, func() {
		if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
			t.Errorf("mount cgroup2: %v", err)
			return
		}
		c := change{kind: "mount", target: dir}
		before, err := c.read(t.Context(), m)
		if err != nil || strings.Contains(before.Text, favordynmods) {
			t.Errorf("%+v, %v", before, err)
			return
		}
		if err := c.write(t.Context(), m, state{Present: true, Text: strings.TrimPrefix(before.Text+","+favordynmods, ",")}); err != nil {
			t.Error(err)
		}
		if after, err := c.read(t.Context(), m); err != nil || !strings.Contains(after.Text, favordynmods) {
			t.Errorf("it became %+v, %v", after, err)
		}
		if err := c.write(t.Context(), m, before); err != nil {
			t.Error(err)
		}
		if after, err := c.read(t.Context(), m); err != nil || after != before {
			t.Errorf("after it was set back it is %+v, %v", after, err)
		}
	})
}

// TestThisMachine: every item comes to a conclusion here, and nothing is changed by looking.
func TestThisMachine(t *testing.T) {
	testlane.NeedRoot(t)
	s, err := Open(Options{Data: t.TempDir(), Volume: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.check(t) {
		if r.Err != nil {
			t.Errorf("%s: %v", r.Name, r.Err)
		}
	}
}
