// Package folder is an object store in a folder, for development and for a single host.
//
// Objects are files at the path of their key. They appear by rename, after fsync, and so are whole or not there, whoever is killed. Several
// processes may use the folder at the same time.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
)

// lockFile is held by whoever changes something, alone by whoever deletes, from the look at the clock to the end of the change. So a process that was
// stopped in between holds up all deletes: it may be late, but not later than they are. No key begins with a dot.
const lockFile = ".lock"

// Store is a folder of objects.
type Store struct{ dir string }

var _ object.Store = (*Store)(nil)

// Open makes dir where it is missing. What a killed writer left behind is a file whose name ends in .wrenn-tmp: nobody sees it as an object.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the object folder: %w", err)
	}
	return &Store{dir}, nil
}

// Put writes beside the place, syncs and renames.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := errors.Join(object.CheckKey(key), ctx.Err()); err != nil {
		return err
	}
	return s.locked(ctx, unix.LOCK_SH, func() error {
		if err := s.makeParent(key); err != nil {
			return coded(key, err)
		}
		return coded(key, durable.WriteFile(s.path(key), data, 0o600))
	})
}

// makeParent makes the folders above an object, each to last.
func (s *Store) makeParent(key string) error {
	var missing []string
	for dir := filepath.Dir(s.path(key)); dir != s.dir; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		missing = append(missing, dir)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(missing[i])); err != nil {
			return err
		}
	}
	return nil
}

// Get reads a file.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := errors.Join(object.CheckKey(key), ctx.Err()); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, coded(key, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if int64(len(data)) > limit {
		return nil, object.TooLong(key, limit)
	}
	return data, coded(key, err)
}

// Stat asks the file system, whose clock is the store's.
func (s *Store) Stat(ctx context.Context, key string) (object.Info, error) {
	if err := errors.Join(object.CheckKey(key), ctx.Err()); err != nil {
		return object.Info{}, err
	}
	info, err := os.Stat(s.path(key))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return object.Info{}, coded(key, err)
	}
	return object.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// List walks the folder; what is removed meanwhile is left out.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		root := filepath.Join(s.dir, filepath.FromSlash(prefix[:strings.LastIndex(prefix, "/")+1]))
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if errors.Is(err, fs.ErrNotExist) || err == nil && (e.IsDir() || strings.HasPrefix(e.Name(), ".")) {
				return nil
			}
			if err != nil {
				return err
			}
			return s.yieldFile(path, prefix, e, yield)
		})
		if err != nil && !errors.Is(err, fs.SkipAll) {
			yield(object.Info{}, coded(prefix, err))
		}
	}
}

func (s *Store) yieldFile(path, prefix string, e fs.DirEntry, yield func(object.Info, error) bool) error {
	key := filepath.ToSlash(strings.TrimPrefix(path, s.dir+string(filepath.Separator)))
	if !strings.HasPrefix(key, prefix) {
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !yield(object.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil) {
		return fs.SkipAll
	}
	return nil
}

// Delete unlinks.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := object.CheckKey(key); err != nil {
		return err
	}
	return s.locked(ctx, unix.LOCK_EX, func() error {
		err := os.Remove(s.path(key))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return coded(key, err)
		}
		return coded(key, durable.SyncDir(filepath.Dir(s.path(key))))
	})
}

// locked calls change while it holds the folder's lock, if there is time left.
func (s *Store) locked(ctx context.Context, how int, change func() error) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return coded(lockFile, err)
	}
	defer lock.Close() // and with it the lock is free
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(lock.Fd()), how)
	}
	if err != nil {
		return coded(lockFile, err)
	}
	if err := object.InTime(ctx); err != nil {
		return err
	}
	return change()
}

func (s *Store) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

func coded(key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return object.Missing(key, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return models.Errorf(models.Exhausted, "the object folder's disk is full").WithCause(err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("object %s: %w", key, err)
	}
	return models.Errorf(models.Unavailable, "the object folder failed").WithCause(fmt.Errorf("%s: %w", key, err))
}
