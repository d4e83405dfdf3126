package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Type is a kind of file, in the protocol's numbers.
type Type uint8

// The types. Unspecified are devices, FIFOs and sockets.
const (
	Unspecified Type = iota
	File
	Directory
	Symlink
)

// Entry describes a file as EntryInfo of filesystem.proto does.
type Entry struct {
	Name          string
	Type          Type
	Path          string
	Size          int64
	Mode          uint32
	Permissions   string
	Owner         string
	Group         string
	ModifiedTime  time.Time
	SymlinkTarget *string
	Metadata      map[string]string
}

// Stat describes what is at path, of a symbolic link the link. The error is an *Error.
func (s *Service) Stat(path string) (*Entry, error) {
	return s.describe(path, s.users.Names())
}

func (s *Service) describe(path string, names *user.Names) (*Entry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, entryError(path, err)
	}
	return newEntry(path, info, names), nil
}

func entryError(path string, err error) *Error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return &Error{Kind: NotFound, Text: "file not found: " + path, Err: err}
	}
	return kernelError("error getting file info of "+path, err)
}

func newEntry(path string, info os.FileInfo, names *user.Names) *Entry {
	stat := info.Sys().(*syscall.Stat_t) // always, on Linux
	e := &Entry{
		Name: filepath.Base(path), Path: path, Size: info.Size(), ModifiedTime: info.ModTime(),
		Type: typeOf(info.Mode()), Mode: stat.Mode & modeBits, Permissions: permissions(stat.Mode),
		Owner: names.User(stat.Uid), Group: names.Group(stat.Gid),
		Metadata: ReadMetadata(path),
	}
	if e.Type == Symlink {
		e.resolve()
	}
	return e
}

// resolve says of a link where it leads, and of which type and mode that is. One that leads
// nowhere stays a link, and its target is what is written in it.
func (e *Entry) resolve() {
	e.Mode = 0
	target, err := filepath.EvalSymlinks(e.Path)
	if err != nil {
		target, _ = os.Readlink(e.Path) // empty when the link is gone
		e.SymlinkTarget = &target
		return
	}
	e.SymlinkTarget = &target
	if info, err := os.Stat(target); err == nil {
		e.Type, e.Mode = typeOf(info.Mode()), info.Sys().(*syscall.Stat_t).Mode&modeBits
	}
}

func typeOf(mode os.FileMode) Type {
	switch {
	case mode.IsRegular():
		return File
	case mode.IsDir():
		return Directory
	case mode&os.ModeSymlink != 0:
		return Symlink
	}
	return Unspecified
}

// modeBits are what chmod(2) changes.
const modeBits = 0o7777

// fileTypes are the letters of ls(1) for the types of inode(7).
var fileTypes = map[uint32]byte{
	syscall.S_IFREG: '-', syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFCHR: 'c',
	syscall.S_IFBLK: 'b', syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's',
}

// permissions prints a mode as "ls -l" does.
func permissions(mode uint32) string {
	text := append([]byte{fileTypes[mode&syscall.S_IFMT]}, "rwxrwxrwx"...)
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[i+1] = '-'
		}
	}
	for _, special := range []struct {
		bit   uint32
		index int
		char  byte
	}{{syscall.S_ISUID, 3, 's'}, {syscall.S_ISGID, 6, 's'}, {syscall.S_ISVTX, 9, 't'}} {
		if mode&special.bit == 0 {
			continue
		}
		if text[special.index] == '-' {
			special.char -= 'a' - 'A' // without execution
		}
		text[special.index] = special.char
	}
	return string(text)
}

// size is about how much memory the entry's text takes.
func (e *Entry) size() int {
	n := len(e.Name) + len(e.Path)
	if e.SymlinkTarget != nil {
		n += len(*e.SymlinkTarget)
	}
	for key, value := range e.Metadata {
		n += len(key) + len(value)
	}
	return n
}
