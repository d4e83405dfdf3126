package shutdown

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// virtual are the file systems that hold nothing to be kept.
var virtual = []string{
	"proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "cgroup", "cgroup2", "mqueue",
	"binfmt_misc", "hugetlbfs", "bpf", "tracefs", "debugfs", "securityfs", "configfs", "fusectl", "rootfs",
}

// readOnlyTime is how long the kernel may take for an emergency remount, and
// readOnlyDelay how often one looks.
const (
	readOnlyTime  = 5 * time.Second
	readOnlyDelay = 5 * time.Millisecond
)

// closeDisks brings every file system on a disk into the state of a clean unmount.
func closeDisks(say func(string)) {
	unix.Sync()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		say("list the mounts: " + err.Error())
	}
	for _, target := range disks(string(mounts)) {
		if err := unmount(target); err != nil {
			say("unmount " + target + ": " + err.Error())
		}
	}
	if err := closeRoot(); err != nil {
		say(err.Error())
	}
}

// disks returns where file systems that keep something are mounted, the last mounted
// first and without the root. The format of mountinfo is in proc(5).
func disks(mountinfo string) []string {
	var targets []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if !ok || len(fields) < 5 || fields[4] == "/" || slices.Contains(virtual, kind) {
			continue
		}
		targets = append(targets, unescape.Replace(fields[4]))
	}
	slices.Reverse(targets)
	return targets
}

// unescape undoes what the kernel does to white space in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// unmount unmounts target, and what is busy as soon as it is not.
func unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		return unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}

// closeRoot makes the root read-only, which writes it out as an unmount does. Where a
// file is still open for writing the kernel refuses; its emergency remount does not ask.
func closeRoot() error {
	err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	if err == nil || isReadOnly("/") {
		return nil
	}
	if sysrqErr := os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0); sysrqErr != nil {
		return fmt.Errorf("remount / read-only: %w; emergency remount: %w", err, sysrqErr)
	}
	for deadline := time.Now().Add(readOnlyTime); !isReadOnly("/"); time.Sleep(readOnlyDelay) { //nolint:forbidigo // the kernel tells nobody when it is done, and nothing else runs any more
		if time.Now().After(deadline) {
			return fmt.Errorf("remount / read-only: %w; the emergency remount takes longer than %s", err, readOnlyTime)
		}
	}
	return nil
}

func isReadOnly(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
}
