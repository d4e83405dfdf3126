package firecracker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// files are the paths that a VM uses in its folder.
type files struct {
	dir, console, log, metrics string
	words                      string // where the log is kept
	root                       string // a link to what Firecracker sees as its root, or, without a jail, to dir
	disk                       string // without a jail, a link to the disk
	base                       string // a copy of the memory as it was when it was last written to a file, and
	end                        string // how the pager ended
	tracked                    string // the link to it, or to the snapshot's, that is there while what changed since is known
}

// Names in root: of the sockets, which Firecracker makes, and of the link to the disk.
const (
	apiSocket   = "api.sock"
	vsockSocket = "vsock.sock"
	pagerSocket = "pager.sock"
	diskLink    = "rootfs"
)

func filesOf(dir string) files {
	in := func(name string) string { return filepath.Join(dir, name) }
	return files{
		dir: dir, root: in("root"), words: in("vmm.log"),
		console: in("console.pipe"), log: in("log.pipe"), metrics: in("metrics.pipe"),
		disk: in(diskLink), base: in("memory.base"), tracked: in("memory.tracked"), end: in("pager.end"),
	}
}

// jailFolder holds the jail, in a VM's folder.
const jailFolder = "jail"

// prepare makes jailRoot, if it is not empty, and leads root there; without it, it links the disk. It removes what an earlier run in the same folder left: the jailer refuses a jail
// that was used, and Firecracker removes its sockets neither when it ends nor when it starts.
func (f files) prepare(jailRoot, disk string) error {
	in := func(name string) string { return filepath.Join(f.dir, name) }
	for _, path := range []string{in(jailFolder), f.root, in(apiSocket), in(vsockSocket), in(pagerSocket), f.disk, f.base, f.tracked, f.end} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	if jailRoot == "" {
		return errors.Join(os.Symlink(".", f.root), os.Symlink(disk, f.disk))
	}
	if err := os.MkdirAll(jailRoot, 0o700); err != nil {
		return fmt.Errorf("make the jail: %w", err)
	}
	target, err := filepath.Rel(f.dir, jailRoot)
	if err != nil {
		return err
	}
	return os.Symlink(target, f.root)
}
