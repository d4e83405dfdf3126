package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxPath is PATH_MAX of limits.h.
const maxPath = 4096

// unpacker is one Unpack under way.
type unpacker struct {
	ctx     context.Context
	in      *tar.Reader
	root    int // the directory
	user    *user.User
	folders []folderTime
	// parent is the directory of the latest entry, and its name.
	parent     int
	parentName string
}

// folderTime is the time of a directory, which is set when all that belongs in it is there.
type folderTime struct {
	name string
	time time.Time
}

// Unpack makes the entries of a tar stream below dir, and returns how many. They belong to u and
// have the archive's modes and times; where something is already, a file or link is replaced, and a
// directory keeps what is in it.
//
// Whatever the archive says, nothing outside of dir is touched. A name that is absolute or
// has "..", or that leads through a symbolic link, is refused, be the link of the archive or
// not; so is a device. Links may lead anywhere: they are only made.
//
// A failure ends it: the entries before stay, of the failing one nothing is left. The error is an
// *Error, wraps ErrStream, or is the context's.
func Unpack(ctx context.Context, in io.Reader, dir string, u *user.User) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &Error{Entry: ".", Err: err}
	}
	p := unpacker{ctx: ctx, in: tar.NewReader(in), root: root, user: u, parent: -1}
	defer p.close()
	for count := 0; ; count++ {
		if err := ctx.Err(); err != nil {
			return count, err
		}
		h, err := p.in.Next()
		if errors.Is(err, io.EOF) {
			p.leave("")
			return count, nil
		}
		if err != nil {
			return count, fmt.Errorf("%w: %w", ErrStream, err)
		}
		if err := p.entry(h); err != nil {
			return count, wrap(h.Name, err)
		}
	}
}

func wrap(name string, err error) error {
	if errors.Is(err, ErrStream) {
		return fmt.Errorf("entry '%s': %w", name, err)
	}
	return &Error{Entry: name, Err: err}
}

func (p *unpacker) close() {
	if p.parent >= 0 {
		_ = unix.Close(p.parent)
	}
	_ = unix.Close(p.root)
}

// clean returns a name without "./" and the like, or an error if it could lead outside.
func clean(name string) (string, error) {
	switch {
	case name == "", strings.Contains(name, "\x00"):
		return "", refused("a name is missing or has a NUL byte")
	case len(name) >= maxPath:
		return "", refused("its name is longer than %d bytes", maxPath-1)
	case strings.HasPrefix(name, "/"):
		return "", refused("its name is absolute")
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return "", refused("its name has \"..\"")
		}
	}
	return path.Clean(name), nil
}

func (p *unpacker) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	p.leave(name)
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return refused("it would replace the directory that it is to be in")
		}
		return nil // the directory itself stays as it is
	}
	parent, err := p.open(path.Dir(name))
	if err != nil {
		return err
	}
	return p.make(h, parent, name)
}

// make makes an entry in its directory.
func (p *unpacker) make(h *tar.Header, parent int, name string) error {
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return p.file(h, parent, base)
	case tar.TypeDir:
		p.folders = append(p.folders, folderTime{name: name, time: h.ModTime})
		return p.directory(h, parent, base)
	case tar.TypeSymlink:
		return p.symlink(h, parent, base)
	case tar.TypeLink:
		return p.link(h, parent, name)
	case tar.TypeFifo:
		return p.fifo(h, parent, base)
	case tar.TypeChar, tar.TypeBlock:
		return refused("it is a device")
	}
	return refused("it has the unknown type %q", h.Typeflag)
}

// leave sets the times of the directories that name is not in. In an archive where a directory's content
// does not follow it at once, what comes later changes its time again.
func (p *unpacker) leave(name string) {
	for len(p.folders) > 0 {
		last := p.folders[len(p.folders)-1]
		if strings.HasPrefix(name, last.name+"/") {
			return
		}
		p.folders = p.folders[:len(p.folders)-1]
		if fd, err := p.beneath(last.name); err == nil { // otherwise it is gone again
			_ = setTime(fd, ".", last.time)
			_ = unix.Close(fd)
		}
	}
}

// open returns the directory that an entry is to be in, which it makes if it is missing.
func (p *unpacker) open(name string) (int, error) {
	if p.parent >= 0 && p.parentName == name {
		return p.parent, nil
	}
	fd, err := p.beneath(name)
	if errors.Is(err, unix.ENOENT) {
		fd, err = p.makeParents(name)
	}
	if err != nil {
		return 0, err
	}
	if p.parent >= 0 {
		_ = unix.Close(p.parent)
	}
	p.parent, p.parentName = fd, name
	return fd, nil
}

// beneath opens a directory that is below the root and not behind a symbolic link; the kernel
// sees to that (openat2(2)), whatever else changes the tree meanwhile.
func (p *unpacker) beneath(name string) (int, error) {
	fd, err := unix.Openat2(p.root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return 0, refused("its name leads through a symbolic link")
	}
	return fd, err
}

// makeParents makes a directory and the missing ones above it.
func (p *unpacker) makeParents(name string) (int, error) {
	above := p.root
	if parent := path.Dir(name); parent != "." {
		fd, err := p.beneath(parent)
		if errors.Is(err, unix.ENOENT) {
			fd, err = p.makeParents(parent)
		}
		if err != nil {
			return 0, err
		}
		defer func() { _ = unix.Close(fd) }()
		above = fd
	}
	base := path.Base(name)
	err := unix.Mkdirat(above, base, 0o755)
	if err == nil {
		err = p.give(above, base)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	return p.beneath(name)
}
