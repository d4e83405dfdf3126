package filesystem

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// A list is held in memory, twice while it is encoded. More entries than maxEntries, or entries with
// more text than maxText bytes, are refused and not cut: a part of a list looks like all of it.
const (
	maxEntries = 50_000
	maxText    = 16 << 20
)

// readAtOnce is how many names of a directory are asked for at a time.
const readAtOnce = 1024

// List describes what is in the directory at path, and below it to depth levels, of which 0 means 1: each
// directory is followed by what is in it, by name. A link at path is followed, others are not.
// The error is an *Error, or the context's.
func (s *Service) List(ctx context.Context, path string, depth uint32) ([]*Entry, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, listError(path, err)
	}
	info, err := os.Stat(resolved)
	switch {
	case err != nil:
		return nil, listError(path, err)
	case !info.IsDir():
		return nil, errorf(Invalid, "path is not a directory: %s", path)
	}
	l := lister{ctx: ctx, root: path, names: s.users.Names()}
	if err := l.walk(resolved, path, max(depth, 1)); err != nil {
		return nil, err
	}
	return l.entries, nil
}

func listError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return errorf(NotFound, "path not found: %s", path)
	case errors.Is(err, syscall.ELOOP), err.Error() == "EvalSymlinks: too many links":
		return errorf(Precondition, "cyclic symlink or chain >255 links at %q", path)
	}
	return kernelError("error reading directory "+path, err)
}

// lister is one List under way.
type lister struct {
	ctx     context.Context
	root    string
	names   *user.Names
	entries []*Entry
	text    int
}

// walk lists the directory at path, which callers know as shown.
func (l *lister) walk(path, shown string, depth uint32) error {
	names, err := l.read(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if err := l.add(filepath.Join(path, name), filepath.Join(shown, name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) add(path, shown string, depth uint32) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return entryError(path, err)
	}
	e := newEntry(path, info, l.names)
	e.Path = shown
	if l.text += e.size(); len(l.entries) == maxEntries || l.text > maxText {
		return l.tooMany()
	}
	l.entries = append(l.entries, e)
	if !info.IsDir() || depth == 1 {
		return nil
	}
	return l.walk(path, shown, depth-1)
}

func (l *lister) tooMany() error {
	return errorf(Exhausted, "%s holds more than %d entries, or names of more than %d MiB: list fewer levels, or its directories one by one",
		l.root, maxEntries, maxText>>20)
}

// read returns the names in a directory, in order.
func (l *lister) read(path string) ([]string, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, nil // gone, or something else by now
	}
	if err != nil {
		return nil, listError(path, err)
	}
	defer func() { _ = dir.Close() }()
	var names []string
	for {
		batch, err := dir.Readdirnames(readAtOnce)
		names = append(names, batch...)
		switch {
		case errors.Is(err, io.EOF):
			slices.Sort(names)
			return names, nil
		case err != nil:
			return nil, listError(path, err)
		case len(names)+len(l.entries) > maxEntries:
			return nil, l.tooMany()
		}
	}
}
