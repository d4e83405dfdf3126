package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// temporaryPrefix begins the names of files that are being uploaded. One is left behind only
// when the guest dies in the middle of an upload.
const temporaryPrefix = ".wrenn-upload-"

// buffers hold what an upload has read and not yet written.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// errBody wraps the failure to read what is to be written, as opposed to writing it.
var errBody = errors.New("read the request body")

// write makes the file at path hold what body delivers, all or nothing: the bytes go to a temporary
// file in the same folder, which then takes the name. The file belongs to u; it keeps the mode
// of the file it replaces. Missing folders are made and belong to u too.
//
// The data is not fsynced: a crash of the guest may lose it, like any file that a program in the
// guest writes. Pausing and hibernating sync the whole guest.
func write(path string, u *user.User, body io.Reader) *apierror.Error {
	target, mode, failure := destination(path, u)
	if failure != nil {
		return failure
	}
	temp, err := createTemporary(filepath.Dir(target))
	if err != nil {
		return pathError(path, err)
	}
	if err := fill(temp, body, mode, u); err != nil {
		_ = os.Remove(temp.Name())
		return uploadError(path, err)
	}
	if err := os.Rename(temp.Name(), target); err != nil {
		_ = os.Remove(temp.Name())
		return pathError(path, err)
	}
	return nil
}

// destination finds out which file a write to path replaces and which mode it gets.
func destination(path string, u *user.User) (string, os.FileMode, *apierror.Error) {
	if len(filepath.Base(path)) > maxName {
		return "", 0, pathError(path, syscall.ENAMETOOLONG)
	}
	target, err := followLinks(path)
	if err != nil {
		return "", 0, pathError(path, err)
	}
	if err := makeFolders(filepath.Dir(target), u); err != nil {
		return "", 0, pathError(path, err)
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return target, fileMode, nil
	case err != nil:
		return "", 0, pathError(path, err)
	case info.IsDir():
		return "", 0, directoryError(path)
	case !info.Mode().IsRegular():
		return "", 0, irregularError(path)
	}
	return target, info.Mode().Perm(), nil
}

// createTemporary makes a file of which nobody else knows the name, readable by nobody else yet.
func createTemporary(dir string) (*os.File, error) {
	name := filepath.Join(dir, temporaryPrefix+rand.Text())
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// fill writes, gives away and closes the file.
func fill(file *os.File, body io.Reader, mode os.FileMode, u *user.User) error {
	err := copyBody(file, body)
	if err == nil && os.Geteuid() == 0 {
		err = file.Chown(int(u.UID), int(u.GID))
	}
	if err == nil {
		err = file.Chmod(mode) // after Chown, which clears some bits
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// copyBody copies and tells errors of the body from those of the file.
func copyBody(file *os.File, body io.Reader) error {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, readErr := body.Read(buf[:])
		if n > 0 {
			if _, err := file.Write(buf[:n]); err != nil {
				return err
			}
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return fmt.Errorf("%w: %w", errBody, readErr)
		}
	}
}

func uploadError(path string, err error) *apierror.Error {
	if errors.Is(err, errBody) {
		return apierror.New(http.StatusBadRequest, "the upload of '%s' broke off: %v", path, err)
	}
	return pathError(path, err)
}
