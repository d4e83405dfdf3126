package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
)

// maxState bounds a state, which has some 50 KiB.
const maxState = 16 << 20

// createInJail is create for a Firecracker that sees no file but its jail's. It writes to files of its own, which are copied to those of to: it may keep
// them open, and must not be able to change a snapshot that is finished.
func (v *VM) createInJail(ctx context.Context, kind api.SnapshotType, to vm.Files) (err error) {
	root, err := os.OpenRoot(v.files.root)
	if err != nil {
		return err
	}
	defer root.Close()
	state, err := v.sheet(root, writtenState)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.tear()) }()
	memory, err := v.sheet(root, writtenMemory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.tear()) }()
	if err := memory.load(ctx, to.Memory); err != nil {
		return err
	}
	if err := v.api.CreateSnapshot(ctx, api.SnapshotCreate{SnapshotType: kind, SnapshotPath: writtenState, MemFilePath: writtenMemory}); err != nil {
		return err
	}
	if size := int64(v.saved.Machine.MemoryMiB) << 20; memory.size() != size || state.size() > maxState {
		return fmt.Errorf("firecracker wrote %d bytes of memory, not %d, and %d of state", memory.size(), size, state.size())
	}
	return errors.Join(state.save(ctx, to.State), memory.save(ctx, to.Memory))
}

// sheet is a file in a jail that Firecracker writes to. The agent reads what it made itself, whatever has come in its place meanwhile.
type sheet struct {
	*os.File
	root *os.Root
	name string
}

// sheet makes a file of the VM's user. What an earlier agent may have left is removed.
func (v *VM) sheet(root *os.Root, inJail string) (sheet, error) {
	name := strings.TrimPrefix(inJail, "/")
	if err := root.RemoveAll(name); err != nil {
		return sheet{}, fmt.Errorf("make %s in the jail: %w", name, err)
	}
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return sheet{}, fmt.Errorf("make %s in the jail: %w", name, err)
	}
	s := sheet{f, root, name}
	if err := f.Chown(int(v.saved.Owner), int(v.saved.Owner)); err != nil {
		return sheet{}, fmt.Errorf("make %s in the jail: %w", name, errors.Join(err, s.tear()))
	}
	return s, nil
}

// tear removes the file.
func (s sheet) tear() error { return errors.Join(s.root.RemoveAll(s.name), s.Close()) }

func (s sheet) size() int64 {
	info, err := s.Stat()
	if err != nil {
		return -1
	}
	return info.Size()
}

// load gives the empty file the content of the one at path.
func (s sheet) load(ctx context.Context, path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = clone.Into(ctx, from, s.File)
	return err
}

// save gives the file at path the content of this one.
func (s sheet) save(ctx context.Context, path string) error {
	to, err := os.OpenFile(path, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = clone.Into(ctx, s.File, to)
	return errors.Join(err, to.Close())
}
