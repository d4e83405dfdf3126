package hostsetup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// fakeMachine is a freshly installed host in a folder: what is not a file there answers as the kernel would. Accounts are made by
// the real programs.
func fakeMachine(t *testing.T) *machine {
	t.Helper()
	testlane.NeedRoot(t)
	m := thisMachine(Options{Data: "/var/lib/wrenn", Volume: true})
	m.root = folderInMemory(t)
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "/etc/group": "root:x:0:\n", "/etc/shadow": "root:*:19000:0:99999:7:::\n",
		"/etc/gshadow": "root:*::\n", "/etc/login.defs": "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n",
		"/etc/subuid": "ada:100000:65536\n", "/etc/subgid": "ada:100000:65536\n",
		"/etc/sysctl.d/README.sysctl": "", "/etc/tmpfiles.d/README": "", "/var/lib/dpkg/status": "", "/lib/modules/README": "",
		"/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu svm\n", "/proc/meminfo": "MemTotal:       16777216 kB\n",
		"/proc/filesystems": "nodev\tproc\n\text4\n", "/proc/sys/kernel/osrelease": "6.8.0-45-generic\n", "/proc/swaps": "Filename\tType\n",
		"/proc/thread-self/mountinfo":   "30 1 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
		"/proc/sys/net/ipv4/ip_forward": "0\n", "/proc/sys/kernel/pid_max": "32768\n",
		"/proc/sys/net/ipv4/neigh/default/gc_thresh1": "128\n", "/proc/sys/net/ipv4/neigh/default/gc_thresh2": "512\n",
		"/sys/fs/cgroup/cgroup.controllers":           "cpuset cpu io memory hugetlb pids\n",
		"/sys/kernel/mm/transparent_hugepage/enabled": "always", "/sys/kernel/mm/ksm/run": "1\n",
		"/sys/module/kvm/parameters/nx_huge_pages": "N\n", "/sys/module/kvm/parameters/halt_poll_ns": "200000\n",
		"/sys/devices/system/cpu/vulnerabilities/itlb_multihit": "Not affected\n",
	} {
		put(t, m, name, text)
	}
	if err := os.MkdirAll(m.path("/dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(m.path("/dev/kvm"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil { // /dev/null
		t.Fatal(err)
	}
	m.nftables = func() error { return os.ErrNotExist }
	m.filter = func(context.Context, string) error { return nil }
	m.reflinks = func(string) (bool, error) { return false, nil }
	m.run = m.fakeRun
	m.remount = func(target string, flags uintptr, options string) error {
		if flags != unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME {
			return errors.New("the flags of the mount are lost")
		}
		row := "30 1 0:26 / " + target + " rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw," + options + "\n"
		return os.WriteFile(m.path("/proc/thread-self/mountinfo"), []byte(row), 0o644)
	}
	m.volume = func(_ context.Context, dir string, _ int) error { return os.WriteFile(dir+"/volume.xfs", nil, 0o600) }
	m.unvolume = func(_ context.Context, dir string) (bool, error) {
		held := slices.Contains(names(t, dir), "image")
		if held {
			return true, nil
		}
		return false, errors.Join(os.RemoveAll(dir+"/volume.xfs"), os.RemoveAll(dir+"/volume.lock"))
	}
	return m
}

// folderInMemory spares the disk: set-up syncs its record twice for each change.
func folderInMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "wrenn-hostsetup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fakeRun loads modules by making the folders that the kernel would show.
func (m *machine) fakeRun(ctx context.Context, program string, args ...string) error {
	switch {
	case program != "modprobe":
		return run(ctx, program, args...)
	case args[0] == "--remove":
		return os.RemoveAll(m.path("/sys/module/" + args[1]))
	case args[0] == "nf_conntrack":
		if err := os.MkdirAll(m.path("/proc/sys/net/netfilter"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(m.path("/proc/sys/net/netfilter/nf_conntrack_max"), []byte("262144\n"), 0o644); err != nil {
			return err
		}
	}
	return os.MkdirAll(m.path("/sys/module/"+args[0]), 0o755)
}

func put(t *testing.T, m *machine, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// tree is everything below the root with owner, permissions and content. Left out: the copies that useradd keeps, the
// knob that exists only while a module is loaded, and how a knob's value is ended.
func (m *machine) tree(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, m.root)
		if err != nil || strings.HasSuffix(name, "-") || strings.HasPrefix(name, "/proc/sys/net/netfilter") || name == "/etc/.pwd.lock" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sys := info.Sys().(*syscall.Stat_t)
		text := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = strings.TrimSpace(string(b))
		}
		all[name] = info.Mode().String() + " " + strings.Join([]string{m.groupName(int(sys.Gid)), text}, " ")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustOpen(t *testing.T, m *machine) *Setup {
	t.Helper()
	s, err := open(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// apply returns the results by the names of their items.
func (s *Setup) apply(t *testing.T) map[string]Result {
	t.Helper()
	all := map[string]Result{}
	if err := s.Apply(t.Context(), func(r Result) { all[r.Name] = r }); err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *Setup) undo(t *testing.T) map[string]Step {
	t.Helper()
	all := map[string]Step{}
	if err := s.Undo(t.Context(), func(_ string, step Step) { all[step.What] = step }); err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *Setup) check(t *testing.T) []Result {
	t.Helper()
	all, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}
