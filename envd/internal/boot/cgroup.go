package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// envdGroup holds envd alone, userGroup all that it starts.
	envdGroup = cgroupRoot + "/envd"
	userGroup = cgroupRoot + "/user"

	// envdMemory is what reclaim leaves to envd, and reserveMemory what the others cannot
	// take of what is free after the boot: envd's own pages, most of which it has by then,
	// some buffers of transfers, and what the kernel needs and charges to nobody.
	envdMemory    = 16 << 20
	reserveMemory = 16 << 20
	// envdTasks is how many of the kernel's tasks the others cannot take: threads of envd,
	// and what it starts to end a fork bomb with.
	envdTasks = 128
)

// makeCgroups puts envd into a cgroup of its own and limits what it starts, as a whole,
// to what leaves envd able to answer. The kernel never kills PID 1 for memory
// (mm/oom_kill.c, oom_unkillable_task), so neither envd nor, by inheritance, its children
// need an oom_score_adj.
func (m *Machine) makeCgroups() error {
	if err := enableControllers(cgroupRoot, "cpu", "memory", "pids"); err != nil {
		return err
	}
	for _, group := range []string{envdGroup, userGroup} {
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := writeKnob(filepath.Join(envdGroup, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	m.Cgroup = userGroup
	return errors.Join(
		enableControllers(userGroup, "memory"), // memory.events tells which process was killed for want of memory
		writeKnob(envdGroup+"/memory.min", strconv.Itoa(envdMemory)),
		limitMemory(),
		limitTasks(),
	)
}

// enableControllers enables those of the named controllers that the kernel has for the
// children of group.
func enableControllers(group string, names ...string) error {
	list, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var enable []string
	for _, have := range strings.Fields(string(list)) {
		for _, name := range names {
			if have == name {
				enable = append(enable, "+"+name)
			}
		}
	}
	return writeKnob(filepath.Join(group, "cgroup.subtree_control"), strings.Join(enable, " "))
}

// limitMemory leaves reserveMemory free, in a guest that has at least four times that. A
// program that wants more is then killed by its cgroup alone, before the whole guest is
// short of memory and everybody in it, envd too, is made to wait for some.
func limitMemory() error {
	available, err := memory("MemAvailable")
	if err != nil || available < 4*reserveMemory {
		return err
	}
	return writeKnob(userGroup+"/memory.max", strconv.FormatUint(available-reserveMemory, 10))
}

// memory returns a field of /proc/meminfo, in bytes: proc_meminfo(5).
func memory(field string) (uint64, error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 54)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/meminfo", field)
}

// limitTasks leaves envdTasks to envd.
func limitTasks() error {
	text, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return err
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return writeKnob(userGroup+"/pids.max", strconv.Itoa(max(most-envdTasks, most/2)))
}
