package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// files are the paths that a VM uses in its folder. Their names have at most 12 bytes: with a folder of 80 bytes they fit a
// unix socket's 107.
type files struct {
	dir, api, vsock, console, log, metrics string
	words                                  string // where the log is kept
	disk                                   string // a link to the disk
	base                                   string // a copy of the memory as it was when it was last written to a file, and
	tracked                                string // the link to it, or to the snapshot's, that is there while what changed since is known
}

func filesOf(dir string) files {
	in := func(name string) string { return filepath.Join(dir, name) }
	return files{
		dir: dir, api: in("api.sock"), vsock: in("vsock.sock"),
		console: in("console.pipe"), log: in("log.pipe"), metrics: in("metrics.pipe"),
		words: in("vmm.log"), disk: in("rootfs"), base: in("memory.base"), tracked: in("memory.tracked"),
	}
}

// prepare removes what an earlier run left in the same folder, such as sockets: Firecracker removes them neither when it ends
// nor when it starts, and refuses to bind one that exists. It links the disk.
func (f files) prepare(disk string) error {
	for _, path := range []string{f.api, f.vsock, f.disk, f.base, f.tracked} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return os.Symlink(disk, f.disk)
}

// inside is the path by which Firecracker, whose working directory is the VM's folder, is told of a file in it. Such paths become part
// of snapshots, and mean the files of each VM's own folder when it is restored.
func inside(path string) string { return filepath.Base(path) }
