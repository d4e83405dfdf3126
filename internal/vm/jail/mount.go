package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind makes a file or folder of the host visible in a jail.
type Bind struct {
	From     string // on the host
	To       string // in the jail
	Writable bool
	Exec     bool // programs may be executed from it
}

// detached is a copy of a mount that is not attached anywhere yet, so that it can be carried into another namespace: open_tree(2).
type detached struct {
	Bind
	fd  int
	dir bool
}

func detach(b Bind) (detached, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return detached{}, fmt.Errorf("take %s into a jail: %w", b.From, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return detached{}, fmt.Errorf("take %s into a jail: %w", b.From, err)
	}
	return detached{Bind: b, fd: fd, dir: stat.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

func detachAll(binds []Bind) ([]detached, error) {
	var all []detached
	for _, b := range binds {
		d, err := detach(b)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func closeAll(all []detached) {
	for _, d := range all {
		unix.Close(d.fd)
	}
}

// attach mounts d below root, in this thread's mount namespace. What it is mounted on is made.
func (d detached) attach(root string) error {
	to := filepath.Join(root, d.To)
	if err := d.makePlace(to); err != nil {
		return fmt.Errorf("make a place for %s: %w", d.From, err)
	}
	if err := unix.MoveMount(d.fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", d.From, to, err)
	}
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV)
	if !d.Writable {
		flags |= unix.MS_RDONLY
	}
	if !d.Exec {
		flags |= unix.MS_NOEXEC
	}
	if err := unix.Mount("", to, "", flags, ""); err != nil {
		return fmt.Errorf("restrict the mount of %s: %w", d.From, err)
	}
	return nil
}

// makePlace makes an empty file or folder, where there is none. A symbolic link is not followed.
func (d detached) makePlace(to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if d.dir {
		return os.MkdirAll(to, 0o755)
	}
	fd, err := unix.Open(to, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// ownMounts gives this thread a mount namespace of its own, of which nothing propagates to the host's.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// tmpfs mounts a small file system in memory. It holds empty files and folders only.
func tmpfs(on string) error {
	if err := unix.Mount("tmpfs", on, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=1m,nr_inodes=4096,mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", on, err)
	}
	return nil
}

// ownProcesses mounts a proc(5) in which a process sees those that it may trace, which in a jail is itself, and nothing that is not a process.
func ownProcesses(on string) error {
	if err := os.Mkdir(on, 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("proc", on, "proc", flags, "subset=pid,hidepid=ptraceable"); err != nil { // both of Linux 5.8
		return fmt.Errorf("mount a proc on %s: %w", on, err)
	}
	return nil
}

func readOnly(on string) error {
	if err := unix.Mount("", on, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", on, err)
	}
	return nil
}

// above leaves out what lies in a folder that is bound too.
func above(binds []Bind) []Bind {
	var kept []Bind
	for _, b := range binds {
		covered := false
		for _, other := range binds {
			covered = covered || strings.HasPrefix(b.To, strings.TrimSuffix(other.To, "/")+"/")
		}
		if !covered {
			kept = append(kept, b)
		}
	}
	return kept
}
