package filesystem

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// folderMode is that of the folders that are made.
const folderMode = 0o755

// MakeFolders makes dir and its missing parents; those that it makes belong to u.
func MakeFolders(dir string, u *user.User) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return notDirectory(dir)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) || dir == "/" {
		return err
	}
	if err := MakeFolders(filepath.Dir(dir), u); err != nil {
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
		err = notDirectory(dir)
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
