package hostsetup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

// accountName is the user and the group of Wrenn's unprivileged parts.
const accountName = jail.Account

// item is one row of the table.
type item struct {
	name     string
	what     string // in one line
	why      string
	optional string // for whom it is, and what it costs; empty: for everybody
	// changes says what should be so on this machine, or why that does not concern it.
	changes func(m *machine) (wanted []change, skip string, err error)
	// advice, instead of changes, looks at what setup cannot change, and says what a person must do, if anything.
	advice func(m *machine) (found, fix string)
}

// items are the table, in the order in which they are applied.
func items() []item {
	return []item{
		{name: "modules", what: "parts of the kernel for VMs, their network and disks, now and at boot",
			why:     "the agent needs /dev/kvm, TAP devices, nftables and loop devices, and a module that is loaded on first use is loaded too late for its settings",
			changes: modulesWanted},
		{name: "network", what: "settings of the host's network",
			why: "sandboxes reach the outside through this host, so it forwards; and tables made for a desktop are full with a thousand sandboxes: " +
				"connections are tracked and neighbours remembered for all of them",
			changes: sysctls("/etc/sysctl.d/60-wrenn-network.conf", networkSysctls)},
		{name: "processes", what: "room for the processes and threads of VMMs",
			why:     "each VMM has a thread for each vCPU and a few more; ten thousand sandboxes do not fit into 32,768 process ids",
			changes: sysctls("/etc/sysctl.d/60-wrenn-processes.conf", func(*machine) []sysctl { return []sysctl{{"kernel.pid_max", 4194304}} })},
		{name: "account", what: "system user and group " + accountName,
			why:     "the control plane needs no rights on a host: it runs as this user, and who steals it is no root",
			changes: accountWanted},
		{name: "uids", what: fmt.Sprintf("user ids %d to %d belong to VMMs", FirstUID, FirstUID+UIDs-1),
			why:     "the VMM of each sandbox runs as a user of its own, so that one that is broken out of reaches no other; these ids must be nobody else's",
			changes: uidsWanted},
		{name: "folders", what: "the data folder, which only root reads",
			why:     "it holds the disks and the memory of sandboxes, and their tokens; VMMs go through it to their own folder, which is all that 0711 allows",
			changes: foldersWanted},
		{name: "volume", what: "an XFS volume with reflinks, where the data folder's file system has none",
			why:     "a disk of a sandbox is then cloned in a fraction of a millisecond and takes no space; else it is a copy. The agent mounts the volume at each start",
			changes: volumeWanted},
		{name: "kvm", what: "/dev/kvm for root and the group kvm, and nobody else",
			why:     "VMMs that run under user ids of their own open it by their group; other users of this host have no business with it",
			changes: kvmWanted},
		{name: "favordynmods", what: "cgroup2 mounted with favordynmods, now and at boot",
			why: "without it, moving a new VMM into its cgroup waits for a grace period of the kernel: starting or restoring a Firecracker VM takes " +
				"100 ms longer. It costs a little at each start and end of a process on the host",
			changes: favordynmodsWanted},
		{name: "thp", what: "transparent huge pages on request (madvise), now and at boot",
			why:     "\"always\" gives sandboxes 2 MiB for every touched page, so that fewer fit; \"never\" makes large ones slower. VMMs ask for them where they help",
			changes: knobAtBoot("thp", "/sys/kernel/mm/transparent_hugepage/enabled", "madvise")},
		{name: "ksm", what: "no merging of equal pages (KSM), now and at boot",
			why:     "whether a page was merged can be told by timing a write to it, and so what is in another tenant's memory",
			changes: knobAtBoot("ksm", "/sys/kernel/mm/ksm/run", "0")},
		{name: "nx-huge-pages", what: "kvm.nx_huge_pages=never, now and at boot",
			why: "KVM's protection against iTLB multihit starts a worker thread for each VM, which delays its start, and splits the huge pages that code runs from",
			optional: "for hosts whose processor is not affected (see /sys/devices/system/cpu/vulnerabilities/itlb_multihit). On one that is, a guest can then " +
				"halt the whole host by a machine check",
			changes: nxHugePagesWanted},
		{name: "halt-poll", what: "kvm.halt_poll_ns=0, now and at boot",
			why:      "by default KVM keeps a processor busy for up to 0.2 ms after a guest goes idle, waiting for it to wake",
			optional: "for hosts with many more vCPUs than processors. A guest that waits for the network or a disk then wakes some microseconds later",
			changes:  kvmParameter("halt_poll_ns", "0")},
		{name: "cgroup", what: "cgroup v2 with the controllers cpu, memory, pids and io",
			why: "the limits of a sandbox's VMM are set through it", advice: cgroupAdvice},
		{name: "seccomp", what: "a filter of system calls for each VMM",
			why:    "a guest that has taken over its VMM can then ask the kernel for little, and start no program",
			advice: seccompAdvice},
		{name: "ipv6", what: "IPv6, for sandboxes whose network policy allows it",
			why:    "a sandbox reaches by it what its host does, and no more",
			advice: ipv6Advice},
		{name: "swap", what: "no swap on a disk",
			why:    "memory of sandboxes, with all secrets in it, is written to it, and outlives them",
			advice: swapAdvice},
		{name: "side channels", what: "mitigations of the processor's flaws, and no hyper-threads shared by sandboxes",
			why:    "what one tenant's code can tell of another's through the processor is up to the host's kernel and firmware, not to a VMM",
			advice: sideChannelAdvice},
	}
}

func modulesWanted(m *machine) ([]change, string, error) {
	names := []string{"tun", "loop", "xfs", "nf_tables", "nf_conntrack"}
	if kvm := m.kvmModule(); kvm != "" {
		names = append(names, kvm)
	}
	var wanted []change
	for _, name := range names {
		wanted = append(wanted, change{kind: "module", target: name, want: state{Present: true}})
	}
	return append(wanted, m.textFile("/etc/modules-load.d/wrenn.conf", names...)...), "", nil
}

// kvmModule is the one for this processor, "" where it has no virtualisation.
func (m *machine) kvmModule() string {
	for row := range strings.Lines(m.text("/proc/cpuinfo")) {
		flags := " " + strings.TrimSpace(row) + " "
		switch {
		case !strings.HasPrefix(row, "flags"):
		case strings.Contains(flags, " vmx "):
			return "kvm_intel"
		case strings.Contains(flags, " svm "):
			return "kvm_amd"
		}
	}
	return ""
}

// textFile is the changes that make a file of lines: the folders above it, where they are missing, and the file.
func (m *machine) textFile(path string, lines ...string) []change {
	text := "# Made by host-agent setup, removed by host-agent setup --undo.\n" + strings.Join(lines, "\n") + "\n"
	return append(m.foldersAbove(path), change{kind: "file", target: path, want: state{Present: true, Text: text, Mode: 0o644}})
}

func (m *machine) foldersAbove(path string) []change {
	dir := filepath.Dir(path)
	if m.exists(dir) {
		return nil
	}
	return append(m.foldersAbove(dir), change{kind: "folder", target: dir, want: state{Present: true, Mode: 0o755}})
}

// sysctl is a setting that must be no less than a value.
type sysctl struct {
	name  string
	least int
}

func networkSysctls(m *machine) []sysctl {
	return []sysctl{
		{"net.ipv4.ip_forward", 1},
		// A connection takes 320 bytes: at most 2 % of the memory.
		{"net.netfilter.nf_conntrack_max", min(m.memoryMiB()*64, 1<<20)},
		// From the first, old entries are dropped; at the third, new ones are refused: arp(7).
		{"net.ipv4.neigh.default.gc_thresh1", 4096},
		{"net.ipv4.neigh.default.gc_thresh2", 16384},
		{"net.ipv4.neigh.default.gc_thresh3", 32768},
	}
}

// sysctls sets knobs now, and by a file at boot. What is larger already is neither lowered nor written to the file.
func sysctls(path string, list func(*machine) []sysctl) func(*machine) ([]change, string, error) {
	return func(m *machine) ([]change, string, error) {
		var knobs []change
		var lines []string
		for _, s := range list(m) {
			target := "/proc/sys/" + strings.ReplaceAll(s.name, ".", "/")
			enough := func(now state) bool { n, err := strconv.Atoi(now.Text); return err == nil && n >= s.least }
			knobs = append(knobs, change{kind: "knob", target: target, want: state{Present: true, Text: strconv.Itoa(s.least)}, enough: enough, ifPresent: true})
			if n, err := strconv.Atoi(m.text(target)); err != nil || n <= s.least {
				lines = append(lines, fmt.Sprintf("%s = %d", s.name, s.least))
			}
		}
		if len(lines) == 0 {
			return knobs, "", nil
		}
		return append(knobs, m.textFile(path, lines...)...), "", nil
	}
}

func accountWanted(*machine) ([]change, string, error) {
	return []change{
		{kind: "group", target: accountName, want: state{Present: true}},
		{kind: "user", target: accountName, want: state{Present: true}},
	}, "", nil
}

func foldersWanted(m *machine) ([]change, string, error) {
	enough := func(now state) bool { return now.Present && now.UID == 0 && now.Mode&^0o711 == 0 }
	data := change{kind: "folder", target: m.Data, want: state{Present: true, Mode: 0o711}, enough: enough}
	return append(m.foldersAbove(m.Data), data), "", nil
}

// volumeWanted goes after the file system: where it has reflinks, and no volume was made earlier, none is wanted.
func volumeWanted(m *machine) ([]change, string, error) {
	if !m.Volume {
		return nil, "the volume is switched off", nil
	}
	want := []change{{kind: "volume", target: m.Data, want: state{Present: true}}}
	if m.exists(filepath.Join(m.Data, "volume.xfs")) {
		return want, "", nil
	}
	has, err := m.hasReflinks(m.Data)
	if has {
		return nil, "the data folder's file system has reflinks", err
	}
	return want, "", err
}
