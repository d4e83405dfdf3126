package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// Import brings the image in srcDir (rootfs.ext4 and manifest.json, which may be links)
// into the store and makes it the template's current version. An image whose digest the
// store has already is not copied again. The image appears whole and synced, or not at all; a
// full disk is an Exhausted error, a manifest that does not fit its image an Invalid one.
func (s *Store) Import(ctx context.Context, srcDir string) (Template, error) {
	t, err := s.importImage(ctx, srcDir)
	if err != nil {
		return Template{}, fmt.Errorf("import template from %s: %w", srcDir, coded(err))
	}
	return t, nil
}

func (s *Store) importImage(ctx context.Context, srcDir string) (Template, error) {
	src, err := loadImage(srcDir)
	if err != nil {
		return Template{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.images(), src.Name)
	if err := s.makeFolder(dir); err != nil {
		return Template{}, err
	}
	place := filepath.Join(dir, src.folder())
	if have, err := loadImage(place); err != nil || have.Digest != src.Digest {
		if err := s.copyImage(ctx, src, place); err != nil {
			return Template{}, err
		}
	}
	if err := durable.Symlink(src.folder(), filepath.Join(dir, currentName)); err != nil {
		return Template{}, err
	}
	return loadImage(place)
}

func (s *Store) makeFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(durable.SyncDir(s.images()), durable.SyncDir(s.dir))
}

// copyImage puts a copy of src at place, in the stead of whatever lay there.
func (s *Store) copyImage(ctx context.Context, src Template, place string) error {
	temp, err := durable.Temp(place)
	if err != nil {
		return err
	}
	err = s.fillImage(ctx, src, temp)
	if err == nil {
		err = durable.RemoveAll(place)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return durable.Rename(temp, place)
}

func (s *Store) fillImage(ctx context.Context, src Template, dir string) error {
	rootfs := filepath.Join(dir, RootfsName)
	if _, err := s.copyFile(ctx, src.Rootfs, rootfs); err != nil {
		return err
	}
	if err := syncFile(rootfs); err != nil {
		return err
	}
	if err := os.Chmod(rootfs, 0o400); err != nil {
		return err
	}
	if err := durable.WriteJSON(filepath.Join(dir, ManifestName), src.Manifest, 0o400); err != nil {
		return err
	}
	_, err := loadImage(dir) // the size is checked again, on what was written
	return err
}

// syncFile writes a file out, and checks that its bytes really are on the disk: fsync(2).
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unix.Fsync(int(f.Fd()))
	return errors.Join(err, f.Close())
}
