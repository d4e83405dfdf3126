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
}

func filesOf(dir string) files {
	in := func(name string) string { return filepath.Join(dir, name) }
	return files{
		dir: dir, api: in("api.sock"), vsock: in("vsock.sock"),
		console: in("console.pipe"), log: in("log.pipe"), metrics: in("metrics.pipe"),
		words: in("vmm.log"),
	}
}

// prepare removes the sockets of an earlier run in the same folder: Firecracker removes them neither when it ends nor
// when it starts, and refuses to bind one that exists.
func (f files) prepare() error {
	for _, path := range []string{f.api, f.vsock} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}
