package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// MakeDir makes the directory at path and its missing parents, which then belong to u. The error
// is an *Error, of kind Exists when there is a directory.
func (s *Service) MakeDir(path string, u *user.User) (*Entry, error) {
	info, err := os.Stat(path)
	if err == nil {
		if info.IsDir() {
			return nil, errorf(Exists, "directory already exists: %s", path)
		}
		return nil, errorf(Invalid, "path already exists but it is not a directory: %s", path)
	}
	if err := MakeFolders(path, u); err != nil {
		return nil, kernelError("error creating directory "+path, err)
	}
	return s.Stat(path)
}

// Move gives what is at source the name destination, replacing a file there; missing parents of the
// destination are made and belong to u. The error is an *Error.
func (s *Service) Move(source, destination string, u *user.User) (*Entry, error) {
	if _, err := os.Lstat(source); err != nil {
		if kindOf(err) == NotFound {
			return nil, errorf(NotFound, "source file not found: %s", source)
		}
		return nil, kernelError("error renaming "+source, err)
	}
	if strings.HasPrefix(destination, source+"/") {
		return nil, errorf(Invalid, "error renaming: %s is inside of %s", destination, source)
	}
	if err := MakeFolders(filepath.Dir(destination), u); err != nil {
		return nil, kernelError("error creating directory "+filepath.Dir(destination), err)
	}
	if err := os.Rename(source, destination); err != nil {
		if kindOf(err) == NotFound {
			return nil, errorf(NotFound, "source file not found: %s", source)
		}
		return nil, kernelError("error renaming "+source+" to "+destination, err)
	}
	return s.Stat(destination)
}

// Remove removes what is at path, a directory with all in it and a link without what it leads to. It is
// no error that there is nothing. What fails ends it, and part may be gone by then. The error
// is an *Error.
func (s *Service) Remove(path string) error {
	if path == "/" {
		return errorf(Invalid, "the root directory cannot be removed")
	}
	if err := os.RemoveAll(path); err != nil {
		var at *os.PathError
		if errors.As(err, &at) {
			path = at.Path
		}
		return kernelError("error removing "+path, err)
	}
	return nil
}
