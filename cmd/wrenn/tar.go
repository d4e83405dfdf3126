package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// packed is what is in a folder as a tar archive, made while it is read. Links are packed as links. Close ends the
// packing. What cannot be packed is told to leftOut.
func packed(folder string, leftOut func(name string)) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(folder, name)
			if err != nil || rel == "." && !d.IsDir() {
				return err
			}
			return pack(tw, name, rel, d, leftOut)
		})
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(localError(err))
	}()
	return r
}

func pack(tw *tar.Writer, name, rel string, d fs.DirEntry, leftOut func(string)) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		leftOut(name)
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	header.Name = filepath.ToSlash(rel)
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", "" // the guest has users of its own
	if !info.Mode().IsRegular() {
		return tw.WriteHeader(header)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.CopyN(tw, f, header.Size); errors.Is(err, io.EOF) {
		return models.Errorf(models.Conflict, "%s became shorter while it was read", name)
	} else if err != nil {
		return err
	}
	return nil
}

// packedSize is about how long an archive of a folder is; -1 where the folder cannot be read.
func packedSize(folder string) (size int64) {
	err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		const block = 512 // of tar(5)
		size += block
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += (info.Size() + block - 1) / block * block
		}
		return nil
	})
	if err != nil {
		return -1
	}
	return size
}

// unpack unpacks an archive into root. The archive is not trusted: nothing of it lands outside, no file gets more
// than ordinary permissions, and devices are left out. A file appears whole or not at all.
func unpack(r io.Reader, root *os.Root, leftOut func(name string)) error {
	closed := map[string]os.FileMode{} // folders whose own permissions would keep us out until the end
	for tr := tar.NewReader(r); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return restrict(root, closed)
		}
		if err != nil {
			return err
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(name) {
			return models.Errorf(models.Invalid, "the archive wants to write outside of the folder: %q", header.Name)
		}
		if err := unpackEntry(tr, header, name, root, closed, leftOut); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
}

// restrict gives folders their own permissions, what is deeper first: its name is longer.
func restrict(root *os.Root, closed map[string]os.FileMode) error {
	names := slices.SortedFunc(maps.Keys(closed), func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		if err := root.Chmod(name, closed[name]); err != nil {
			return err
		}
	}
	return nil
}

func unpackEntry(r io.Reader, header *tar.Header, name string, root *os.Root, closed map[string]os.FileMode, leftOut func(string)) error {
	mode := os.FileMode(header.Mode) & os.ModePerm
	if header.Typeflag != tar.TypeDir {
		if err := root.MkdirAll(path.Dir(name), 0o777); err != nil { // less the umask
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		const ours = 0o700
		if mode&ours != ours {
			closed[name] = mode
		}
		return root.MkdirAll(name, mode|ours)
	case tar.TypeReg:
		return unpackFile(r, name, root, mode)
	case tar.TypeSymlink:
		return replaced(root, name, func(tmp string) error { return root.Symlink(header.Linkname, tmp) })
	case tar.TypeLink:
		target := path.Clean(header.Linkname)
		return replaced(root, name, func(tmp string) error { return root.Link(target, tmp) })
	}
	leftOut(name)
	return nil
}

func unpackFile(r io.Reader, name string, root *os.Root, mode os.FileMode) error {
	return replaced(root, name, func(tmp string) error {
		f, err := root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	})
}

// replaced makes something under a name beside the right one and then moves it there.
func replaced(root *os.Root, name string, put func(tmp string) error) error {
	tmp := fmt.Sprintf("%s.wrenn-%d", name, os.Getpid())
	err := put(tmp)
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // err says more
	}
	return err
}
