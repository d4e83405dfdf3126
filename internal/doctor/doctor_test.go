package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// healthy is a machine on which every check is content.
func healthy(t *testing.T) *machine {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"proc/sys/kernel/osrelease":         "6.1.0-40-cloud-amd64\n",
		"proc/meminfo":                      "MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   20000000 kB\n",
		"proc/filesystems":                  "nodev\tproc\n\txfs\n",
		"proc/self/mounts":                  "/dev/vda / ext4 rw 0 0\n",
		"proc/net/route":                    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nens5\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n",
		"dev/loop-control":                  "",
		"dev/userfaultfd":                   "",
		"data/images/minimal/manifest.json": `{"name":"minimal","digest":"sha256:1"}`,
		"data/images/minimal/rootfs.ext4":   "x",
	}
	for name, text := range files {
		write(t, filepath.Join(root, name), text)
	}
	programs := map[string]string{"firecracker": "Firecracker v1.10.1\n", "jailer": "Jailer v1.10.1\n", "qemu-system-x86_64": "QEMU emulator version 7.2.22\nmicrovm\n"}
	self, err := os.Executable() // an ELF file for this machine
	if err != nil {
		t.Fatal(err)
	}
	return &machine{
		Options: Options{Data: filepath.Join(root, "data"), Kernel: self, Images: filepath.Join(root, "data/images"), Subnet: "10.0.0.0/16", Jail: "on", OwnerBase: 200_000, Objects: inFolder(filepath.Join(root, "data/objects"))},
		root:    root,
		lookPath: func(p string) (string, error) {
			if _, known := programs[p]; !known {
				return "", os.ErrNotExist
			}
			return "/bin/" + p, nil
		},
		output:   func(_ context.Context, p string, _ ...string) (string, error) { return programs[filepath.Base(p)], nil },
		probeKVM: func(context.Context) (bool, string) { return true, "fast" },
		reflinks: func(string) error { return nil },
		openTUN:  func(string) error { return nil },
		chains: func(context.Context) ([]chain, error) {
			return []chain{{table: "filter", name: "FORWARD", forward: true}}, nil
		},
		filesystem: func(string) (space, error) { return space{free: 50 << 30, total: 100 << 30}, nil },
		openFiles:  func() (uint64, uint64, error) { return 1024, 1 << 20, nil },
		setup: func(context.Context) ([]hostsetup.Result, error) {
			return []hostsetup.Result{{Name: "ksm", What: "no merging"}, {Name: "halt-poll", Optional: "for some", Skipped: "optional"}}, nil
		},
	}
}

// inFolder is an object store in a folder.
func inFolder(path string) func() (config.Objects, error) {
	return func() (config.Objects, error) { return config.Objects{Place: path}, nil }
}

// TestObjects: what is wrong with the object store is said, without what is secret, and keeps no sandbox from running.
func TestObjects(t *testing.T) {
	nobody := config.Objects{Place: "s3://bucket", Endpoint: "http://127.0.0.1:1", Region: "us-east-1", AccessKey: "me", SecretKey: "hush"}
	for name, c := range map[string]struct {
		objects func() (config.Objects, error)
		want    Status
		says    string
	}{
		"folder":    {inFolder(t.TempDir()), OK, "for this host alone"},
		"no folder": {inFolder("/proc/self/exe"), Warn, "is no folder"},
		"none":      {inFolder(""), OK, "none is configured"},
		"wrong":     {func() (config.Objects, error) { return config.Objects{}, errors.New("s3_region must be set") }, Warn, "s3_region"},
		"no server": {func() (config.Objects, error) { return nobody, nil }, Warn, "cannot be reached"},
	} {
		got := checkObjects(t.Context(), &machine{Options: Options{Objects: c.objects}})
		if got.Status != c.want || !strings.Contains(got.Found, c.says) || strings.Contains(fmt.Sprint(got), "hush") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestHealthyMachine(t *testing.T) {
	findings := examine(t.Context(), healthy(t))
	for _, f := range findings {
		if f.Name == "databases" { // looks at this machine
			continue
		}
		if f.Status != OK || f.Found == "" || f.Fix != "" {
			t.Errorf("%+v", f)
		}
	}
	if len(findings) != len(checks)+2 { // one of the VMM, one of the set-up: optional items are nobody's fault
		t.Errorf("%d findings of %d checks", len(findings), len(checks)+2)
	}
}

// Each case damages a healthy machine in one way and names what must be found.
func TestDamagedMachines(t *testing.T) {
	type want struct {
		name   string
		status Status
		text   string // in what was found or the fix
	}
	cases := map[string]struct {
		damage func(t *testing.T, m *machine)
		want   want
	}{
		"not root":          {func(t *testing.T, m *machine) { m.euid = 1000 }, want{"root", Fail, "user 1000"}},
		"old kernel":        {func(t *testing.T, m *machine) { write(t, m.path("proc/sys/kernel/osrelease"), "5.4.0-1") }, want{"kernel", Warn, "5.4.0-1"}},
		"no kernel version": {func(t *testing.T, m *machine) { remove(t, m.path("proc/sys/kernel")) }, want{"kernel", Warn, "not known"}},
		"slow KVM": {func(t *testing.T, m *machine) {
			m.probeKVM = func(context.Context) (bool, string) { return false, "2 million instructions a second" }
		}, want{"kvm", Warn, "2 million"}},
		"no Firecracker":       {func(t *testing.T, m *machine) { without(m, "firecracker") }, want{"firecracker", Warn, "QEMU is used"}},
		"old Firecracker":      {func(t *testing.T, m *machine) { says(m, "firecracker", "Firecracker v1.5.0") }, want{"firecracker", Warn, "1.6 or newer"}},
		"mute Firecracker":     {func(t *testing.T, m *machine) { says(m, "firecracker", "hello") }, want{"firecracker", Warn, "hello"}},
		"no QEMU":              {func(t *testing.T, m *machine) { without(m, "qemu-system-x86_64") }, want{"qemu", Warn, "apt-get install qemu-system-x86"}},
		"QEMU without microvm": {func(t *testing.T, m *machine) { says(m, "qemu-system-x86_64", "QEMU emulator version 7.2\n") }, want{"qemu", Warn, "no microvm"}},
		"broken QEMU":          {func(t *testing.T, m *machine) { breaks(m, "qemu-system-x86_64") }, want{"qemu", Warn, "exec format error"}},
		"broken Firecracker":   {func(t *testing.T, m *machine) { breaks(m, "firecracker") }, want{"firecracker", Warn, "exec format error"}},
		"no VMM":               {func(t *testing.T, m *machine) { without(m, "firecracker", "qemu-system-x86_64") }, want{"vmm", Fail, "nothing that can run"}},
		"Firecracker without KVM": {func(t *testing.T, m *machine) {
			without(m, "qemu-system-x86_64")
			m.probeKVM = func(context.Context) (bool, string) { return false, "no" }
		}, want{"vmm", Fail, "usable KVM"}},
		"emulation": {func(t *testing.T, m *machine) {
			m.probeKVM = func(context.Context) (bool, string) { return false, "no" }
		}, want{"vmm", Warn, "emulated"}},
		"no guest kernel":  {func(t *testing.T, m *machine) { m.Kernel = m.path("nothing") }, want{"guest kernel", Fail, "make images"}},
		"unnamed kernel":   {func(t *testing.T, m *machine) { m.Kernel = "" }, want{"guest kernel", Fail, "none"}},
		"kernel is no ELF": {func(t *testing.T, m *machine) { m.Kernel = m.path("proc/meminfo") }, want{"guest kernel", Fail, "bad magic"}},
		"no images":        {func(t *testing.T, m *machine) { remove(t, m.Images) }, want{"images", Fail, "make images"}},
		"unnamed images":   {func(t *testing.T, m *machine) { m.Images = "" }, want{"images", Fail, "no template image"}},
		"image without fs": {func(t *testing.T, m *machine) { remove(t, m.Images+"/minimal/rootfs.ext4") }, want{"images", Fail, "rootfs.ext4"}},
		"empty fs":         {func(t *testing.T, m *machine) { write(t, m.Images+"/minimal/rootfs.ext4", "") }, want{"images", Fail, "is empty"}},
		"one bad manifest": {func(t *testing.T, m *machine) { write(t, m.Images+"/other/manifest.json", "{") }, want{"images", Warn, "no manifest"}},
		"no reflinks":      {func(t *testing.T, m *machine) { m.reflinks = func(string) error { return unix.EOPNOTSUPP } }, want{"reflinks", Warn, "XFS volume in a loop file"}},
		"no reflinks ever": {func(t *testing.T, m *machine) {
			m.reflinks = func(string) error { return unix.EOPNOTSUPP }
			remove(t, m.path("dev/loop-control"))
		}, want{"reflinks", Warn, "copies its disk"}},
		"no loop":     {func(t *testing.T, m *machine) { remove(t, m.path("dev/loop-control")) }, want{"loop devices", Warn, "modprobe loop"}},
		"full disk":   {func(t *testing.T, m *machine) { m.filesystem = free(100 << 20) }, want{"disk space", Fail, "100 MiB"}},
		"little disk": {func(t *testing.T, m *machine) { m.filesystem = free(2 << 30) }, want{"disk space", Warn, "2.0 GiB"}},
		"unknown disk": {func(t *testing.T, m *machine) {
			m.filesystem = func(string) (space, error) { return space{}, unix.EIO }
		}, want{"disk space", Warn, "input/output"}},
		"no memory": {func(t *testing.T, m *machine) {
			write(t, m.path("proc/meminfo"), "MemTotal: 1000000 kB\nMemAvailable: 1000 kB\n")
		}, want{"memory", Fail, "0 MiB available"}},
		"little memory": {func(t *testing.T, m *machine) {
			write(t, m.path("proc/meminfo"), "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n")
		}, want{"memory", Warn, "488 MiB"}},
		"no meminfo":    {func(t *testing.T, m *machine) { remove(t, m.path("proc/meminfo")) }, want{"memory", Warn, "unknown"}},
		"no TUN":        {func(t *testing.T, m *machine) { m.openTUN = func(string) error { return unix.ENODEV } }, want{"tun", Fail, "modprobe tun"}},
		"TUN forbidden": {func(t *testing.T, m *machine) { m.openTUN = func(string) error { return unix.EPERM } }, want{"tun", Fail, "CAP_NET_ADMIN"}},
		"no nftables": {func(t *testing.T, m *machine) {
			m.chains = func(context.Context) ([]chain, error) { return nil, unix.EPROTONOSUPPORT }
		}, want{"nf_tables", Fail, "modprobe nf_tables"}},
		"forward drop": {func(t *testing.T, m *machine) { m.chains = dropping("filter") }, want{"forward policy", Warn, "accept tap-sb-*"}},
		"Docker's drop": {func(t *testing.T, m *machine) {
			m.chains = dropping("filter")
			write(t, m.path("sys/class/net/docker0/mtu"), "1500")
		}, want{"forward policy", Warn, "DOCKER-USER"}},
		"our own drop":    {func(t *testing.T, m *machine) { m.chains = dropping("wrenn") }, want{"forward policy", OK, "nothing drops"}},
		"overlap":         {route("eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF"), want{"subnet", Warn, "10.0.0.0/8 via eth0"}},
		"overlap within":  {route("eth0\t0005000A\t00000000\t0001\t0\t0\t0\t00FFFFFF"), want{"subnet", Warn, "10.0.5.0/24 via eth0"}},
		"own route":       {route("tap-sb-01234567\t0405000A\t00000000\t0001\t0\t0\t0\tFCFFFFFF"), want{"subnet", OK, "free"}},
		"other route":     {route("eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF"), want{"subnet", OK, "free"}},
		"bad subnet":      {func(t *testing.T, m *machine) { m.Subnet = "fd00::/64" }, want{"subnet", Fail, "10.0.0.0/16"}},
		"jails off":       {func(t *testing.T, m *machine) { m.Jail = "off" }, want{"jail", Warn, "VMMs run as root"}},
		"no jailer":       {func(t *testing.T, m *machine) { without(m, "jailer") }, want{"jail", Warn, "jailer is not installed"}},
		"broken jailer":   {func(t *testing.T, m *machine) { breaks(m, "jailer") }, want{"jail", Warn, "does not run"}},
		"no one needs it": {func(t *testing.T, m *machine) { without(m, "firecracker", "jailer") }, want{"jail", OK, "200000 to 216383"}},
		"somebody's users": {func(t *testing.T, m *machine) {
			write(t, m.path("etc/subuid"), "somebody:165536:65536\n")
		}, want{"jail", Fail, "somebody"}},
		"no userfaultfd": {func(t *testing.T, m *machine) { remove(t, m.path("dev/userfaultfd")) }, want{"userfaultfd", Warn, "CONFIG_USERFAULTFD"}},
		"not set up": {sets(hostsetup.Result{Name: "ksm", Steps: []hostsetup.Step{{What: "knob ksm/run", Before: "1", After: "0"}}}),
			want{"setup ksm", Warn, "knob ksm/run is 1, not 0"}},
		"cgroup v1":        {sets(hostsetup.Result{Name: "cgroup", Found: "v1", Fix: "boot with v2"}), want{"setup cgroup", Warn, "boot with v2"}},
		"not to be judged": {sets(hostsetup.Result{Name: "uids", Err: errors.New("eve has them")}), want{"setup uids", Warn, "eve has them"}},
		"not needed":       {sets(hostsetup.Result{Name: "volume", Skipped: "there are reflinks"}), want{"setup volume", OK, "there are reflinks"}},
		"no set-up": {func(_ *testing.T, m *machine) {
			m.setup = func(context.Context) ([]hostsetup.Result, error) { return nil, errors.New("bad record") }
		}, want{"setup", Warn, "bad record"}},
		"few files": {func(t *testing.T, m *machine) {
			m.openFiles = func() (uint64, uint64, error) { return 1024, 4096, nil }
		}, want{"open files", Warn, "4096"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := healthy(t)
			c.damage(t, m)
			findings := examine(t.Context(), m)
			for _, f := range findings {
				if f.Name != c.want.name {
					continue
				}
				if f.Status != c.want.status || !strings.Contains(f.Found+f.Fix, c.want.text) || f.Status != OK && f.Fix == "" {
					t.Errorf("%+v", f)
				}
				if Usable(findings) == (f.Status == Fail) {
					t.Errorf("usable: %v, with %+v", Usable(findings), f)
				}
				return
			}
			t.Errorf("there is no finding %q", c.want.name)
		})
	}
}

func without(m *machine, programs ...string) {
	look := m.lookPath
	m.lookPath = func(p string) (string, error) {
		for _, missing := range programs {
			if p == missing {
				return "", os.ErrNotExist
			}
		}
		return look(p)
	}
}

func says(m *machine, program, text string) {
	other := m.output
	m.output = func(ctx context.Context, p string, args ...string) (string, error) {
		if filepath.Base(p) == program {
			return text, nil
		}
		return other(ctx, p, args...)
	}
}

func breaks(m *machine, program string) {
	other := m.output
	m.output = func(ctx context.Context, p string, args ...string) (string, error) {
		if filepath.Base(p) == program {
			return "", errors.New("exec format error")
		}
		return other(ctx, p, args...)
	}
}

func sets(r hostsetup.Result) func(*testing.T, *machine) {
	return func(_ *testing.T, m *machine) {
		m.setup = func(context.Context) ([]hostsetup.Result, error) { return []hostsetup.Result{r}, nil }
	}
}

func free(bytes uint64) func(string) (space, error) {
	return func(string) (space, error) { return space{free: bytes, total: 100 << 30}, nil }
}

func dropping(table string) func(context.Context) ([]chain, error) {
	return func(context.Context) ([]chain, error) {
		return []chain{{table: table, name: "INPUT", drops: true}, {table: table, name: "FORWARD", forward: true, drops: true}}, nil
	}
}

func route(line string) func(*testing.T, *machine) {
	return func(t *testing.T, m *machine) {
		write(t, m.path("proc/net/route"), m.read("proc/net/route")+"\n"+line+"\n")
	}
}

func TestReflinksAreProbedInTheVolume(t *testing.T) {
	m := healthy(t)
	write(t, m.path("proc/self/mounts"), "/dev/loop0 "+m.Data+"/volume xfs rw 0 0\n")
	var probed string
	m.reflinks = func(dir string) error { probed = dir; return nil }
	if f := checkReflinks(t.Context(), m); f.Status != OK || probed != m.Data+"/volume" {
		t.Errorf("%+v, probed %s", f, probed)
	}
}

// On a real machine every check comes to a conclusion, and nothing is left in the data folder.
func TestThisMachine(t *testing.T) {
	testlane.NeedRoot(t)
	data := t.TempDir()
	findings := Examine(t.Context(), Options{Data: filepath.Join(data, "not", "there"), Kernel: "/proc/self/exe", Subnet: "10.0.0.0/16", Objects: inFolder(data)})
	byName := map[string]Finding{}
	for _, f := range findings {
		byName[f.Name] = f
		if f.Found == "" || f.Status != OK && f.Fix == "" {
			t.Errorf("%+v", f)
		}
	}
	for _, name := range []string{"root", "kernel", "guest kernel", "memory", "disk space", "open files"} {
		if byName[name].Status != OK {
			t.Errorf("%+v", byName[name])
		}
	}
	if byName["images"].Status != Fail || Usable(findings) {
		t.Errorf("%+v", byName["images"])
	}
	if left, err := os.ReadDir(data); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
	if len(byName) != len(findings) {
		t.Error("two findings have the same name")
	}
}

func TestRealTUN(t *testing.T) {
	testlane.NeedRoot(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testlane.Missing(t, "/dev/net/tun does not exist")
	}
	if err := openTUN("/dev/net/tun"); err != nil {
		t.Error(err)
	}
	if err := openTUN("/dev/null"); err == nil {
		t.Error("/dev/null was taken for the TUN driver")
	}
	if err := openTUN("/dev/nothing"); !isMissing(err) {
		t.Errorf("a missing device gave %v", err)
	}
}

func TestReflinkProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := probeReflinks(dir); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// In a network namespace of its own the test makes the chain that Docker would make.
func TestRealChains(t *testing.T) {
	testlane.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make network namespace: %v", err)
			return
		}
		if chains, err := listChains(t.Context()); err != nil || len(chains) != 0 {
			t.Errorf("an empty namespace has %v, %v", chains, err)
		}
		drop := nftables.ChainPolicyDrop
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
			Priority: nftables.ChainPriorityFilter, Policy: &drop})
		conn.AddChain(&nftables.Chain{Name: "plain", Table: table})
		if err := conn.Flush(); err != nil {
			t.Errorf("add chains: %v", err)
			return
		}
		m := healthy(t)
		m.chains = listChains
		if f := checkForwardPolicy(t.Context(), m); f.Status != Warn || !strings.Contains(f.Found, "FORWARD") {
			t.Errorf("%+v", f)
		}
	}()
	<-done
}

// TestGolden: those of the data folder are named, or of the volume in it; a manifest that is none is told.
func TestGolden(t *testing.T) {
	m := healthy(t)
	if f := checkGolden(t.Context(), m); f.Status != OK || !strings.Contains(f.Found, "none yet") {
		t.Errorf("without any: %+v", f)
	}
	const manifest = `{"template": {"name": "minimal"}, "created_at": "2026-01-02T03:04:05Z", "machine": {"vcpus": 1, "memory_mib": 256}}`
	write(t, filepath.Join(m.Data, "golden/golden-1/manifest.json"), manifest)
	if f := checkGolden(t.Context(), m); f.Status != OK || f.Found != "minimal (1 vCPU, 256 MiB, 2026-01-02 03:04)" {
		t.Errorf("with one: %+v", f)
	}
	write(t, filepath.Join(m.Data, "golden/golden-2/manifest.json"), "{")
	if f := checkGolden(t.Context(), m); f.Status != Warn || !strings.Contains(f.Found, "golden-2") {
		t.Errorf("with one that is damaged: %+v", f)
	}
}

// TestPool: the VMs that wait are counted, sandboxes are not.
func TestPool(t *testing.T) {
	m := healthy(t)
	if f := checkPool(t.Context(), m); f.Status != OK || !strings.Contains(f.Found, "empty") {
		t.Errorf("without any: %+v", f)
	}
	for name, record := range map[string]string{
		"sb-00000001": `{"size": {"VCPUs": 1, "MemoryMiB": 256}}`,
		"sb-00000002": `{"size": {"VCPUs": 1, "MemoryMiB": 256}, "pooled": true}`,
		"sb-00000003": `{"size": {"VCPUs": 1, "MemoryMiB": 512}, "pooled": true}`,
		"sb-00000004": `{"pooled": tr`,
	} {
		write(t, filepath.Join(m.Data, "sandboxes", name, "record.json"), record)
	}
	if f := checkPool(t.Context(), m); f.Status != OK || f.Found != "2 VMs that were restored ahead, of 768 MiB together" {
		t.Errorf("with two: %+v", f)
	}
}
