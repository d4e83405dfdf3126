package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is a file system of the kernel's own, and where it belongs.
type mount struct {
	target, kind string
	flags        uintptr
	data         string
	optional     bool // programs that need it are rare, and kernels without it are not broken
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are in the order in which they lie within each other.
//
// /tmp is not among them. It stays on the disk: memory is what a sandbox has least of,
// and files on the disk cost nothing while it sleeps.
var mounts = []mount{
	{target: "/proc", kind: "proc", flags: plain},
	{target: "/sys", kind: "sysfs", flags: plain},
	{target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
	// gid 5 is tty in Debian; ptmxmode lets every user open a terminal.
	{target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "gid=5,mode=620,ptmxmode=666"},
	{target: "/dev/shm", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
	{target: "/dev/mqueue", kind: "mqueue", flags: plain, optional: true},
	{target: "/run", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755,size=25%"},
	{target: "/sys/fs/cgroup", kind: "cgroup2", flags: plain, data: "nsdelegate,memory_recursiveprot"},
	{target: "/proc/sys/fs/binfmt_misc", kind: "binfmt_misc", flags: plain, optional: true},
}

// mountAll mounts what is not mounted yet. The kernel mounts /dev itself before it starts
// PID 1 (CONFIG_DEVTMPFS_MOUNT).
func mountAll() error {
	var failed []error
	for _, m := range mounts {
		if err := m.mount(); err != nil && !m.optional {
			failed = append(failed, fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err))
		}
	}
	failed = append(failed, hurryRCU(), quietRoot(), makeTmp())
	return errors.Join(failed...)
}

// hurryRCU makes the kernel wait for its other processors by asking them instead of
// waiting for their next tick, which is up to 10 ms away. With the one or two of a guest
// that is cheap, and to make or change a cgroup or a network device it waits often.
func hurryRCU() error {
	if err := writeKnob("/sys/kernel/rcu_expedited", "1"); err != nil {
		return fmt.Errorf("expedite RCU: %w", err)
	}
	return nil
}

func (m mount) mount() error {
	if isMountPoint(m.target) {
		return nil
	}
	if err := os.Mkdir(m.target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return unix.Mount(m.kind, m.target, m.kind, m.flags, m.data)
}

// isMountPoint asks the kernel without /proc, which may not be mounted yet.
func isMountPoint(path string) bool {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, 0, &stat); err != nil {
		return false
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// quietRoot stops reads from writing: on a disk that shares its blocks with others, each
// new access time is a block that is not shared any more. A root that the kernel mounted
// read-only becomes writable.
func quietRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("set noatime on /: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs("/", &stat); err != nil || stat.Flags&unix.ST_RDONLY == 0 {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("remount / writable: %w", err)
	}
	return nil
}

// makeTmp makes sure that everyone can use /tmp.
func makeTmp() error {
	const mode = os.ModeSticky | 0o777
	info, err := os.Stat("/tmp")
	if errors.Is(err, os.ErrNotExist) {
		err = os.Mkdir("/tmp", 0o755)
	} else if err == nil && info.Mode()&(os.ModeSticky|os.ModePerm) == mode {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod("/tmp", mode)
}
