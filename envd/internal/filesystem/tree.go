package filesystem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxWatches is how many directories one watch covers. Each takes 1 KiB of the kernel's memory, and
// keeps the directory in its cache.
const maxWatches = 16_384

// maxMoves is how many files that get their real name are remembered between the two halves of it.
const maxMoves = 64

// watchMask is what the kernel tells of every directory.
const watchMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_MOVED_FROM |
	unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// tree is the directories that one inotify instance watches. Names are relative to the root, which is ".".
type tree struct {
	fd     int
	root   string
	byWD   map[int32]string
	byName map[string]int32
	// found are the names that a scan has reported and of whose creation the kernel may tell as well.
	found map[string]bool
	// moves are the kinds of temporary names that have gone, by the cookie of their move.
	moves map[uint32]string
}

// notice is an inotify_event of inotify(7).
type notice struct {
	wd     int32
	mask   uint32
	cookie uint32
	dir    string // what wd watches
	name   string // in dir; empty for dir itself
}

func newTree(fd int, root string) tree {
	return tree{
		fd: fd, root: root, byWD: map[int32]string{}, byName: map[string]int32{},
		found: map[string]bool{}, moves: map[uint32]string{},
	}
}

// add watches one directory; a link is followed at the root only. That something else is there is an error.
func (t *tree) add(name string) error {
	mask := uint32(watchMask)
	if name != "." {
		mask |= unix.IN_DONT_FOLLOW
	}
	if len(t.byWD) >= maxWatches {
		return errorf(Exhausted, "more than %d directories are below %s: watch fewer of them", maxWatches, t.root)
	}
	wd, err := unix.InotifyAddWatch(t.fd, filepath.Join(t.root, name), mask)
	if err != nil {
		return err
	}
	if old, watched := t.byWD[int32(wd)]; watched { // under the name that it had before
		delete(t.byName, old)
	}
	t.byWD[int32(wd)], t.byName[name] = name, int32(wd)
	return nil
}

// enter watches a directory and all below it, and calls found for each entry, in whatever order
// they are read. It is no error that the directory is gone again.
func (t *tree) enter(name string, found func(string, fs.DirEntry) error) error {
	err := t.add(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.scan(name, func(name string, e fs.DirEntry) error {
		if len(t.found) >= 2*maxPending { // the kernel's queue was never empty; an event may come twice
			clear(t.found)
		}
		t.found[name] = true
		return found(name, e)
	})
}

// scan calls found for each entry of a directory that is watched, and enters the directories among them.
func (t *tree) scan(name string, found func(string, fs.DirEntry) error) error {
	below, err := t.readDir(name, found)
	if err != nil {
		return err
	}
	for _, dir := range below {
		if err := t.add(dir); gone(err) {
			continue
		} else if err != nil {
			return err
		}
		if err := t.scan(dir, found); err != nil {
			return err
		}
	}
	return nil
}

// readDir calls found for each entry and returns the directories.
func (t *tree) readDir(name string, found func(string, fs.DirEntry) error) ([]string, error) {
	flags := os.O_RDONLY | syscall.O_DIRECTORY
	if name != "." {
		flags |= syscall.O_NOFOLLOW
	}
	dir, err := os.OpenFile(filepath.Join(t.root, name), flags, 0)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	var below []string
	for {
		entries, err := dir.ReadDir(readAtOnce)
		for _, e := range entries {
			if err := t.foundEntry(name, e, &below, found); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) || gone(err) {
			return below, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (t *tree) foundEntry(dir string, e fs.DirEntry, below *[]string, found func(string, fs.DirEntry) error) error {
	if isTemporary(e.Name()) {
		return nil
	}
	name := filepath.Join(dir, e.Name())
	if e.IsDir() {
		if len(*below) >= maxWatches {
			return errorf(Exhausted, "more than %d directories are in %s: watch fewer of them", maxWatches, t.root)
		}
		*below = append(*below, name)
	}
	return found(name, e)
}

// gone reports whether err says that there is no such directory, or something else in its place.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// drop forgets a directory that has been removed.
func (t *tree) drop(name string) {
	if wd, watched := t.byName[name]; watched {
		t.forget(wd)
	}
}

// dropAll stops to watch a directory that has moved away, and all below it.
func (t *tree) dropAll(name string) {
	for dir, wd := range t.byName {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			_, _ = unix.InotifyRmWatch(t.fd, uint32(wd)) // fails when it is gone
			t.forget(wd)
		}
	}
}

func (t *tree) forget(wd int32) {
	name := t.byWD[wd]
	delete(t.byWD, wd)
	if t.byName[name] == wd {
		delete(t.byName, name)
	}
}

// settle is called when the kernel's queue is empty: of what scans have found, it has nothing
// more to tell.
func (t *tree) settle() { clear(t.found) }

// known reports whether a scan has reported already what a notice tells of name.
func (t *tree) known(name string, mask uint32) bool {
	const changesName = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM
	if mask&changesName == 0 || !t.found[name] {
		return false
	}
	delete(t.found, name)
	return mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0
}

// temporary remembers a temporary name that goes.
func (t *tree) temporary(e notice) {
	if e.mask&unix.IN_MOVED_FROM == 0 {
		return
	}
	if len(t.moves) >= maxMoves { // of moves to where nobody watches
		clear(t.moves)
	}
	t.moves[e.cookie] = TemporaryNew
	if strings.HasPrefix(e.name, TemporaryReplacement) {
		t.moves[e.cookie] = TemporaryReplacement
	}
}

// arrived returns the kind of temporary name that a name's file had before, or nothing.
func (t *tree) arrived(e notice) string {
	if e.mask&unix.IN_MOVED_TO == 0 {
		return ""
	}
	kind := t.moves[e.cookie]
	delete(t.moves, e.cookie)
	return kind
}

// decode calls handle for each event in buf. Those of directories that are not watched any more
// are left out.
func (t *tree) decode(buf []byte, handle func(notice) error) error {
	for len(buf) >= unix.SizeofInotifyEvent {
		e := notice{
			wd:     int32(binary.NativeEndian.Uint32(buf)),
			mask:   binary.NativeEndian.Uint32(buf[4:]),
			cookie: binary.NativeEndian.Uint32(buf[8:]),
		}
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:end], []byte{0})
		e.name, buf = string(name), buf[end:]
		var watched bool
		if e.dir, watched = t.byWD[e.wd]; !watched && e.mask&unix.IN_Q_OVERFLOW == 0 {
			continue
		}
		if err := handle(e); err != nil {
			return err
		}
	}
	return nil
}
