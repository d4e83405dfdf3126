package files

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxName is NAME_MAX of limits.h; longer ones fail in the kernel anyway.
const maxName = 255

// maxLinks is how many symbolic links are followed, as in the kernel (path_resolution(7)).
const maxLinks = 40

// absolute returns the path that text means for u, which may not be empty.
func absolute(text string, u *user.User) (string, *apierror.Error) {
	if text == "" {
		return "", apierror.New(http.StatusBadRequest, "a path is required")
	}
	path, err := filesystem.Resolve(text, u, "")
	if err != nil {
		return "", apierror.New(http.StatusBadRequest, "%v", err)
	}
	return path, nil
}

// pathError describes the failure of an operation on path to the caller.
func pathError(path string, err error) *apierror.Error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return apierror.New(http.StatusNotFound, "path '%s' does not exist", path)
	case errors.Is(err, syscall.ENOTDIR):
		return apierror.New(http.StatusBadRequest, "path '%s' leads through a file that is not a directory", path)
	case errors.Is(err, syscall.ELOOP):
		return apierror.New(http.StatusBadRequest, "path '%s' has too many symbolic links", path)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return apierror.New(http.StatusBadRequest, "path '%s' is too long", path)
	case errors.Is(err, syscall.EISDIR):
		return directoryError(path)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return apierror.New(http.StatusInsufficientStorage, "not enough disk space available")
	case errors.Is(err, syscall.EFBIG):
		return apierror.New(http.StatusInsufficientStorage, "the file is too large for the file system")
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ETXTBSY):
		return apierror.New(http.StatusForbidden, "path '%s': %s", path, errnoText(err))
	}
	return apierror.New(http.StatusInternalServerError, "path '%s': %s", path, errnoText(err))
}

// errnoText is the kernel's part of an error, without internal paths and operations.
func errnoText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func directoryError(path string) *apierror.Error {
	return apierror.New(http.StatusBadRequest, "path '%s' is a directory", path)
}

func irregularError(path string) *apierror.Error {
	return apierror.New(http.StatusBadRequest, "path '%s' is not a regular file", path)
}

// followLinks returns the path that a write to path ends at: symbolic links in its last
// element are followed, also one that leads nowhere yet.
func followLinks(path string) (string, error) {
	for range maxLinks {
		target, err := os.Readlink(path)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, os.ErrNotExist) {
			return path, nil // no link, or nothing there
		}
		if err != nil {
			return "", err
		}
		if path, err = join(filepath.Dir(path), target); err != nil {
			return "", err
		}
	}
	return "", &os.PathError{Op: "readlink", Path: path, Err: syscall.ELOOP}
}

// join returns what the link target means in the folder dir. Links in its folders are resolved
// first, since ".." means the parent of where they lead.
func join(dir, target string) (string, error) {
	if !filepath.IsAbs(target) {
		target = dir + "/" + target
	}
	folder, name := filepath.Split(target)
	if name == "" || name == "." || name == ".." {
		return filepath.EvalSymlinks(target)
	}
	resolved, err := filepath.EvalSymlinks(folder)
	if errors.Is(err, os.ErrNotExist) {
		return filepath.Clean(target), nil
	}
	return filepath.Join(resolved, name), err
}
