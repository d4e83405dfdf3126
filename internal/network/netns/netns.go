// Package netns makes, enters and deletes network namespaces, without the ip program. A
// namespace is kept alive by a file that it is mounted on, in the way of ip-netns(8): the
// two understand each other's files in /run/netns.
//
// The network namespace is a property of a thread. Do and Start switch a thread that no
// other goroutine runs on meanwhile, and switch it back. EnterAndReexec moves the whole process.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// current is the namespace of the calling thread; /proc/self would be that of the main thread.
const current = "/proc/thread-self/ns/net"

// Namespace is an open network namespace. It exists at least as long as it is open.
type Namespace struct{ file *os.File }

// Current returns the namespace of the calling thread.
func Current() (*Namespace, error) { return Open(current) }

// Open returns the namespace that is mounted on path.
func Open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n := &Namespace{f}
	if !n.valid() {
		return nil, errors.Join(fmt.Errorf("%s is not a network namespace", path), f.Close())
	}
	return n, nil
}

// FD is the descriptor of the namespace; it is valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls f in the namespace. Sockets and files that f opens keep belonging to the
// namespace; goroutines that it starts run outside. f may be called on a thread of its own, and the
// error is f's.
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(n.enter, f)
}

// Do calls f in the namespace that is mounted on path: see Namespace.Do.
func Do(path string, f func() error) error {
	n, err := Open(path)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(f)
}

// Start starts cmd in the namespace that is mounted on path. cmd.SysProcAttr.Pdeathsig must not
// be set: it would strike when a thread ends, not the process.
func Start(path string, cmd *exec.Cmd) error {
	return Do(path, cmd.Start)
}

// Create makes a network namespace, with its loopback device up, and mounts it on path. The
// folder is made when absent. The error matches fs.ErrExist when something is there
// already, except for an empty file, as a restart of the machine leaves it.
func Create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := reserve(path); err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		if err := loopbackUp(); err != nil {
			return err
		}
		return unix.Mount(current, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

// Delete unmounts the namespace from path and removes the file. It succeeds when there is none.
// The namespace itself, with every device in it, ends with the last process or
// descriptor that is in it. What is not a namespace is not touched.
func Delete(path string) error {
	for isNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > 0:
		return fmt.Errorf("delete network namespace: %s is something else", path)
	}
	return os.Remove(path)
}

// reserve leaves an empty file at path.
func reserve(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err == nil {
		return f.Close()
	}
	info, statErr := os.Lstat(path)
	if statErr == nil && info.Mode().IsRegular() && info.Size() == 0 && !isNamespace(path) {
		return nil
	}
	return err
}

// onOwnThread calls enter and then f on a thread that nothing else uses meanwhile, and takes
// the thread back to its namespace. Where that fails the thread stays locked to this
// goroutine, so that nothing else ever runs in the wrong place.
func onOwnThread(enter, f func() error) (err error) {
	runtime.LockOSThread()
	home, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		if back := home.enter(); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

func (n *Namespace) enter() error { return unix.Setns(n.FD(), unix.CLONE_NEWNET) }

func (n *Namespace) valid() bool {
	kind, err := unix.IoctlRetInt(n.FD(), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// loopbackUp is `ip link set lo up`: netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
