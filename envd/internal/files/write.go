package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/direct"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// buffers hold what an upload has read and not yet written.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// errBody wraps the failure to read what is to be written, as opposed to writing it.
var errBody = errors.New("read the request body")

// fileMode is that of files that did not exist.
const fileMode = 0o644

// content is what a file is to hold.
type content struct {
	// fill writes it. Its error wraps errBody if it is not the file's.
	fill func(file *os.File) error
	attributes
}

// attributes are what a file gets beside its bytes.
type attributes struct {
	metadata map[string]string
	mode     *os.FileMode // nil: that of the file it replaces, else fileMode
}

// uploaded is the content that body delivers.
func (h *Handler) uploaded(body io.Reader, a attributes) content {
	return content{fill: func(file *os.File) error { return h.fill(file, requested{body}) }, attributes: a}
}

// requested is a body whose errors tell that they are not the file's.
type requested struct{ body io.Reader }

// Read implements io.Reader.
func (r requested) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped one is a fault of the body
		err = fmt.Errorf("%w: %w", errBody, err)
	}
	return n, err
}

// write makes the file at path hold c, all or nothing: the bytes go to a temporary file in the
// same folder, which then takes the name. The file belongs to u; unless c has a mode, it keeps that of the
// file it replaces, and nothing else of it. Missing folders are made and belong to u too.
//
// The data is not fsynced: a crash of the guest may lose it, like any file that a program in the
// guest writes. Pausing and hibernating sync the whole guest.
func write(path string, u *user.User, c content) *apierror.Error {
	to, failure := findDestination(path, u)
	if failure != nil {
		return failure
	}
	temp, err := to.create()
	if err != nil {
		return pathError(path, err)
	}
	if c.mode != nil {
		to.mode = *c.mode
	}
	err = complete(temp, c, to.mode, u)
	if err == nil {
		err = os.Rename(temp.Name(), to.path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return uploadError(path, err)
	}
	return nil
}

// destination is the file that a write makes or replaces. Its temporary file is left behind only
// when the guest dies in the middle.
type destination struct {
	path   string
	mode   os.FileMode
	prefix string // of the temporary file's name
}

// findDestination finds out which file a write to path replaces and which mode it gets.
func findDestination(path string, u *user.User) (*destination, *apierror.Error) {
	if len(filepath.Base(path)) > maxName {
		return nil, pathError(path, syscall.ENAMETOOLONG)
	}
	target, err := followLinks(path)
	if err != nil {
		return nil, pathError(path, err)
	}
	if err := filesystem.MakeFolders(filepath.Dir(target), u); err != nil {
		return nil, pathError(path, err)
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &destination{path: target, mode: fileMode, prefix: filesystem.TemporaryNew}, nil
	case err != nil:
		return nil, pathError(path, err)
	case info.IsDir():
		return nil, directoryError(path)
	case !info.Mode().IsRegular():
		return nil, irregularError(path)
	}
	return &destination{path: target, mode: info.Mode().Perm(), prefix: filesystem.TemporaryReplacement}, nil
}

// create makes a file of which nobody else knows the name, readable by nobody else yet.
func (d *destination) create() (*os.File, error) {
	name := filepath.Join(filepath.Dir(d.path), d.prefix+rand.Text())
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// complete writes, gives away and closes the file.
func complete(file *os.File, c content, mode os.FileMode, u *user.User) error {
	err := c.fill(file)
	if err == nil {
		err = filesystem.WriteMetadata(file, c.metadata)
	}
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

// fill writes what body gives. It writes full buffers, so that a file's page is written once, and what follows
// direct.Worth bytes past the page cache where that is wanted.
func (h *Handler) fill(file *os.File, body io.Reader) error {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	for written := 0; !h.direct || written < direct.Worth; {
		n, err := direct.Fill(buf[:], body)
		if _, writeErr := file.Write(buf[:n]); writeErr != nil {
			return writeErr
		}
		written += n
		switch {
		case err == io.EOF: //nolint:errorlint // not errors.Is: see direct.Fill
			return nil
		case err != nil:
			return err
		}
	}
	return direct.Write(file, body)
}

func uploadError(path string, err error) *apierror.Error {
	if errors.Is(err, errBody) {
		return apierror.New(http.StatusBadRequest, "the upload of '%s' broke off: %v", path, err)
	}
	return pathError(path, err)
}
