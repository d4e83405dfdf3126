package hostsetup

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

func uidsWanted(m *machine) ([]change, string, error) {
	switch err := jail.CheckFree(m.path("/etc"), FirstUID, UIDs); {
	case errors.Is(err, jail.ErrTaken):
		return nil, "", models.Errorf(models.Conflict, "the user ids of VMMs are in use: %v", err).
			WithHint("give that account other ids: VMMs run as %d to %d", FirstUID, FirstUID+UIDs-1)
	case err != nil:
		return nil, "", err
	}
	row := fmt.Sprintf("%s:%d:%d", accountName, FirstUID, UIDs)
	return []change{
		{kind: "line", target: "/etc/subuid#" + row, want: state{Present: true}},
		{kind: "line", target: "/etc/subgid#" + row, want: state{Present: true}},
	}, "", nil
}

const kvmDevice, kvmGroup = "/dev/kvm", "kvm"

func kvmWanted(m *machine) ([]change, string, error) {
	if !m.exists(kvmDevice) {
		return nil, "there is no " + kvmDevice, nil
	}
	return slices.Concat([]change{
		{kind: "group", target: kvmGroup, want: state{Present: true}},
		{kind: "device", target: kvmDevice, want: state{Present: true, Text: kvmGroup, Mode: 0o660}},
	}, m.textFile("/etc/udev/rules.d/60-wrenn-kvm.rules", `KERNEL=="kvm", GROUP="kvm", MODE="0660"`)), "", nil
}

// favordynmods is an option of cgroup2 since Linux 6.0: Documentation/admin-guide/cgroup-v2.rst.
const favordynmods = "favordynmods"

func favordynmodsWanted(m *machine) ([]change, string, error) {
	dir := m.cgroup2()
	switch {
	case dir == "":
		return nil, "there is no cgroup v2 with controllers", nil
	case !m.kernelSince(6, 0):
		return nil, "the kernel is older than Linux 6.0", nil
	}
	_, options, found, err := m.mounted(dir)
	if err != nil || !found {
		return nil, dir + " is not a mount of this namespace", err
	}
	set := state{Present: true, Text: options}
	if !slices.Contains(strings.Split(options, ","), favordynmods) {
		set.Text = strings.TrimPrefix(options+","+favordynmods, ",")
	}
	const unit = "wrenn-favordynmods.service"
	wanted := []change{{kind: "mount", target: dir, want: set}}
	wanted = append(wanted, m.textFile("/etc/systemd/system/"+unit,
		"[Unit]", "Description=cgroup2 with favordynmods, for Wrenn's VMMs", "ConditionPathIsMountPoint="+dir, "",
		"[Service]", "Type=oneshot", "ExecStart=/bin/mount -o remount,"+favordynmods+" "+dir, "",
		"[Install]", "WantedBy=multi-user.target")...)
	enabled := "/etc/systemd/system/multi-user.target.wants/" + unit
	wanted = append(wanted, m.foldersAbove(enabled)...)
	return append(wanted, change{kind: "link", target: enabled, want: state{Present: true, Text: "../" + unit}}), "", nil
}

var kernelForm = regexp.MustCompile(`^(\d+)\.(\d+)`)

func (m *machine) kernelSince(major, minor int) bool {
	found := kernelForm.FindStringSubmatch(m.text("/proc/sys/kernel/osrelease"))
	if found == nil {
		return false
	}
	a, _ := strconv.Atoi(found[1]) // digits
	b, _ := strconv.Atoi(found[2])
	return a > major || a == major && b >= minor
}

// knobAtBoot sets a knob now, and by systemd-tmpfiles(8) at boot.
func knobAtBoot(name, target, value string) func(*machine) ([]change, string, error) {
	return func(m *machine) ([]change, string, error) {
		if !m.exists(target) {
			return nil, "this kernel has no " + target, nil
		}
		set := change{kind: "knob", target: target, want: state{Present: true, Text: value}}
		return append([]change{set}, m.textFile("/etc/tmpfiles.d/wrenn-"+name+".conf", fmt.Sprintf("w %s - - - - %s", target, value))...), "", nil
	}
}

// kvmParameter sets a parameter of the module kvm now, and when it is loaded at boot. Where it is built in,
// systemd-tmpfiles sets it.
func kvmParameter(name, value string) func(*machine) ([]change, string, error) {
	return func(m *machine) ([]change, string, error) {
		target := "/sys/module/kvm/parameters/" + name
		switch {
		case !m.exists(target):
			return nil, "KVM is not loaded, or has no " + name, nil
		case m.builtin("kvm"):
			return knobAtBoot("kvm-"+name, target, value)(m)
		}
		set := change{kind: "knob", target: target, want: state{Present: true, Text: value}}
		option := fmt.Sprintf("options kvm %s=%s", name, value)
		return append([]change{set}, m.textFile("/etc/modprobe.d/wrenn-"+strings.ReplaceAll(name, "_", "-")+".conf", option)...), "", nil
	}
}

func nxHugePagesWanted(m *machine) ([]change, string, error) {
	if !m.kernelSince(6, 5) { // "never" is of kvm.nx_huge_pages since then: Documentation/admin-guide/kernel-parameters.txt
		return nil, "the kernel is older than Linux 6.5, which knows no \"never\"", nil
	}
	if flaw := m.text("/sys/devices/system/cpu/vulnerabilities/itlb_multihit"); flaw != "Not affected" {
		return nil, "", models.Errorf(models.Precondition, "this processor may be affected by iTLB multihit (the kernel says %q): a guest could halt the host", flaw).
			WithHint("leave the item out; favordynmods alone brings most of the speed")
	}
	return kvmParameter("nx_huge_pages", "never")(m)
}

func cgroupAdvice(m *machine) (found, fix string) {
	const boot = "boot the host with systemd.unified_cgroup_hierarchy=1 (on Debian and Ubuntu: append it to GRUB_CMDLINE_LINUX in /etc/default/grub, " +
		"run update-grub and reboot); until then sandboxes run without limits of their own"
	dir := m.cgroup2()
	var missing []string
	for _, name := range []string{"cpu", "memory", "pids", "io"} {
		if !slices.Contains(strings.Fields(m.text(filepath.Join(dir, "cgroup.controllers"))), name) || dir == "" {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return "v2 with " + m.text(filepath.Join(dir, "cgroup.controllers")), ""
	case m.exists("/sys/fs/cgroup/memory"):
		return "v1; v2 lacks " + strings.Join(missing, ", "), boot
	}
	return "v2 lacks " + strings.Join(missing, ", "), boot
}

func swapAdvice(m *machine) (found, fix string) {
	var used []string
	for row := range strings.Lines(m.text("/proc/swaps")) {
		if fields := strings.Fields(row); len(fields) > 0 && strings.HasPrefix(fields[0], "/") && !strings.HasPrefix(fields[0], "/dev/zram") {
			used = append(used, fields[0])
		}
	}
	if len(used) == 0 {
		return "none", ""
	}
	return strings.Join(used, ", "), "swapoff -a and take it out of /etc/fstab, or encrypt it with a key that is lost at boot (crypttab(5), swap)"
}

func sideChannelAdvice(m *machine) (found, fix string) {
	const folder = "/sys/devices/system/cpu/"
	var bad []string
	flaws, _ := filepath.Glob(m.path(folder + "vulnerabilities/*")) // the pattern is well formed
	for _, path := range flaws {
		name := filepath.Base(path)
		if text := m.text(folder + "vulnerabilities/" + name); strings.HasPrefix(text, "Vulnerable") {
			bad = append(bad, name)
		}
	}
	hints := []string{}
	if len(bad) > 0 {
		hints = append(hints, "update kernel, microcode and firmware, and boot without mitigations=off")
	}
	if m.text(folder+"smt/active") == "1" {
		bad = append(bad, "hyper-threads are on")
		hints = append(hints, "boot with nosmt=force where tenants do not trust each other")
	}
	if len(bad) == 0 {
		return "mitigated, as far as the kernel knows", ""
	}
	return strings.Join(bad, ", "), strings.Join(hints, "; ")
}
