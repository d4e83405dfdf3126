package files

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// folderMode and fileMode are those of what uploads create.
const folderMode, fileMode = 0o755, 0o644

// makeFolders makes dir and its missing parents; those that it makes belong to u.
func makeFolders(dir string, u *user.User) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) || dir == "/" {
		return err
	}
	if err := makeFolders(filepath.Dir(dir), u); err != nil {
		return err
	}
	if err := os.Mkdir(dir, folderMode); err != nil {
		if errors.Is(err, os.ErrExist) { // made meanwhile, or a link that leads nowhere
			return statFolder(dir)
		}
		return err
	}
	return give(dir, u)
}

// statFolder says why dir, which exists, is no folder.
func statFolder(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	return err
}

// give makes path u's. Where envd is not root, as it may be in development, it is already.
func give(path string, u *user.User) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(u.UID), int(u.GID))
}
