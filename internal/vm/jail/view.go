package jail

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Own is the folder of a view that holds the files of one process: what its Confinement binds.
const Own = "/vm"

// View is a file system that processes are shown in place of the host's: the files that they need to run, read-only, and
// nothing else. With it comes a network namespace without any interface that is up. It is made once for many processes,
// exists in namespaces only, and is gone when nobody holds it any more; nothing of it can be seen or is left on the host.
type View struct {
	mounts, network *os.File
	root            *os.File // which need not be the root of mounts: this program may have been started by chroot(1), or from an initramfs
}

// Device is a character device of a view, which every process that sees it may open.
type Device struct {
	Path         string
	Major, Minor uint32
}

// Contents are what a view shows.
type Contents struct {
	Files   []Bind // files and folders of the host
	Devices []Device
	// Self shows each process its own folder of proc(5), as /proc/self: a descriptor that it was given can be opened anew there. It sees no other process, and nothing
	// else of the kernel's.
	Self bool
}

// NewView makes a view. It needs root.
func NewView(c Contents) (*View, error) {
	all, err := detachAll(above(c.Files))
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	v := &View{}
	if err := OnOwnThread(func() error { return v.make(all, c) }); err != nil {
		v.Close()
		return nil, fmt.Errorf("make a view: %w", err)
	}
	return v, nil
}

// Close lets go of the view. Processes that have it keep it.
func (v *View) Close() {
	for _, f := range []*os.File{v.mounts, v.network, v.root} {
		if f != nil {
			f.Close()
		}
	}
}

// scaffold is where a view is built before it becomes the root: any folder that every Linux has, as this happens in a
// namespace that nobody else sees.
const scaffold = "/dev"

func (v *View) make(files []detached, c Contents) (err error) {
	if err := ownMounts(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if v.mounts, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
		return err
	}
	if v.network, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if err := tmpfs(scaffold); err != nil {
		return err
	}
	if err := fill(scaffold, files, c); err != nil {
		return err
	}
	if err := enterRoot(scaffold); err != nil {
		return err
	}
	if v.root, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	return readOnly("/")
}

func fill(root string, files []detached, c Contents) error {
	for _, f := range files {
		if err := f.attach(root); err != nil {
			return err
		}
	}
	for _, dir := range []string{Own, "/dev"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	for _, d := range c.Devices {
		if err := d.make(root); err != nil {
			return fmt.Errorf("make the device %s: %w", d.Path, err)
		}
	}
	if c.Self {
		return ownProcesses(root + "/proc")
	}
	return nil
}

func (d Device) make(root string) error {
	if err := unix.Mknod(root+d.Path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return err
	}
	return os.Chmod(root+d.Path, 0o666) // whatever the umask
}

// enterRoot makes dir, which is a mount, the root of this thread's namespace, and leaves nothing of the old one: pivot_root(2),
// "pivot_root(".", ".")".
func enterRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// enter moves this thread into the view, with a copy of its mounts in which own is mounted on Own.
func (v *View) enter(own []detached) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns(2) asks for it
		return fmt.Errorf("leave the common root: %w", err)
	}
	if err := unix.Setns(int(v.network.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the view's network: %w", err)
	}
	if err := unix.Setns(int(v.mounts.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the view: %w", err)
	}
	if err := errors.Join(unix.Fchdir(int(v.root.Fd())), unix.Chroot(".")); err != nil {
		return fmt.Errorf("enter the root of the view: %w", err)
	}
	if err := ownMounts(); err != nil {
		return err
	}
	if err := tmpfs(Own); err != nil {
		return err
	}
	for _, b := range own {
		if err := b.attach("/"); err != nil {
			return err
		}
	}
	return readOnly(Own)
}
