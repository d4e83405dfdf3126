package hostsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// knob is a file of /proc or /sys with a value; it lasts until the machine is booted again.
type knob struct{}

func (knob) read(_ context.Context, m *machine, target string) (state, error) {
	text, err := os.ReadFile(m.path(target))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	return state{Present: err == nil, Text: chosen(strings.TrimSpace(string(text)))}, err
}

// chosen is the value of a knob that shows all its values with the chosen one in brackets.
func chosen(text string) string {
	_, rest, found := strings.Cut(text, "[")
	if value, _, closed := strings.Cut(rest, "]"); found && closed {
		return value
	}
	return text
}

func (knob) write(_ context.Context, m *machine, target string, to state) error {
	if !to.Present {
		return &leftError{"it did not exist"}
	}
	f, err := os.OpenFile(m.path(target), os.O_WRONLY|os.O_TRUNC, 0) // never makes one
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this kernel has no %s", target)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(to.Text)
	return errors.Join(err, f.Close())
}

func (knob) words(s state) string {
	if !s.Present {
		return "absent"
	}
	return s.Text
}

// module is a part of the kernel that may be built in, loaded, or neither.
type module struct{}

// evidence is where a part of the kernel shows itself, for those that are built in.
var evidence = map[string]string{
	"tun": "/sys/class/misc/tun", "loop": "/sys/class/misc/loop-control", "nf_conntrack": "/proc/sys/net/netfilter/nf_conntrack_max",
	"kvm_intel": "/sys/class/misc/kvm", "kvm_amd": "/sys/class/misc/kvm",
}

func (module) read(_ context.Context, m *machine, target string) (state, error) {
	loaded := m.exists("/sys/module/"+target) || evidence[target] != "" && m.exists(evidence[target])
	switch {
	case loaded || m.builtin(target):
	case target == "xfs":
		loaded = slices.Contains(strings.Fields(m.text("/proc/filesystems")), "xfs")
	case target == "nf_tables":
		loaded = m.nftables() == nil
	}
	return state{Present: loaded || m.builtin(target)}, nil
}

// builtin asks what modprobe(8) asks.
func (m *machine) builtin(name string) bool {
	list := m.text("/lib/modules/" + m.text("/proc/sys/kernel/osrelease") + "/modules.builtin")
	return strings.Contains(list+"\n", "/"+name+".ko\n")
}

func (module) write(ctx context.Context, m *machine, target string, to state) error {
	if to.Present {
		return m.run(ctx, "modprobe", target)
	}
	if err := m.run(ctx, "modprobe", "--remove", target); err != nil {
		return &leftError{"it stays loaded until the machine is booted again: " + err.Error()}
	}
	return nil
}

func (module) words(s state) string {
	if s.Present {
		return "in the kernel"
	}
	return "not loaded"
}

// mount is the options of a mounted file system (not those of the mount).
type mount struct{}

func (mount) read(_ context.Context, m *machine, target string) (state, error) {
	_, options, found, err := m.mounted(target)
	return state{Present: found, Text: options}, err
}

func (mount) write(_ context.Context, m *machine, target string, to state) error {
	flags, _, found, err := m.mounted(target)
	if err != nil {
		return err
	}
	if !found || !to.Present {
		return &leftError{"it is not mounted any more"}
	}
	return m.remount(target, flags, to.Text)
}

func (mount) words(s state) string {
	if !s.Present {
		return "not mounted"
	}
	return s.Text
}

// mountFlags are the options of a mount that remounting has to repeat, or they are lost: mount(2).
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
}

// mounted reads the uppermost mount on target in proc_pid_mountinfo(5): the flags of the mount, the options of its file system.
func (m *machine) mounted(target string) (flags uintptr, options string, found bool, err error) {
	text, err := os.ReadFile(m.path("/proc/thread-self/mountinfo"))
	if err != nil {
		return 0, "", false, err
	}
	for row := range strings.Lines(string(text)) {
		mount, system, _ := strings.Cut(row, " - ")
		left, right := strings.Fields(mount), strings.Fields(system)
		if len(left) < 6 || len(right) < 3 || left[4] != target {
			continue
		}
		flags, found = 0, true
		for _, name := range strings.Split(left[5], ",") {
			flags |= mountFlags[name]
		}
		options = strings.Join(slices.DeleteFunc(strings.Split(right[2], ","), func(o string) bool { return o == "rw" || o == "ro" }), ",")
	}
	return flags, options, found, nil
}

// cgroup2 is where the unified hierarchy is mounted that has the controllers; "" where cgroup v1 has them.
func (m *machine) cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if controllers := strings.Fields(m.text(filepath.Join(dir, "cgroup.controllers"))); slices.Contains(controllers, "memory") {
			return dir
		}
	}
	return ""
}
