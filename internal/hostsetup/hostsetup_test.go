package hostsetup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
)

// TestApplyAndUndo is the life of a set-up: check changes nothing, apply makes everything so, a second one has nothing to do,
// and undo leaves the machine as it was found.
func TestApplyAndUndo(t *testing.T) {
	m := fakeMachine(t)
	m.With = []string{"nx-huge-pages", "halt-poll"}
	s := mustOpen(t, m)
	before := m.tree(t)
	if Prepared(s.check(t)) {
		t.Error("a fresh machine is said to be prepared")
	}
	if diff := cmp.Diff(before, m.tree(t)); diff != "" {
		t.Errorf("check has changed something:\n%s", diff)
	}
	for name, r := range s.apply(t) {
		if !r.Good() || r.Skipped != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for target, want := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/net/netfilter/nf_conntrack_max": "1048576", "/proc/sys/kernel/pid_max": "4194304",
		"/sys/kernel/mm/transparent_hugepage/enabled": "madvise", "/sys/kernel/mm/ksm/run": "0",
		"/sys/module/kvm/parameters/nx_huge_pages": "never", "/sys/module/kvm/parameters/halt_poll_ns": "0",
		"/etc/subuid": "ada:100000:65536\nwrenn:200000:65536",
	} {
		if got := m.text(target); got != want {
			t.Errorf("%s is %q, not %q", target, got, want)
		}
	}
	if text := m.text("/etc/modules-load.d/wrenn.conf"); !strings.HasSuffix(text, "\ntun\nloop\nxfs\nnf_tables\nnf_conntrack\nkvm_amd") {
		t.Errorf("the modules at boot are %q", text)
	}
	if text := m.text("/proc/thread-self/mountinfo"); !strings.HasSuffix(text, "rw,nsdelegate,memory_recursiveprot,favordynmods") {
		t.Errorf("cgroup2 is mounted as %q", text)
	}
	if !Prepared(s.check(t)) {
		t.Errorf("what is left to do: %+v", s.check(t))
	}
	applied := m.tree(t)
	s.apply(t)
	if diff := cmp.Diff(applied, m.tree(t)); diff != "" {
		t.Errorf("the second set-up has changed something:\n%s", diff)
	}
	m.With = nil // what was asked for once is still looked after
	if r := result(s.check(t), "halt-poll"); r.Skipped != "" {
		t.Errorf("%+v", r)
	}
	for what, step := range s.undo(t) {
		if step.Left != "" && what != "group wrenn" { // it goes with the user
			t.Errorf("%s: left: %s", what, step.Left)
		}
	}
	if diff := cmp.Diff(before, m.tree(t)); diff != "" {
		t.Errorf("undo has left:\n%s", diff)
	}
	if len(s.undo(t)) != 0 {
		t.Error("a second undo has something to do")
	}
}

func result(all []Result, name string) Result {
	for _, r := range all {
		if r.Name == name {
			return r
		}
	}
	return Result{}
}

// TestKilledAtAnyItem: a set-up that ends early is undone, and is completed by another one and then undone.
func TestKilledAtAnyItem(t *testing.T) {
	for n := range items() {
		m := fakeMachine(t)
		s := mustOpen(t, m)
		before := m.tree(t)
		kill := func() {
			ctx, cancel := context.WithCancel(t.Context())
			seen := 0
			err := s.Apply(ctx, func(Result) {
				if seen++; seen > n {
					cancel()
				}
			})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		kill()
		s.undo(t)
		if diff := cmp.Diff(before, m.tree(t)); diff != "" {
			t.Fatalf("after %d items undo has left:\n%s", n+1, diff)
		}
		kill()
		s.apply(t)
		if !Prepared(s.check(t)) {
			t.Errorf("after %d items and a second set-up there is left to do: %+v", n+1, s.check(t))
		}
		s.undo(t)
		if diff := cmp.Diff(before, m.tree(t)); diff != "" {
			t.Fatalf("after %d items and a second set-up undo has left:\n%s", n+1, diff)
		}
	}
}

// TestKilledWithinAChange: what was recorded and perhaps made is set back, whatever it became.
func TestKilledWithinAChange(t *testing.T) {
	m := fakeMachine(t)
	s := mustOpen(t, m)
	put(t, m, "/etc/modprobe.d/wrenn.conf", "half")
	put(t, m, "/etc/wrenn/x", "")
	r := &record{Entries: []entry{
		{Item: "x", Kind: "file", Target: "/etc/modprobe.d/wrenn.conf"},
		{Item: "x", Kind: "knob", Target: "/sys/kernel/mm/ksm/run", Before: state{Present: true, Text: "2"}},
	}}
	if err := r.write(m); err != nil {
		t.Fatal(err)
	}
	s.undo(t)
	if m.exists("/etc/modprobe.d/wrenn.conf") || m.text("/sys/kernel/mm/ksm/run") != "2" {
		t.Errorf("left: %v, ksm %s", m.exists("/etc/modprobe.d/wrenn.conf"), m.text("/sys/kernel/mm/ksm/run"))
	}
	if !m.exists("/etc/wrenn/x") {
		t.Error("a file that is not set-up's is gone")
	}
}

// TestUndoLeavesWhatIsNotItsOwn: what others have changed, put somewhere or keep in use stays.
func TestUndoLeavesWhatIsNotItsOwn(t *testing.T) {
	m := fakeMachine(t)
	s := mustOpen(t, m)
	s.apply(t)
	put(t, m, "/proc/sys/kernel/pid_max", "99999")
	put(t, m, "/etc/sysctl.d/60-wrenn-network.conf", "mine")
	put(t, m, "/etc/modprobe.d/../modules-load.d/mine.conf", "")
	put(t, m, "/var/lib/wrenn/image", "")
	steps := s.undo(t)
	for what, reason := range map[string]string{
		"knob /proc/sys/kernel/pid_max": "somebody else", "file /etc/sysctl.d/60-wrenn-network.conf": "somebody else",
		"folder /etc/modules-load.d": "not empty", "volume /var/lib/wrenn": "holds images", "folder /var/lib/wrenn": "not empty",
	} {
		if !strings.Contains(steps[what].Left, reason) {
			t.Errorf("%s: %+v, not left because it %s", what, steps[what], reason)
		}
	}
	if m.text("/proc/sys/kernel/pid_max") != "99999" || m.text("/etc/sysctl.d/60-wrenn-network.conf") != "mine" || m.exists(recordPath) {
		t.Error("what is not set-up's was changed, or its record stays")
	}
}

// TestWhatCannotBeChanged: on a machine that allows little, each refusal is said, the rest is done, and undone.
func TestWhatCannotBeChanged(t *testing.T) {
	m := fakeMachine(t)
	before := m.tree(t)
	m.run = func(_ context.Context, program string, _ ...string) error {
		return errors.New(program + " is not installed")
	}
	m.remount = func(string, uintptr, string) error { return unix.EPERM }
	m.volume = func(_ context.Context, dir string, _ int) error { // as package filesystem does
		return errors.Join(errors.New("no loop devices here"), os.WriteFile(filepath.Join(dir, "volume.lock"), nil, 0o600))
	}
	s := mustOpen(t, m)
	all := s.apply(t)
	for name, words := range map[string]string{
		"modules": "modprobe is not installed", "account": "useradd is not installed", "favordynmods": "not permitted", "volume": "no loop devices",
		"kvm": "no group kvm",
	} {
		r := all[name]
		var said []string
		for _, step := range r.Steps {
			if step.Err != nil {
				said = append(said, step.Err.Error())
			}
		}
		if r.Good() || !strings.Contains(strings.Join(said, "; "), words) {
			t.Errorf("%s says %q, not %q", name, said, words)
		}
	}
	for _, name := range []string{"network", "uids", "folders", "ksm", "thp"} {
		if !all[name].Good() || len(all[name].Steps) == 0 {
			t.Errorf("%s was not done: %+v", name, all[name])
		}
	}
	s.undo(t)
	if diff := cmp.Diff(before, m.tree(t)); diff != "" {
		t.Errorf("undo has left:\n%s", diff)
	}
}

// TestUndoGoesOnAfterAFailure: what cannot be taken back stays in the record, for another time.
func TestUndoGoesOnAfterAFailure(t *testing.T) {
	m := fakeMachine(t)
	before := m.tree(t)
	s := mustOpen(t, m)
	s.apply(t)
	works := m.unvolume
	m.unvolume = func(context.Context, string) (bool, error) { return false, unix.EBUSY }
	err := s.Undo(t.Context(), func(string, Step) {})
	if models.CodeOf(err) != models.Precondition || !m.exists(recordPath) {
		t.Fatalf("%v, and the record is there: %v", err, m.exists(recordPath))
	}
	m.unvolume = works
	if steps := s.undo(t); len(steps) != 1 {
		t.Errorf("the second time undo did %+v", steps)
	}
	if err := os.Remove(m.path("/var/lib/wrenn")); err != nil { // not empty the first time
		t.Error(err)
	}
	if diff := cmp.Diff(before, m.tree(t)); diff != "" {
		t.Errorf("undo has left:\n%s", diff)
	}
}

func TestOneSetupAtATime(t *testing.T) {
	m := fakeMachine(t)
	_, unlock, err := lockRecord(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, m).Apply(t.Context(), func(Result) {}); models.CodeOf(err) != models.Conflict {
		t.Errorf("a second set-up at the same time: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestBadRecord(t *testing.T) {
	m := fakeMachine(t)
	put(t, m, recordPath, "")
	if err := durable.WriteJSON(m.path(recordPath), &record{Entries: []entry{{Kind: "teapot"}}}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, m).Undo(t.Context(), func(string, Step) {}); models.CodeOf(err) != models.Precondition {
		t.Errorf("an entry of the future: %v", err)
	}
	if _, err := open(&machine{Options: Options{With: []string{"ksm"}}}); models.CodeOf(err) != models.Invalid {
		t.Errorf("an optional item that is none: %v", err)
	}
}

// Each case changes a fresh machine and says what an item makes of it.
func TestItems(t *testing.T) {
	drop := func(names ...string) func(*testing.T, *machine) {
		return func(t *testing.T, m *machine) {
			for _, name := range names {
				if err := os.RemoveAll(m.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	set := func(name, text string) func(*testing.T, *machine) {
		return func(t *testing.T, m *machine) { put(t, m, name, text) }
	}
	for name, c := range map[string]struct {
		change     func(*testing.T, *machine)
		item, says string
	}{
		"Intel":             {set("/proc/cpuinfo", "flags\t\t: fpu vmx\n"), "modules", "module kvm_intel: not loaded -> in the kernel"},
		"a loaded module":   {set("/sys/class/misc/tun/dev", "10:200"), "modules", "!module tun"},
		"a built-in module": {set("/lib/modules/6.8.0-45-generic/modules.builtin", "kernel/drivers/net/tun.ko\n"), "modules", "!module tun"},
		"XFS in the kernel": {set("/proc/filesystems", "nodev\tproc\n\txfs\n"), "modules", "!module xfs"},
		"nftables works":    {func(_ *testing.T, m *machine) { m.nftables = func() error { return nil } }, "modules", "!module nf_tables"},
		"more than enough":  {set("/proc/sys/kernel/pid_max", "9999999"), "processes", ""},
		"little memory": {func(t *testing.T, m *machine) {
			put(t, m, "/proc/meminfo", "MemTotal: 1048576 kB\n")
			put(t, m, "/proc/sys/net/netfilter/nf_conntrack_max", "1")
		}, "network", "nf_conntrack_max: 1 -> 65536"},
		"no such knob":       {drop(), "network", "this kernel has no /proc/sys/net/ipv4/neigh/default/gc_thresh3"},
		"ids of a user":      {set("/etc/passwd", "eve:x:200007:1::/:/bin/sh\n"), "uids", "eve has 200007 to 200007 in "},
		"ids of a container": {set("/etc/subgid", "bob:165536:65536\n"), "uids", "bob has 165536 to 231071 in "},
		"ids besides":        {set("/etc/subuid", "bob:265536:65536\n"), "uids", "/etc/subuid#wrenn:200000:65536"},
		"no subuid":          {drop("/etc/subuid"), "uids", "/etc/subuid#wrenn:200000:65536"},
		"a wide folder":      {set("/var/lib/wrenn/x", ""), "folders", "0755, owner 0:0 -> 0711"},
		"reflinks":           {func(_ *testing.T, m *machine) { m.reflinks = func(string) (bool, error) { return true, nil } }, "volume", "has reflinks"},
		"no volume wanted":   {func(_ *testing.T, m *machine) { m.Volume = false }, "volume", "switched off"},
		"no KVM":             {drop("/dev/kvm"), "kvm", "there is no /dev/kvm"},
		"an old kernel":      {set("/proc/sys/kernel/osrelease", "5.15.0"), "favordynmods", "older than Linux 6.0"},
		"cgroup v1": {func(t *testing.T, m *machine) {
			drop("/sys/fs/cgroup/cgroup.controllers")(t, m)
			put(t, m, "/sys/fs/cgroup/memory/tasks", "")
		}, "cgroup", "v1; v2 lacks cpu, memory, pids, io"},
		"no cgroup at all":  {drop("/sys/fs/cgroup"), "favordynmods", "no cgroup v2"},
		"half of cgroup v2": {set("/sys/fs/cgroup/cgroup.controllers", "cpuset memory pids"), "cgroup", "v2 lacks cpu, io"},
		"hybrid cgroups": {func(t *testing.T, m *machine) {
			drop("/sys/fs/cgroup")(t, m)
			put(t, m, "/sys/fs/cgroup/unified/cgroup.controllers", "cpu memory pids io")
		}, "cgroup", "v2 with cpu memory pids io"},
		"no KSM":                 {drop("/sys/kernel/mm/ksm"), "ksm", "this kernel has no"},
		"swap":                   {set("/proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2\n"), "swap", "/dev/sda2"},
		"swap in memory":         {set("/proc/swaps", "Filename Type\n/dev/zram0 partition 1 0 100\n"), "swap", "none"},
		"a released Firecracker": {drop(), "seccomp", "Firecracker's own"},
		"no Firecracker":         {filters("", exec.ErrNotFound), "seccomp", "QEMU brings its own"},
		"a Firecracker without":  {filters("", firecracker.ErrUnfiltered), "seccomp", "none: Firecracker was built without\ntake a released binary"},
		"a filter from a file":   {filters("/etc/wrenn/fc.bpf", nil), "seccomp", "that of /etc/wrenn/fc.bpf, which is in force"},
		"a filter for show":      {filters("/etc/wrenn/fc.bpf", firecracker.ErrUnfiltered), "seccomp", "allows every system call\ncompile"},
		"no such filter":         {filters("/etc/wrenn/fc.bpf", fs.ErrNotExist), "seccomp", "/etc/wrenn/fc.bpf cannot be used: file does not exist\ncompile"},
		"filters not to be read": {filters("", seccomp.ErrUnknown), "seccomp", "CONFIG_CHECKPOINT_RESTORE"},
		"a broken Firecracker":   {filters("", errors.New("exec format error")), "seccomp", "exec format error\nhave"},
		"no IPv6":                {drop(), "ipv6", "the kernel has none"},
		"IPv6 switched off":      {set("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1\n"), "ipv6", "switched off"},
		"IPv6 at home":           {set("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0\n"), "ipv6", "no default route"},
		"IPv6 by an uplink": {func(t *testing.T, m *machine) {
			put(t, m, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "0\n")
			none := strings.Repeat("0", 32)
			put(t, m, "/proc/net/ipv6_route", none+" 00 "+none+" 00 "+none+" ffffffff 00000001 00000000 00200200       lo\n"+
				none+" 00 "+none+" 00 20010db8000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n")
		}, "ipv6", "a default route by eth0"},
		"a flaw":           {set("/sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable\n"), "side channels", "mds"},
		"hyper-threads":    {set("/sys/devices/system/cpu/smt/active", "1\n"), "side channels", "nosmt"},
		"an optional item": {drop(), "halt-poll", "optional: --with halt-poll"},
		"built-in KVM": {func(t *testing.T, m *machine) {
			m.With = []string{"halt-poll"}
			put(t, m, "/lib/modules/6.8.0-45-generic/modules.builtin", "kernel/arch/x86/kvm/kvm.ko\n")
		}, "halt-poll", "/etc/tmpfiles.d/wrenn-kvm-halt_poll_ns.conf"},
		"an affected processor": {func(t *testing.T, m *machine) {
			m.With = []string{"nx-huge-pages"}
			put(t, m, "/sys/devices/system/cpu/vulnerabilities/itlb_multihit", "KVM: Mitigation: Split huge pages\n")
		}, "nx-huge-pages", "a guest could halt the host"},
		"an older kernel's nx_huge_pages": {func(t *testing.T, m *machine) {
			m.With = []string{"nx-huge-pages"}
			put(t, m, "/proc/sys/kernel/osrelease", "6.1.0")
		}, "nx-huge-pages", "older than Linux 6.5"},
	} {
		t.Run(name, func(t *testing.T) {
			m := fakeMachine(t)
			c.change(t, m)
			r := result(mustOpen(t, m).check(t), c.item)
			text := words(r)
			if unwanted, not := strings.CutPrefix(c.says, "!"); not && strings.Contains(text, unwanted) || !not && !strings.Contains(text, c.says) || c.says == "" && text != "" {
				t.Errorf("%s says:\n%s\nnot %q", c.item, text, c.says)
			}
		})
	}
}

// filters has the machine's Firecracker be found so, with a filter from this file.
func filters(file string, found error) func(*testing.T, *machine) {
	return func(t *testing.T, m *machine) {
		m.SeccompFilter = file
		m.filter = func(_ context.Context, asked string) error {
			if asked != file {
				t.Errorf("asked of the filter %q", asked)
			}
			return found
		}
	}
}

// words is all that a result says of the machine.
func words(r Result) string {
	lines := append([]string{r.Skipped, r.Found, r.Fix}, r.Notes...)
	if r.Err != nil {
		lines = append(lines, r.Err.Error())
	}
	for _, s := range r.Steps {
		lines = append(lines, s.What+": "+s.Before+" -> "+s.After)
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// TestTheTableExplainsItself: every item says what it is and why, and is either set or looked at.
func TestTheTableExplainsItself(t *testing.T) {
	seen := map[string]bool{}
	for _, i := range items() {
		if i.name == "" || i.what == "" || i.why == "" || (i.changes == nil) == (i.advice == nil) || seen[i.name] {
			t.Errorf("%+v", i)
		}
		seen[i.name] = true
	}
}

// TestLarger: what is larger already is not lowered, neither now nor at boot.
func TestLarger(t *testing.T) {
	m := fakeMachine(t)
	put(t, m, "/proc/sys/net/ipv4/neigh/default/gc_thresh2", "99999")
	mustOpen(t, m).apply(t)
	text := m.text("/etc/sysctl.d/60-wrenn-network.conf")
	if got := m.text("/proc/sys/net/ipv4/neigh/default/gc_thresh2"); got != "99999" || strings.Contains(text, "gc_thresh2") || !strings.Contains(text, "gc_thresh1 = 4096") {
		t.Errorf("it is %s now, and at boot:\n%s", got, text)
	}
}

// TestLineKeepsTheRest: a file of others keeps its lines, its permissions, and its end without a newline.
func TestLineKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	m := &machine{root: dir}
	path := filepath.Join(dir, "list")
	if err := os.WriteFile(path, []byte("a\n\nb"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		present bool
		want    string
	}{{true, "a\n\nb\nours\n"}, {true, "a\n\nb\nours\n"}, {false, "a\n\nb\n"}} {
		if err := (line{}).write(t.Context(), m, "/list#ours", state{Present: c.present}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(got) != c.want || info.Mode().Perm() != 0o640 {
			t.Errorf("%q with %v, %v %v; want %q", got, info.Mode(), err, statErr, c.want)
		}
	}
}
