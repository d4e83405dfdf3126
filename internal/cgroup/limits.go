package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are what a group may take. All are needed, but for those of the disk.
type Limits struct {
	CPUs      float64 // processors; a group also gets time in proportion to them where there is not enough for all
	MemoryMiB int64
	PIDs      int
	// DiskMiBs is how many MiB a second may be read, and as many written, on the device of the file Disk. 0 is without limit.
	DiskMiBs int
	Disk     string
}

// period is what processor time is measured out in: the kernel's default.
const period = 100_000 // microseconds

// settings are the files of a group and what is written to them. Those that are optional come with controllers or kernel
// options that a host may lack.
func (l Limits) settings() []setting {
	weight := Weight(l.CPUs)
	return []setting{
		{"cpu.max", fmt.Sprintf("%d %d", int(l.CPUs*period), period), false},
		{"cpu.weight", strconv.Itoa(weight), false},
		{"memory.max", strconv.FormatInt(l.MemoryMiB<<20, 10), false},
		{"memory.swap.max", "0", true},  // a guest that swaps on its host slows others down
		{"memory.oom.group", "1", true}, // a VMM without one of its threads is of no use
		{"pids.max", strconv.Itoa(l.PIDs), false},
		{"io.weight", "default " + strconv.Itoa(weight), true},
	}
}

// Weight is the share that a group of so many processors has of those that are contended for: cpu.weight of cgroup-v2.rst, of which 100 is the kernel's default.
func Weight(cpus float64) int { return max(1, min(10_000, int(100*cpus))) }

type setting struct {
	file, value string
	optional    bool
}

func (l Limits) apply(dir string) error {
	for _, s := range l.settings() {
		err := write(dir, s.file, s.value)
		if err != nil && (!s.optional || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("set %s to %s: %w", s.file, s.value, err)
		}
	}
	return nil
}

// applyDisk sets io.max. Only whole disks have it.
func (l Limits) applyDisk(dir string) error {
	if l.DiskMiBs == 0 {
		return nil
	}
	device, err := diskOf(l.Disk)
	if err != nil {
		return fmt.Errorf("limit the disk: %w", err)
	}
	bytes := l.DiskMiBs << 20
	if err := write(dir, "io.max", fmt.Sprintf("%s rbps=%d wbps=%d", device, bytes, bytes)); err != nil {
		return fmt.Errorf("set io.max of the disk %s: %w", device, err)
	}
	return nil
}

// diskOf returns the number, as in 8:0, of the disk that a file lies on: that of a partition is its disk's.
func diskOf(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	own := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	device, err := filepath.EvalSymlinks("/sys/dev/block/" + own)
	if err != nil {
		return "", fmt.Errorf("%s lies on no block device: %w", path, err)
	}
	switch _, err := os.Stat(filepath.Join(device, "partition")); {
	case errors.Is(err, fs.ErrNotExist):
		return own, nil
	case err != nil:
		return "", fmt.Errorf("tell whether %s is a partition: %w", own, err)
	}
	whole, err := os.ReadFile(filepath.Join(filepath.Dir(device), "dev"))
	if err != nil {
		return "", fmt.Errorf("find the disk of partition %s: %w", own, err)
	}
	return strings.TrimSpace(string(whole)), nil
}
