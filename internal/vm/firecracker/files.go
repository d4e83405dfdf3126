package firecracker

import (
	"fmt"
	"os"
	"path/filepath"
)

// files are the paths that a VM uses in its folder.
type files struct {
	dir, console, log, metrics string
	words                      string // where the log is kept
	root                       string // a link to what Firecracker sees as its root, or, without a jail, to dir
}

// Names of the sockets in root, which Firecracker makes.
const (
	apiSocket   = "api.sock"
	vsockSocket = "vsock.sock"
)

func filesOf(dir string) files {
	in := func(name string) string { return filepath.Join(dir, name) }
	return files{
		dir: dir, root: in("root"), words: in("vmm.log"),
		console: in("console.pipe"), log: in("log.pipe"), metrics: in("metrics.pipe"),
	}
}

// jailFolder holds the jail, in a VM's folder.
const jailFolder = "jail"

// prepare makes jailRoot, if it is not empty, and leads root there. It removes what an earlier run in the same folder left: the jailer refuses a jail
// that was used, and Firecracker removes its sockets neither when it ends nor when it starts.
func (f files) prepare(jailRoot string) error {
	for _, path := range []string{jailFolder, "root", apiSocket, vsockSocket} {
		if err := os.RemoveAll(filepath.Join(f.dir, path)); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	if jailRoot == "" {
		return os.Symlink(".", f.root)
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
