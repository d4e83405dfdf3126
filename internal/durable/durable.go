// Package durable changes files so that neither a crash of the process nor of the
// machine leaves anything between the old state and the new.
//
// The argument, for one file: the new content is written to a temporary file in the
// same folder and fsynced, so that it is on disk before any name leads to it; rename(2)
// then swaps the name, which file systems do atomically; fsync of the folder makes the
// swap itself last. Whoever opens the name, at any moment and after any crash, finds the
// whole old content or the whole new one. A call that returned nil is not undone by a
// power cut. A call that returned an error has changed nothing under the name, with
// one exception: when only the last step, the fsync of the folder, failed, the new content
// is in place and might be lost again by a power cut.
//
// Temporary names end in ".wrenn-tmp". A writer that was killed leaves at most such a
// name behind; Sweep removes them.
package durable

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// suffix marks what is not in place yet, or not any more.
const suffix = ".wrenn-tmp"

// WriteFile makes data the content of path, with exactly the permissions perm. The
// folder must exist. At the same time others may read path; of several writers at the
// same time one wins whole.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(path, data, perm, true)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return Rename(temp, path)
}

// WriteJSON is WriteFile of v as indented JSON.
func WriteJSON(path string, v any, perm fs.FileMode) error {
	data, err := encode(path, v)
	if err != nil {
		return err
	}
	return WriteFile(path, data, perm)
}

// NoteJSON is WriteJSON of what only this boot of the machine needs: it outlives the process as that does, and waits for no disk. After a power cut the name
// may lead to nothing, to the old content, to the new, or to an empty file.
func NoteJSON(path string, v any, perm fs.FileMode) error {
	data, err := encode(path, v)
	if err != nil {
		return err
	}
	temp, err := writeTemp(path, data, perm, false)
	if err == nil {
		err = swap(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func encode(path string, v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", path, err)
	}
	return append(data, '\n'), nil
}

// maxJSON is the longest file that ReadJSON reads: some come from others, as the manifests of images do.
const maxJSON = 64 << 20

// ReadJSON decodes the file at path into v. Its error matches fs.ErrNotExist when there
// is no such file, and names the file when its content does not decode or is longer than 64 MiB.
func ReadJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err // names the operation and the path
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(data) > maxJSON {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxJSON)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// Rename moves oldPath to newPath in the same folder, replacing a file that is there,
// and makes that last. The content of oldPath must be synced already. When the rename
// itself fails, oldPath is removed: it was a temporary file that nobody will use.
func Rename(oldPath, newPath string) error {
	if err := swap(oldPath, newPath); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(newPath))
}

func swap(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return errors.Join(err, os.RemoveAll(oldPath))
	}
	return nil
}

// RemoveAll removes path and all below it, and makes that last. The name goes first and
// as a whole, so that no crash leaves half a tree under path (on a disk too full even for a
// rename it may). It succeeds when there is nothing. Nothing may be mounted below path.
func RemoveAll(path string) error {
	doomed := standIn(path)
	err := os.Rename(path, doomed)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.ENOSPC):
		doomed = path
	case err != nil:
		return err // names the operation and the path
	}
	if err := os.RemoveAll(doomed); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Temp returns a new, empty folder beside path, for building there what Rename then moves to path.
func Temp(path string) (string, error) {
	return os.MkdirTemp(filepath.Dir(path), Pattern(path))
}

// Symlink makes path a symbolic link to target, replacing a link or file that is there.
func Symlink(target, path string) error {
	temp := standIn(path)
	if err := os.Symlink(target, temp); err != nil {
		return err // names both
	}
	return Rename(temp, path)
}

// Sweep removes what killed writers left in dir itself, not below it. It must not run while
// anyone writes there: call it at the start. It succeeds when dir does not exist.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), suffix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return err
}

// SyncDir makes last which names dir holds.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeTemp returns the name of a synced temporary file beside path that holds data.
func writeTemp(path string, data []byte, perm fs.FileMode, sync bool) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), Pattern(path))
	if err != nil {
		return "", err
	}
	if err := errors.Join(fill(f, data, perm, sync), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func fill(f *os.File, data []byte, perm fs.FileMode, sync bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return f.Sync()
}

// Pattern is what os.CreateTemp and os.MkdirTemp make a name for path's stand-in from, which Sweep knows.
func Pattern(path string) string { return "." + filepath.Base(path) + ".*" + suffix }

// standIn returns a new name beside path.
func standIn(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()+suffix)
}
